"""Scorers that learn the normal class only: Mahalanobis distance, nearest neighbours."""

import json

import numpy as np
import pytest
from scipy.special import expit
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from hiprobe.store import HiProbeError
from hiprobe.store.scorers import fit_scorer, needs_anomalies, scorer_from_json
from hiprobe.store.scorers.mahalanobis import MAX_DIRECTIONS


def samples(num_normal, num_features, num_anomalous=0, shift=1.0, seed=0):
    """Correlated normal samples in a few directions, and anomalous ones off them."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(5, num_features))
    total = num_normal + num_anomalous
    states = rng.normal(size=(total, 5)) @ mixing + rng.normal(0, 0.3, (total, num_features))
    states[:, 0] *= 500  # a massive activation
    is_anomalous = np.arange(total) >= num_normal
    states[is_anomalous, num_features // 2 :] += shift
    return states, is_anomalous


@pytest.mark.parametrize(("num_normal", "num_features"), [(12, 300), (60, 300), (250, 40)])
def test_the_mahalanobis_distance_is_that_of_scikit_learns_ledoit_wolf(num_normal, num_features):
    states, labels = samples(num_normal, num_features)
    scorer = fit_scorer("mahalanobis", states, labels)
    z = (states - states.mean(0)) / states.std(0)
    model = LedoitWolf(assume_centered=True).fit(z)
    others, _ = samples(20, num_features, seed=1)
    z_others = (others - states.mean(0)) / states.std(0)
    expected = np.sqrt(model.mahalanobis(z_others) / num_features)
    np.testing.assert_allclose(scorer.distances(scorer.standardised(others)), expected, rtol=1e-5)


def test_with_more_samples_than_directions_are_kept_the_rest_has_its_mean_variance():
    num_features = 200
    states, labels = samples(400, num_features)
    scorer = fit_scorer("mahalanobis", states, labels)
    assert scorer.directions.shape == (MAX_DIRECTIONS, num_features)
    z = (states - states.mean(0)) / states.std(0)
    covariance = LedoitWolf(assume_centered=True).fit(z).covariance_
    values, vectors = np.linalg.eigh(covariance)
    values[: num_features - MAX_DIRECTIONS] = values[: num_features - MAX_DIRECTIONS].mean()
    others = scorer.standardised(samples(30, num_features, 30)[0])
    expected = np.sqrt((((others @ vectors) ** 2) / values).sum(1) / num_features)
    np.testing.assert_allclose(scorer.distances(others), expected, rtol=1e-5)


def test_the_nearest_distance_is_that_of_scikit_learn():
    states, labels = samples(40, 30)
    scorer = fit_scorer("nearest", states, labels)
    others = scorer.standardised(samples(10, 30, seed=1)[0])
    found, _ = NearestNeighbors(n_neighbors=5).fit(scorer.standardised(states)).kneighbors(others)
    np.testing.assert_allclose(scorer.distances(others), found.mean(1) / np.sqrt(30), rtol=1e-5)


@pytest.mark.parametrize("kind", ["mahalanobis", "nearest", "distance"])
def test_anomalous_samples_need_not_be_there_and_are_found_all_the_same(kind):
    assert not needs_anomalies(kind)
    states, labels = samples(60, 300)
    scorer = fit_scorer(kind, states, labels)
    test, is_anomalous = samples(40, 300, 40, shift=4.0)
    assert roc_auc_score(is_anomalous, scorer.logits(test)) > 0.9


@pytest.mark.parametrize("kind", ["mahalanobis", "nearest"])
def test_new_normal_samples_score_in_the_middle_though_features_outnumber_samples(kind):
    """The distances of the samples learnt from are far smaller than those of any other."""
    states, labels = samples(90, 300)
    scorer = fit_scorer(kind, states[:45], labels[:45])
    assert abs(scorer.logits(states[45:]).mean()) < 0.5
    assert scorer.logits(states[:45]).mean() < -0.8


@pytest.mark.parametrize("kind", ["mahalanobis", "nearest"])
@pytest.mark.parametrize("num_normal", [1, 2, 3, 700])
def test_a_scorer_comes_back_from_json(kind, num_normal):
    states, labels = samples(num_normal, 24, 4)
    states[:, 7] = 3.0
    scorer = fit_scorer(kind, states, labels)
    content = json.loads(json.dumps(scorer.to_json(), allow_nan=False))
    again = scorer_from_json(content)
    assert again.num_features == 24
    assert np.isfinite(scorer.logits(states)).all()
    np.testing.assert_array_equal(again.logits(states), scorer.logits(states))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("nearest", {"kept": {"shape": [2, 24], "base64": "AAAA"}}, "has 3 bytes"),
        ("nearest", {"kept": {"shape": [2, 9], "base64": ""}}, "expected 24 columns"),
        ("nearest", {"kept": {"shape": [1, 24], "base64": "%"}}, "damaged"),
        ("nearest", {"num_neighbours": 99}, "num_neighbours is 99, of 6 samples"),
        ("mahalanobis", {"variances": [1.0]}, "directions have 1 variances"),
        ("mahalanobis", {"other_variance": 0.0}, "above 0"),
        ("mahalanobis", {"scale": [1.0]}, "mean has 24 numbers, scale 1"),
    ],
)
def test_a_damaged_one_is_refused(kind, change, message):
    content = fit_scorer(kind, *samples(6, 24)).to_json() | change
    with pytest.raises(HiProbeError, match=message):
        scorer_from_json(content)


@pytest.mark.parametrize("kind", ["mahalanobis", "nearest", "sklearn.svm:OneClassSVM"])
def test_what_lies_very_far_away_is_still_ranked(kind):
    """Single segments lie many deviations of means over videos away; 1.0 would be a tie of all."""
    states, labels = samples(90, 300)
    normal = states[:45]
    scorer = fit_scorer(kind, normal, labels[:45])
    # A kernel forgets how far away lies what is far away.
    farthest = 3 if kind == "sklearn.svm:OneClassSVM" else 1000
    steps = np.linspace(1, farthest, 20)[:, None]
    scores = expit(scorer.logits(normal.mean(axis=0) + steps * normal.std(axis=0)))
    assert (np.diff(scores) > 0).all()
    assert scores[-1] < 1
