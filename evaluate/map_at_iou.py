"""Temporal detection: mean average precision of the intervals at overlap (IoU) thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.store.localization import intervals
from hiprobe.store.manifest import Annotations

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class ScoredInterval:
    """One detected interval.

    Attributes
    ----------
    video_id : str
    start_frame, stop_frame : int
        Half-open.
    confidence : float
        The highest smoothed score inside.
    """

    video_id: str
    start_frame: int
    stop_frame: int
    confidence: float


def scored_intervals(scored: ScoredSegments) -> list[ScoredInterval]:
    """The intervals whose smoothed score is above the threshold, of all videos."""
    found = []
    is_anomalous = scored.is_anomalous
    for video_id, own in scored.of_each_video():
        start, stop, smoothed = (
            values[own] for values in (scored.start_frame, scored.stop_frame, scored.smoothed)
        )
        for first, last in intervals(is_anomalous[own], start, stop):
            inside = (start < last) & (stop > first)
            found.append(ScoredInterval(video_id, first, last, float(smoothed[inside].max())))
    return found


def average_precision_at_iou(
    detected: Sequence[ScoredInterval],
    annotations: Mapping[str, Sequence[tuple[int, int]]],
    iou_threshold: float,
) -> float | None:
    """Average precision of detected intervals, classes aside.

    Parameters
    ----------
    detected : sequence of ScoredInterval
    annotations : mapping of str to sequence of (int, int)
        True intervals by video id, half-open.
    iou_threshold : float in (0, 1]
        Least intersection over union, in frames, of a hit.

    Returns
    -------
    float in [0, 1] or None
        None without a true interval.

    Notes
    -----
    From the highest confidence down, an interval hits the true
    interval that it overlaps most among those not hit before; a second hit of the same is a false
    one. The area is the step-wise sum of precision over recall, not interpolated. Of intervals
    with the same confidence the order is that of the videos. As VadCLIP and ActivityNet count hits,
    but there each class has its own intervals; here there is one.
    """
    num_true = sum(map(len, annotations.values()))
    if not num_true:
        return None
    # A true interval is hit once: further intervals on it would be rewarded for breaking it up.
    taken: set[tuple[str, int]] = set()
    hits = []
    # Sorting is stable, so ties stay in the order of the videos.
    for one in sorted(detected, key=lambda interval: -interval.confidence):
        overlaps = [
            (_iou(one, truth), (one.video_id, number))
            for number, truth in enumerate(annotations.get(one.video_id, ()))
        ]
        free = [(iou, key) for iou, key in overlaps if iou >= iou_threshold and key not in taken]
        hits.append(bool(free))
        if free:
            taken.add(max(free)[1])
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[np.array(hits, bool)].sum() / num_true)


def mean_average_precision(scored: ScoredSegments) -> dict[str, float | None]:
    """Average precision at each of `IOU_THRESHOLDS` and ``mean``, their mean; classes aside."""
    return _at_thresholds(scored_intervals(scored), _annotations(scored))


def precision_by_category(scored: ScoredSegments) -> dict[str, Any] | None:
    """Each category by itself: its videos and the normal ones.

    Returns
    -------
    dict or None
        ``categories``: by name what `mean_average_precision` gives; ``mean``: at each threshold
        the mean over categories. None where no anomalous video with annotations has a category.

    Notes
    -----
    A score tells no category, so an interval counts as of its video's, as if something else had
    told it: an upper bound for methods that name what they see. VadCLIP's per-class mAP ranks, for
    each class, intervals of that class's own score in all videos, and cannot be had from one score.
    """
    anomalous = scored.videos["label"] == "anomalous"
    annotated = anomalous & (scored.videos["annotations"].map(len) > 0)
    names = sorted(set(scored.videos["category"][annotated]) - {""})
    if not names:
        return None
    detected, annotations = scored_intervals(scored), _annotations(scored)
    categories = {}
    for name in names:
        chosen = scored.videos.index[~anomalous | (scored.videos["category"] == name)]
        own = {str(video_id): annotations[str(video_id)] for video_id in chosen}
        categories[str(name)] = _at_thresholds([d for d in detected if d.video_id in own], own)
    keys = next(iter(categories.values()))
    means = {key: float(np.mean([at[key] for at in categories.values()])) for key in keys}
    return {"mean": means, "categories": categories}


def _annotations(scored: ScoredSegments) -> dict[str, Annotations]:
    """The true intervals by video id."""
    return {str(video_id): ranges for video_id, ranges in scored.videos["annotations"].items()}


def _at_thresholds(
    detected: Sequence[ScoredInterval], annotations: Mapping[str, Sequence[tuple[int, int]]]
) -> dict[str, float | None]:
    """Average precision at each overlap, and the mean of them."""
    at = {
        f"{threshold:g}": average_precision_at_iou(detected, annotations, threshold)
        for threshold in IOU_THRESHOLDS
    }
    values = [value for value in at.values() if value is not None]
    return at | {"mean": float(np.mean(values)) if values else None}


def _iou(one: ScoredInterval, truth: tuple[int, int]) -> float:
    """Intersection over union, in frames."""
    start, stop = truth
    overlap = min(one.stop_frame, stop) - max(one.start_frame, start)
    union = max(one.stop_frame, stop) - min(one.start_frame, start)
    return max(overlap, 0) / union
