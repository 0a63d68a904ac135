"""Average precision of intervals, on examples worked out by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hiprobe.evaluate.map_at_iou import (
    IOU_THRESHOLDS,
    ScoredInterval,
    average_precision_at_iou,
    mean_average_precision,
    precision_by_category,
    scored_intervals,
)
from hiprobe.evaluate.test_set import TestSet

TRUTH = {"a": [(0, 100), (200, 300)], "b": [(50, 150)], "n": []}


def ap(iou, *detections):
    return average_precision_at_iou([ScoredInterval(*one) for one in detections], TRUTH, iou)


def test_exact_intervals_are_perfect():
    found = [("a", 0, 100, 0.9), ("a", 200, 300, 0.8), ("b", 50, 150, 0.7)]
    assert ap(1.0, *found) == 1.0


def test_false_and_missing_intervals_cost():
    # Highest first: false, hit, hit, and one is never found: (1/2 + 2/3) / 3.
    found = [("n", 0, 50, 0.9), ("a", 0, 100, 0.8), ("b", 50, 150, 0.7)]
    assert ap(0.5, *found) == pytest.approx((1 / 2 + 2 / 3) / 3)


def test_the_threshold_is_intersection_over_union():
    half = [("b", 50, 100, 0.9)]  # 50 frames of 100
    assert ap(0.5, *half) == pytest.approx(1 / 3)
    assert ap(0.51, *half) == 0.0


def test_a_second_hit_of_the_same_is_false():
    found = [("b", 50, 150, 0.9), ("b", 60, 150, 0.8), ("a", 0, 100, 0.7)]
    assert ap(0.5, *found) == pytest.approx((1 + 2 / 3) / 3)


def test_an_interval_takes_the_true_interval_that_it_overlaps_most():
    truth = {"v": [(0, 10), (10, 100)]}
    found = [ScoredInterval("v", 0, 100, 0.9), ScoredInterval("v", 0, 10, 0.8)]
    assert average_precision_at_iou(found, truth, 0.1) == 1.0


def test_nothing_found_is_0_and_nothing_to_find_is_undefined():
    assert ap(0.5) == 0.0
    assert average_precision_at_iou([ScoredInterval("n", 0, 9, 1.0)], {"n": []}, 0.5) is None


def random_scored(categories, seed=0):
    """Videos of 20 segments; the anomalous ones have an event each, which scores a bit higher."""
    rng = np.random.default_rng(seed)
    names = [f"v{number}" for number in range(len(categories))]
    videos = pd.DataFrame(
        {
            "label": ["anomalous" if name else "normal" for name in categories],
            "category": [name.strip("?") for name in categories],
            "num_frames": 480,
            "fps": 25.0,
            "annotations": [((48, 200), (300, 420)) if name else () for name in categories],
        },
        index=pd.Index(names, name="video_id"),
    )
    starts = np.tile(np.arange(20) * 24, len(names))
    table = pd.DataFrame(
        {"video_id": np.repeat(names, 20), "start_frame": starts, "stop_frame": starts + 24}
    )
    test = TestSet.of_videos(videos, Path("m")).with_segments(table)
    scores = rng.random(len(table)) + 0.3 * (test.segments.num_anomalous > 0)
    return test.score(scores, sigma=0.4, threshold=0.6)


def test_a_category_is_measured_on_its_videos_and_the_normal_ones():
    scored = random_scored(["Fire", "", "Fall", "Fire", "", "Fall", "Fire"])
    found = precision_by_category(scored)
    assert set(found["categories"]) == {"Fire", "Fall"}
    for name, at in found["categories"].items():
        chosen = scored.videos[scored.videos["category"].isin([name, ""])]
        detected = [one for one in scored_intervals(scored) if one.video_id in chosen.index]
        for iou in IOU_THRESHOLDS:
            expected = average_precision_at_iou(detected, chosen["annotations"].to_dict(), iou)
            assert at[f"{iou:g}"] == pytest.approx(expected, abs=1e-12)
            assert 0 < expected < 1
    both = [at["0.3"] for at in found["categories"].values()]
    assert found["mean"]["0.3"] == pytest.approx(np.mean(both))


def test_one_category_is_all_there_is_and_none_is_none():
    scored = random_scored(["Fire", "", "Fire"])
    assert precision_by_category(scored)["mean"] == mean_average_precision(scored)
    assert precision_by_category(random_scored(["?", "", "?"])) is None
    assert precision_by_category(random_scored(["", ""])) is None
