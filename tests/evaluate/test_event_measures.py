"""Events, alarms and delays against the definitions, followed frame by frame."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from hiprobe.evaluate.event_measures import FALSE_ALARMS_PER_HOUR, event_measures
from hiprobe.evaluate.low_false_positives import partial_auc, threshold_at
from hiprobe.evaluate.metrics import Ranking
from hiprobe.evaluate.test_set import TestSet


def random_scored(seed, fps=0.02):
    """Some videos of uneven segments and few distinct scores; 72 frames are an hour."""
    rng = np.random.default_rng(seed)
    rows, segments = {}, []
    for number in range(rng.integers(1, 6)):
        edges = np.unique(np.append(rng.integers(1, 60, rng.integers(0, 12)), [0, 60]))
        cuts = np.sort(rng.choice(61, 2 * rng.integers(0, 4), replace=False)).tolist()
        ranges = tuple(zip(cuts[::2], cuts[1::2], strict=True))
        label = "anomalous" if ranges else "normal"
        rows[f"v{number}"] = (label, "", 60, fps, ranges)
        segments += [(f"v{number}", a, b) for a, b in itertools.pairwise(edges)]
    columns = ["label", "category", "num_frames", "fps", "annotations"]
    videos = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("video_id")
    table = pd.DataFrame(segments, columns=["video_id", "start_frame", "stop_frame"])
    test = TestSet.of_videos(videos, Path("m")).with_segments(table)
    scores = rng.integers(-4, 4, len(table)) / 4.0
    return test.score(scores, sigma=rng.choice([0, 0.4]), threshold=rng.integers(-4, 4) / 4.0)


def frames_of(scored):
    """Of each video the score and the truth of every frame."""
    found = []
    for (_, own), ranges in zip(scored.of_each_video(), scored.videos["annotations"], strict=True):
        lengths = scored.stop_frame[own] - scored.start_frame[own]
        truth = np.zeros(lengths.sum(), bool)
        for start, stop in ranges:
            truth[start:stop] = True
        found.append((np.repeat(scored.smoothed[own], lengths), truth, ranges))
    return found


def point_by_frames(frames, is_flagged, fps):
    """Alarms, events and delays, one frame after the other."""
    false_alarms, delays, num_events, normal = 0, [], 0, 0
    for scores, truth, ranges in frames:
        flags = is_flagged(scores)
        frame = 0
        for flag, run in itertools.groupby(flags):
            length = len(list(run))
            false_alarms += bool(flag) and not truth[frame : frame + length].any()
            frame += length
        for start, stop in ranges:
            num_events += 1
            delays += np.flatnonzero(flags[start:stop])[:1].tolist()
        normal += (~truth).sum()
    hours = normal / fps / 3600
    return {
        "num_found": len(delays),
        "recall": len(delays) / num_events if num_events else None,
        "num_false_alarms": false_alarms,
        "false_alarms_per_hour": false_alarms / hours if hours else None,
        "delay_frames": (delays
        and {"mean": np.mean(delays), "median": np.median(delays)})
        or None,
        "delay_seconds": (delays
        and {"mean": np.mean(delays) / fps, "median": np.median(delays) / fps})
        or None,
    }  # fmt: skip


def same(found, expected):
    for name, value in expected.items():
        assert found[name] == (value if value is None else pytest.approx(value, abs=1e-9)), name


@given(st.integers(0, 1_000_000))
def test_events_and_alarms_are_those_of_the_frames(seed):
    scored, fps = random_scored(seed), 0.02
    frames, measured = frames_of(scored), event_measures(scored)
    same(
        measured["at_threshold"],
        point_by_frames(frames, lambda scores: scores > scored.threshold, fps),
    )
    thresholds = sorted(set(scored.smoothed), reverse=True)
    normal = sum((~truth).sum() for _, truth, _ in frames)
    assert measured["normal_hours"] == pytest.approx(normal / fps / 3600)
    for rate in FALSE_ALARMS_PER_HOUR:
        point = measured["at_false_alarms_per_hour"][f"{rate:g}"]
        if not normal:
            assert point is None
            continue
        # From the highest down, until one exceeds the rate.
        chosen = None
        for threshold in thresholds:
            at = point_by_frames(frames, lambda scores, t=threshold: scores >= t, fps)
            if at["false_alarms_per_hour"] > rate:
                break
            chosen = threshold
        assert point["threshold"] == chosen
        lowest = np.inf if chosen is None else chosen
        same(point, point_by_frames(frames, lambda scores, t=lowest: scores >= t, fps))


@given(st.integers(0, 1_000_000))
def test_the_left_of_the_roc_curve_is_that_of_the_frames(seed):
    scored = random_scored(seed)
    scores, truth = (np.concatenate(parts) for parts in list(zip(*frames_of(scored)))[:2])
    ranking = scored.ranking(scored.smoothed)
    for rate in (0.01, 0.05, 0.3, 0.9):
        if len(set(truth)) < 2:
            assert threshold_at(ranking, rate) is None
            assert partial_auc(ranking, rate) is None
            continue
        assert partial_auc(ranking, rate) == pytest.approx(
            roc_auc_score(truth, scores, max_fpr=rate), abs=1e-12
        )
        false, true, thresholds = roc_curve(truth, scores, drop_intermediate=False)
        last = np.flatnonzero(false <= rate)[-1]
        expected = true[last], None if np.isinf(thresholds[last]) else thresholds[last]
        assert threshold_at(ranking, rate) == pytest.approx(expected)
    if len(set(truth)) == 2:
        at = event_measures(scored)["at_false_positive_rate"]["0.05"]
        flagged = np.inf if at["threshold"] is None else at["threshold"]
        same(at, point_by_frames(frames_of(scored), lambda scores: scores >= flagged, 0.02))


def test_a_curve_that_ends_early_has_a_partial_area():
    ranking = Ranking(np.array([1.0, 1.0]), np.array([3, 0]), np.array([0, 5]))
    assert partial_auc(ranking, 0.05) == pytest.approx(0.5)


def test_an_alarm_that_covers_everything_is_not_a_way_to_few_alarms():
    """One alarm a video is few, but on the way down to it there were many."""
    scores = np.array([0.9, 0.1, 0.8, 0.1, 0.7, 0.1] * 2)
    starts = np.tile(np.arange(6) * 10, 2)
    table = pd.DataFrame(
        {"video_id": ["n"] * 6 + ["a"] * 6, "start_frame": starts, "stop_frame": starts + 10}
    )
    videos = pd.DataFrame(
        {
            "label": ["normal", "anomalous"],
            "category": "",
            "num_frames": 60,
            "fps": 100 / 3600,
            "annotations": [(), ((10, 20),)],
        },
        index=pd.Index(["n", "a"], name="video_id"),
    )
    test = TestSet.of_videos(videos, Path("m")).with_segments(table)
    measured = event_measures(test.score(scores, sigma=0, threshold=0.5))
    assert measured["normal_hours"] == pytest.approx(1.1)
    assert measured["at_threshold"]["num_false_alarms"] == 6
    # All twelve segments flagged are one false alarm: the video that has no event.
    assert measured["at_false_alarms_per_hour"]["1"]["recall"] == 0.0
    assert measured["at_false_alarms_per_hour"]["6"]["recall"] == 1.0
    assert measured["at_false_alarms_per_hour"]["1"]["threshold"] is None


def test_without_a_frame_rate_there_are_no_hours_but_shares():
    # All is flagged, so that whatever event there is was found.
    measured = event_measures(replace(random_scored(3, fps=np.nan), threshold=-9.0))
    assert measured["normal_hours"] is None
    assert set(measured["at_false_alarms_per_hour"].values()) == {None}
    assert measured["at_threshold"]["delay_seconds"] is None
    assert measured["at_threshold"]["delay_frames"] is not None
    assert measured["at_false_positive_rate"]["0.05"]["false_alarms_per_hour"] is None
