"""The variants of a score, among them those that a threshold makes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from hiprobe.evaluate.scored import ScoredSegments


def make_scored(scores, num_anomalous, num_normal, threshold):
    """One video, its segments one after the other."""
    stops = np.cumsum(num_anomalous + num_normal)
    videos = pd.DataFrame({"label": ["anomalous"]}, index=["v"])
    video = np.zeros(len(scores), int)
    return ScoredSegments(
        videos, video, np.append(0, stops[:-1]), stops, num_anomalous, num_normal,
        raw=scores, smoothed=scores, threshold=threshold,
    )  # fmt: skip


def test_a_perfect_ranking_of_logits_stays_perfect_when_localized():
    logits = np.array([-9.0, -8.5, -3.0, -2.0, -0.5])
    truth = np.array([0, 0, 24, 24, 24])
    scored = make_scored(logits, truth, 24 - truth, threshold=-4.0)
    assert scored.areas(scored.variants["localized"]) == {"auc": 1.0, "ap": 1.0}


@given(st.integers(0, 100_000))
def test_localized_scores_rank_as_the_written_rule_says(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-8, 8, 30) / 4.0
    truth = rng.integers(0, 3, 30)
    threshold = rng.integers(-8, 8) / 4.0
    scored = make_scored(scores, truth, 2 - truth, threshold)
    found = scored.areas(scored.variants["localized"])
    frames = np.concatenate([np.ones(truth.sum()), np.zeros((2 - truth).sum())])
    if len(set(frames)) < 2:
        return
    written = np.where(scores > threshold, scores, scores.min())
    expanded = np.concatenate([np.repeat(written, truth), np.repeat(written, 2 - truth)])
    assert found["auc"] == pytest.approx(roc_auc_score(frames, expanded), abs=1e-12)
    assert found["ap"] == pytest.approx(average_precision_score(frames, expanded), abs=1e-12)


@given(st.integers(0, 100_000))
def test_with_a_threshold_of_0_or_more_0_in_the_lowests_place_is_the_same(seed):
    """So every figure of scores in [0, 1] is what it was when 0 stood there."""
    rng = np.random.default_rng(seed)
    scores, truth = rng.normal(size=30), rng.integers(0, 25, 30)
    threshold = abs(rng.normal())
    scored = make_scored(scores, truth, 24 - truth, threshold)
    with_zero = np.where(scores > threshold, scores, 0.0)
    assert scored.areas(scored.variants["localized"]) == scored.areas(with_zero)
