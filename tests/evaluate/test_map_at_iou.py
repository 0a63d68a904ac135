"""Average precision of intervals, on examples worked out by hand."""

import pytest

from hiprobe.evaluate.map_at_iou import ScoredInterval, average_precision_at_iou

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
