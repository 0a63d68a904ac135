"""Heads judged all at once, against a plain loop with scikit-learn and SciPy."""

import numpy as np
import pytest

from benchmarks.head_speed import criteria_by_the_loop
from hiprobe.probe.robust_heads import head_criteria, judge_heads


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    is_anomalous = np.arange(60) % 3 == 0
    states = rng.normal(size=(60, 7, 16)).astype(np.float32) * 3 + 100
    states[is_anomalous, 2, :5] += 4
    states[is_anomalous, 4] *= 1.02
    return states, is_anomalous


def test_heads_at_once_equal_a_loop_over_heads(samples):
    states, is_anomalous = samples
    np.testing.assert_allclose(
        head_criteria(states, is_anomalous),
        criteria_by_the_loop(states, is_anomalous),
        rtol=1e-6,
        atol=1e-9,
    )


def test_fewer_samples_than_features_are_no_trouble(samples):
    states, is_anomalous = samples
    few, own = states[:8], is_anomalous[:8]
    np.testing.assert_allclose(
        head_criteria(few, own)[:, 1:], criteria_by_the_loop(few, own)[:, 1:], rtol=1e-6, atol=1e-9
    )
    assert np.isfinite(head_criteria(few, own)).all()


def test_what_is_constant_tells_nothing(samples):
    states, is_anomalous = samples
    states[:, 3] = 7.0
    np.testing.assert_array_equal(head_criteria(states, is_anomalous)[3], 0)


def test_criteria_do_not_change_when_a_head_is_turned(samples):
    """A rotation and a shift of a head's space changes no distance."""
    states, is_anomalous = samples
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))
    np.testing.assert_allclose(
        head_criteria(states.astype(float) @ turn + 3, is_anomalous),
        head_criteria(states, is_anomalous),
        rtol=1e-6,
    )


def test_the_head_that_tells_under_every_prompt_is_the_most_robust():
    rng = np.random.default_rng(3)
    is_anomalous = np.arange(80) % 2 == 0
    states = {(prompt, layer): rng.normal(size=(80, 4, 8)) for prompt in "xyz" for layer in (5, 6)}
    for prompt in "xyz":
        states[prompt, 6][is_anomalous, 1] += 2
    states["x", 5][is_anomalous, 3] += 2.5  # better still, but under one prompt only
    found = judge_heads(lambda *key: states[key], "xyz", [5, 6], is_anomalous)
    assert found.best(1) == [(6, 1)]
    assert found.saliency[0, 0, 3] > found.saliency[0, 1, 1]
    assert found.robustness.shape == (2, 4)


def test_one_prompt_or_one_sample_is_refused(samples):
    states, is_anomalous = samples
    with pytest.raises(ValueError, match="at least 2 prompts, got 1"):
        judge_heads(lambda *key: states, "x", [1], is_anomalous)
    with pytest.raises(ValueError, match="60 normal and 0 anomalous"):
        judge_heads(lambda *key: states, "xy", [1], np.zeros(60, bool))
