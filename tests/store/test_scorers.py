import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from hiprobe.store import HiProbeError, Probe, scorers
from hiprobe.store.scorers import SCORERS, fit_scorer, scorer_class, scorer_from_json


def overlapping_classes(seed=0, num_samples=200, num_features=4):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(num_samples, num_features)) * [1, 10, 0.1, 5] + [0, 100, 3, -7]
    logits = states @ [1.0, 0.05, -3.0, 0.1] - 2.0
    return states, rng.random(num_samples) < expit(logits - logits.mean())


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_it_minimises_equation_8(l2):
    """An independent optimiser on the written-out loss finds no lower value."""
    states, is_anomalous = overlapping_classes()
    standardised = (states - states.mean(0)) / states.std(0)

    def loss(parameters):
        logits = standardised @ parameters[:-1] + parameters[-1]
        entropy = np.mean(np.logaddexp(0, logits) - is_anomalous * logits)
        return entropy + l2 / 2 * np.sum(parameters[:-1] ** 2)

    best = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    scorer = fit_scorer("logistic", states, is_anomalous, l2)
    expected = standardised @ best.x[:-1] + best.x[-1]
    np.testing.assert_allclose(scorer.logits(states), expected, atol=2e-3)


def test_separable_data_without_penalty_stays_finite():
    rng = np.random.default_rng(1)
    states = rng.normal(size=(12, 500))
    scorer = fit_scorer("logistic", states, np.arange(12) < 6, l2=0.0)
    assert np.isfinite(scorer.weight).all()
    assert scorer.num_iterations <= 1000
    assert ((scorer.logits(states) > 0) == (np.arange(12) < 6)).all()


def test_a_dimension_that_does_not_vary_has_no_weight():
    states, is_anomalous = overlapping_classes()
    states[:, 2] = 1e6
    assert fit_scorer("logistic", states, is_anomalous, l2=0.1).weight[2] == 0.0


def test_the_unit_of_a_dimension_does_not_matter():
    states, is_anomalous = overlapping_classes()
    one = fit_scorer("logistic", states, is_anomalous, l2=0.1)
    two = fit_scorer("logistic", states * [1000, 1, 0.01, 1], is_anomalous, l2=0.1)
    np.testing.assert_allclose(
        one.logits(states), two.logits(states * [1000, 1, 0.01, 1]), atol=1e-6
    )


def test_the_svm_minimises_the_hinge_loss():
    states, is_anomalous = overlapping_classes()
    standardised = (states - states.mean(0)) / states.std(0)
    signs = np.where(is_anomalous, 1.0, -1.0)

    def objective(weight, bias):
        hinge = np.maximum(0, 1 - signs * (standardised @ weight + bias)).mean()
        # liblinear penalises the bias as well.
        return hinge + 0.1 / 2 * (weight @ weight + bias**2)

    scorer = fit_scorer("svm", states, is_anomalous, l2=0.1)
    weight = scorer.weight * states.std(0)
    bias = scorer.bias + scorer.weight @ states.mean(0)
    own = objective(weight, bias)
    rng = np.random.default_rng(0)
    for _ in range(300):
        assert (
            objective(weight + 0.05 * rng.normal(size=4), bias + 0.05 * rng.normal()) > own - 1e-6
        )


def test_an_svm_without_penalty_is_refused():
    with pytest.raises(ValueError, match="needs a penalty"):
        fit_scorer("svm", *overlapping_classes(), l2=0.0)


def test_the_distance_is_in_deviations_of_the_normal_class():
    states, is_anomalous = overlapping_classes()
    states[:, 3] = 7.0
    scorer = fit_scorer("distance", states, is_anomalous)
    normal = states[~is_anomalous]
    deviations = (states[:, :3] - normal[:, :3].mean(0)) / normal[:, :3].std(0)
    expected = np.sqrt((deviations**2).sum(axis=1) / 4)
    np.testing.assert_allclose(scorer.distances(states), expected)
    logits = scorer.logits(states)
    assert logits.mean() == pytest.approx(0, abs=1e-9)
    assert logits.std() == pytest.approx(1)


@pytest.mark.parametrize("kind", SCORERS)
def test_a_scorer_survives_json(kind):
    states, is_anomalous = overlapping_classes()
    states[:, 3] = 7.0
    scorer = fit_scorer(kind, states, is_anomalous)
    again = scorer_from_json(json.loads(json.dumps(scorer.to_json())))
    np.testing.assert_array_equal(again.logits(states), scorer.logits(states))


def test_unknown_kinds_are_refused():
    with pytest.raises(HiProbeError, match="expected logistic, svm, distance"):
        fit_scorer("forest", *overlapping_classes())
    with pytest.raises(HiProbeError, match="of kind 'forest'"):
        scorer_from_json({"kind": "forest"})


NEW_SCORER = """
import numpy as np
from hiprobe.store.scorers.linear import LinearScorer


class MeansScorer(LinearScorer):
    kind = "means"
    takes_penalty = False

    @classmethod
    def fit(cls, states, is_anomalous, l2):
        weight = states[is_anomalous].mean(axis=0) - states[~is_anomalous].mean(axis=0)
        return cls(weight, -float(weight @ states.mean(axis=0)), 0.0, 0)
"""


def test_a_new_scorer_is_one_file_and_one_line(tmp_path, monkeypatch):
    (tmp_path / "means.py").write_text(NEW_SCORER)
    monkeypatch.setattr(scorers, "__path__", [*scorers.__path__, str(tmp_path)])
    monkeypatch.setitem(scorers._CLASSES, "means", "means:MeansScorer")
    states, is_anomalous = overlapping_classes()
    scorer = fit_scorer("means", states, is_anomalous)
    probe = Probe({}, 1, {}, scorer.to_json(), {"value": 0.5}, {"video_ids": []})
    probe.save(tmp_path / "probe.json")
    again = Probe.load(tmp_path / "probe.json")
    assert again.num_features == 4
    np.testing.assert_array_equal(again.score(states), expit(scorer.logits(states)))


def test_each_scorer_names_itself_as_the_registry_does():
    assert {kind: scorer_class(kind).kind for kind in SCORERS} == {kind: kind for kind in SCORERS}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "of kind 'None', expected logistic, svm, distance"),
        ({"kind": "svm", "weight": [1.0]}, "the probe's svm scorer lacks 'bias': make it again"),
        ({"kind": "distance", "scale": 1}, "the probe's distance scorer is damaged"),
        ({"kind": "logistic", "weight": ["x"]}, "the probe's logistic scorer is damaged"),
    ],
)
def test_a_damaged_scorer_is_one_message(content, message):
    with pytest.raises(HiProbeError, match=message):
        scorer_from_json(content)


def test_names_of_scorers_cost_no_import():
    code = (
        "import sys; from hiprobe.store.scorers import DEFAULT_L2, SCORERS; "
        "print({'sklearn', 'scipy', 'numpy', 'zarr'} & {*sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
