"""Scorers that the user names: any scikit-learn estimator, stored by skops, never by pickle."""

import base64
import io
import json
import sys
import zipfile

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import GaussianNB

from hiprobe.store import HiProbeError
from hiprobe.store.scorers import fit_scorer, named, needs_anomalies, scorer_from_json, trust

OWN = """
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.naive_bayes import GaussianNB

class FirstFeature(ClassifierMixin, BaseEstimator):
    def fit(self, states, labels):
        self.sign_ = 1.0 if states[labels == 1, 0].mean() > states[labels == 0, 0].mean() else -1.0
        self.classes_ = [0, 1]
        return self
    def decision_function(self, states):
        return self.sign_ * states[:, 0]

class Ragged(FirstFeature):
    def decision_function(self, states):
        return states[:, :2]

class WithoutScores:
    def fit(self, states, labels): ...

def squares():
    return make_pipeline(PolynomialFeatures(2), GaussianNB())

def needs_arguments(number): ...
"""


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    is_anomalous = np.arange(60) % 3 == 0
    states = rng.normal(100, 5, size=(60, 8))
    states[is_anomalous, 0] += 8
    return states, is_anomalous


@pytest.fixture(autouse=True)
def own_module(tmp_path, monkeypatch):
    """A module of the user's, in the folder that the user is in; what was trusted is forgotten."""
    (tmp_path / "own_scorers.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(named, "_trusted", set())
    yield
    sys.modules.pop("own_scorers", None)


def strangers(content, *trusted):
    """What a process that has fitted nothing says of a stored scorer: its log odds."""
    named._trusted.clear()
    sys.modules.pop("own_scorers", None)
    trust(*trusted)
    scorer = scorer_from_json(json.loads(json.dumps(content, allow_nan=False)))
    return scorer.logits(np.linspace(90, 110, 80).reshape(10, 8))


def test_the_decision_of_an_estimator_on_standardised_features_is_the_log_odds(samples):
    states, labels = samples
    scorer = fit_scorer("sklearn.discriminant_analysis:LinearDiscriminantAnalysis", states, labels)
    z = (states - states.mean(0)) / states.std(0)
    expected = LinearDiscriminantAnalysis().fit(z, labels).decision_function(z)
    np.testing.assert_allclose(scorer.logits(states), expected, rtol=1e-9)


def test_without_a_decision_the_log_odds_of_the_probability_are_taken(samples):
    states, labels = samples
    scorer = fit_scorer("sklearn.naive_bayes:GaussianNB", states, labels)
    z = (states - states.mean(0)) / states.std(0)
    chance = GaussianNB().fit(z, labels).predict_proba(z)
    np.testing.assert_allclose(
        scorer.logits(states), np.log(chance[:, 1] / chance[:, 0]), atol=1e-6
    )


@pytest.mark.parametrize("kind", ["sklearn.svm:OneClassSVM", "sklearn.ensemble:IsolationForest"])
def test_an_outlier_detector_learns_the_normal_samples_and_is_turned_round(samples, kind):
    states, labels = samples
    assert not needs_anomalies(kind)
    scorer = fit_scorer(kind, states[~labels], labels[~labels])
    assert roc_auc_score(labels, scorer.logits(states)) > 0.75
    with_anomalies = fit_scorer(kind, states, labels)
    np.testing.assert_array_equal(scorer.logits(states), with_anomalies.logits(states))


def test_a_scorer_of_scikit_learns_own_types_comes_back_elsewhere(samples):
    scorer = fit_scorer("sklearn.svm:SVC", *samples)
    states = np.linspace(90, 110, 80).reshape(10, 8)
    np.testing.assert_array_equal(strangers(scorer.to_json()), scorer.logits(states))


def test_a_random_forest_is_the_same_each_time_and_its_trees_have_to_be_trusted(samples):
    kind = "sklearn.ensemble:RandomForestClassifier"
    scorer = fit_scorer(kind, *samples)
    states = np.linspace(90, 110, 80).reshape(10, 8)
    np.testing.assert_array_equal(scorer.logits(states), fit_scorer(kind, *samples).logits(states))
    content = scorer.to_json()
    with pytest.raises(HiProbeError, match=r"--trust sklearn\.tree\._tree:Tree"):
        strangers(content)
    found = strangers(content, "sklearn.tree._tree:Tree")
    np.testing.assert_array_equal(found, scorer.logits(states))


def test_a_class_of_the_users_own_is_imported_only_once_it_is_trusted(samples):
    scorer = fit_scorer("own_scorers:FirstFeature", *samples)
    content = scorer.to_json()
    with pytest.raises(HiProbeError, match=r"not trusted: own_scorers\.FirstFeature"):
        strangers(content)
    assert "own_scorers" not in sys.modules
    states = np.linspace(90, 110, 80).reshape(10, 8)
    found = strangers(content, "own_scorers:FirstFeature")
    np.testing.assert_array_equal(found, scorer.logits(states))


def test_what_a_process_fitted_itself_it_reads_back_without_a_word(samples):
    content = fit_scorer("own_scorers:FirstFeature", *samples).to_json()
    assert np.isfinite(scorer_from_json(content).logits(samples[0])).all()


def test_a_function_that_makes_an_estimator_is_as_good_and_needs_no_trust(samples):
    content = fit_scorer("own_scorers:squares", *samples).to_json()
    assert len(strangers(content)) == 10


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no_such_module:Scorer", "cannot import the module 'no_such_module'"),
        ("own_scorers:NoSuchClass", "has no 'NoSuchClass'"),
        ("own_scorers:WithoutScores", "a WithoutScores without fit, or without decision_function"),
        ("own_scorers:needs_arguments", "cannot be made without arguments"),
        ("own_scorers:Ragged", r"gives values of shape \(60, 2\) for 60 samples"),
        ("sklearn.neighbors:LocalOutlierFactor", "without decision_function"),
    ],
)
def test_what_cannot_score_is_refused_by_name(samples, kind, message):
    with pytest.raises(HiProbeError, match=message):
        fit_scorer(kind, *samples).logits(samples[0])


def test_what_an_estimator_refuses_is_told_with_the_samples(samples):
    states, labels = samples
    with pytest.raises(HiProbeError, match=r"KNeighborsClassifier' refuses 3 samples|Expected"):
        fit_scorer("sklearn.neighbors:KNeighborsClassifier", states[:3], labels[:3]).logits(states)


def test_a_bomb_and_what_is_no_archive_are_refused(samples):
    content = fit_scorer("sklearn.naive_bayes:GaussianNB", *samples).to_json()
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", bytes(2**29))
    for data, message in ((bomb.getvalue(), "larger than"), (b"pickle", "not a zip file")):
        stored = content | {"skops": base64.b64encode(data).decode()}
        with pytest.raises(HiProbeError, match=message):
            scorer_from_json(stored)
