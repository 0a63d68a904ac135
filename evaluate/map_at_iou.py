"""Temporal detection: mean average precision of the intervals at overlap (IoU) thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.store.localization import intervals

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
    As in ActivityNet's evaluation: from the highest confidence down, an interval hits the true
    interval that it overlaps most among those not hit before; a second hit of the same is a false
    one. The area is the step-wise sum of precision over recall, not interpolated. Of intervals
    with the same confidence the order is that of the videos.
    """
    num_true = sum(map(len, annotations.values()))
    if not num_true:
        return None
    taken: set[tuple[str, int]] = set()
    hits = []
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
    """Average precision at each of `IOU_THRESHOLDS` and ``mean``, their mean."""
    detected = scored_intervals(scored)
    annotations = {
        str(video_id): ranges for video_id, ranges in scored.videos["annotations"].items()
    }
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
