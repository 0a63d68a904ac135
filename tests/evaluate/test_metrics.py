"""Weighted metrics against scikit-learn on the scores expanded to frames."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from sklearn.metrics import (
    auc,
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)

from hiprobe.evaluate import metrics as ours
from hiprobe.evaluate.metrics import Ranking, equal_error_rate, pair_auc
from hiprobe.store.ground_truth import anomalous_frame_counts


def random_segments(seed, num_segments=60, num_levels=15):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, num_levels, num_segments) / num_levels
    anomalous = rng.integers(0, 25, num_segments) * (rng.random(num_segments) < 0.4)
    normal = rng.integers(0, 25, num_segments)
    return scores, anomalous, normal, np.sort(rng.integers(0, 6, num_segments))


def expand(scores, anomalous, normal):
    truth = np.concatenate([np.ones(anomalous.sum()), np.zeros(normal.sum())])
    return truth, np.concatenate([np.repeat(scores, anomalous), np.repeat(scores, normal)])


@example(17464)
@given(st.integers(0, 100_000))
def test_areas_equal_scikit_learn_on_frames(seed):
    scores, anomalous, normal, _ = random_segments(seed)
    assume(anomalous.sum() and normal.sum())
    truth, expanded = expand(scores, anomalous, normal)
    result = Ranking(scores, anomalous, normal).metrics()
    precision, recall, _ = precision_recall_curve(truth, expanded)
    assert result.auc == pytest.approx(roc_auc_score(truth, expanded), abs=1e-12)
    assert result.ap == pytest.approx(average_precision_score(truth, expanded), abs=1e-12)
    assert result.pr_auc_trapezoid == pytest.approx(auc(recall, precision), abs=1e-12)


def test_a_highest_score_without_frames_changes_nothing():
    scores, anomalous, normal = np.array([0.9, 0.6, 0.3]), np.array([0, 2, 1]), np.array([0, 1, 4])
    with_empty = Ranking(scores, anomalous, normal).metrics()
    assert with_empty == Ranking(scores[1:], anomalous[1:], normal[1:]).metrics()


@given(st.integers(0, 100_000))
def test_a_resample_equals_repeating_its_videos(seed):
    scores, anomalous, normal, video = random_segments(seed)
    weights = np.random.default_rng(seed).integers(0, 3, 6)
    repeats = weights[video]
    assume((anomalous * repeats).sum() and (normal * repeats).sum())
    truth, expanded = expand(scores, anomalous * repeats, normal * repeats)
    result = Ranking(scores, anomalous, normal, video).metrics(weights.astype(float))
    assert result.auc == pytest.approx(roc_auc_score(truth, expanded), abs=1e-12)
    assert result.ap == pytest.approx(average_precision_score(truth, expanded), abs=1e-12)
    precision, recall, _ = precision_recall_curve(truth, expanded)
    assert result.pr_auc_trapezoid == pytest.approx(auc(recall, precision), abs=1e-12)


@given(st.integers(0, 100_000))
def test_pairs_split_into_within_and_cross(seed):
    scores, anomalous, normal, video = random_segments(seed)
    assume(anomalous.sum() and normal.sum())
    a, n = np.repeat(scores, anomalous), np.repeat(scores, normal)
    same = np.repeat(video, anomalous)[:, None] == np.repeat(video, normal)[None, :]
    right = (a[:, None] > n[None, :]) + 0.5 * (a[:, None] == n[None, :])
    result = pair_auc(scores, anomalous, normal, video)
    assert result["within_video_share"] == pytest.approx(same.mean())
    for name, pairs in (("within_video_auc", same), ("cross_video_auc", ~same)):
        if pairs.any():
            assert result[name] == pytest.approx(right[pairs].mean())
        else:
            assert result[name] is None


def test_f1_equals_scikit_learn():
    scores, anomalous, normal, _ = random_segments(7)
    truth, expanded = expand(scores, anomalous, normal)
    expected = f1_score(truth, expanded > 0.5)
    assert ours.f1_score(scores > 0.5, anomalous, normal) == pytest.approx(expected)


def test_equal_error_rate_of_symmetric_scores():
    scores = np.array([0.9, 0.6, 0.4, 0.1])
    anomalous, normal = np.array([3, 1, 1, 0]), np.array([0, 1, 1, 3])
    assert equal_error_rate(Ranking(scores, anomalous, normal)) == pytest.approx(
        0.2
    )  # the ROC point (0.2, 0.8)


def test_one_class_is_undefined_not_half():
    ranking = Ranking(np.array([0.1, 0.2]), np.array([0, 0]), np.array([5, 5]), np.array([0, 1]))
    assert ranking.metrics() is None
    assert ranking.bootstrap(10, 0) is None
    assert equal_error_rate(ranking) is None


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="1 scores are not finite"):
        Ranking(np.array([0.1, np.nan]), np.array([1, 0]), np.array([0, 1]))


def test_bootstrap_brackets_the_estimate_and_is_seeded():
    scores, anomalous, normal, video = random_segments(3, num_segments=400)
    ranking = Ranking(scores, anomalous, normal, video)
    interval = ranking.bootstrap(300, seed=0)["auc"]
    assert interval.low < ranking.metrics().auc < interval.high
    assert ranking.bootstrap(300, seed=0)["auc"] == interval


@given(st.integers(0, 1000), st.integers(1, 40))
def test_frames_are_counted_per_segment(seed, step):
    rng = np.random.default_rng(seed)
    num_frames = int(rng.integers(1, 300))
    edges = np.sort(
        rng.choice(num_frames + 1, size=min(4, (num_frames + 1) // 2 * 2), replace=False)
    )
    ranges = list(zip(edges[::2], edges[1::2], strict=False))
    truth = np.zeros(num_frames, dtype=bool)
    for start, stop in ranges:
        truth[start:stop] = True
    starts = np.arange(0, num_frames, step)
    stops = np.minimum(starts + step, num_frames)
    expected = [truth[a:b].sum() for a, b in zip(starts, stops, strict=True)]
    assert anomalous_frame_counts(starts, stops, ranges).tolist() == expected


def sampled_videos(rng, num_videos):
    """Videos of one population: lengths, effects of the video and anomalies differ."""
    scores, anomalous, video = [], [], []
    for index in range(num_videos):
        length = int(rng.integers(5, 40))
        is_anomalous = np.zeros(length, dtype=bool)
        if index % 2:
            start = int(rng.integers(0, length))
            is_anomalous[start : start + int(rng.integers(1, max(2, length // 2)))] = True
        effect = rng.normal(0, 0.7) + 0.5 * (index % 2)
        scores.append(effect + 0.7 * rng.normal(size=length) + is_anomalous)
        anomalous.append(24 * is_anomalous)
        video.append(np.full(length, index))
    anomalous = np.concatenate(anomalous)
    return Ranking(np.concatenate(scores), anomalous, 24 - anomalous, np.concatenate(video))


@given(st.integers(0, 100_000))
def test_the_error_of_an_auc_is_the_derivative_by_each_videos_weight(seed):
    """The influence of each video against finite differences of the weighted AUC."""
    scores, anomalous, normal, video = random_segments(seed)
    assume(anomalous.sum() and normal.sum() and video.max() == 5)
    ranking = Ranking(scores, anomalous, normal, video)
    step, influence = 1e-6, []
    for index in range(6):
        weights = np.ones(6)
        weights[index] += step
        more = ranking.metrics(weights).auc
        weights[index] -= 2 * step
        influence.append((more - ranking.metrics(weights).auc) / (2 * step))
    expected = np.sqrt(6 / 5 * np.sum(np.square(influence)))
    assert ranking.auc_standard_error() == pytest.approx(expected, abs=1e-6)


def test_for_videos_of_one_frame_the_error_is_delongs():
    """DeLong, DeLong and Clarke-Pearson (1988), but for V/(V-1) in place of each class's own."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(1, 1, 300), rng.normal(0, 1, 300)])
    anomalous = np.repeat([1, 0], 300)
    ranking = Ranking(scores, anomalous, 1 - anomalous, np.arange(600))
    wins = scores[:300, None] > scores[None, 300:]
    delong = wins.mean(axis=1).var(ddof=1) / 300 + wins.mean(axis=0).var(ddof=1) / 300
    assert ranking.auc_standard_error() == pytest.approx(np.sqrt(delong), rel=0.005)


@pytest.mark.slow
def test_the_interval_of_an_auc_covers_it_with_30_videos_where_percentiles_do_not():
    """The population's own AUC is known from 4,000 of its videos."""
    rng = np.random.default_rng(1)
    truth = sampled_videos(rng, 4000).metrics().auc
    covered = {"logit-t": 0, "bootstrap": 0}
    for trial in range(400):
        ranking = sampled_videos(rng, 30)
        for name, interval in (
            ("logit-t", ranking.auc_interval()),
            ("bootstrap", ranking.bootstrap(200, trial)["auc"]),
        ):
            covered[name] += interval.low <= truth <= interval.high
    assert covered["bootstrap"] < covered["logit-t"]
    assert 0.925 <= covered["logit-t"] / 400 <= 0.985


def test_a_ranking_without_a_mistake_has_no_interval():
    ranking = Ranking(np.array([0.9, 0.1]), np.array([5, 0]), np.array([0, 5]), np.array([0, 1]))
    assert ranking.metrics().auc == 1
    assert ranking.auc_interval() is None
    assert ranking.auc_standard_error() == 0


def test_one_video_that_pulls_hard_does_not_make_the_interval_say_nothing():
    """Whole videos count alike: the degrees of freedom are their number, whatever they scored."""
    scores = np.linspace(0, 1, 30)
    is_anomalous = np.arange(30) >= 15
    scores[29] = -1.0
    ranking = Ranking(scores, is_anomalous * 1, ~is_anomalous * 1, np.arange(30))
    found = ranking.auc_interval()
    metrics = ranking.metrics()
    assert found is not None
    assert metrics is not None
    assert metrics.auc == pytest.approx(14 / 15)
    assert 0.4 < found.low < metrics.auc < found.high < 1
