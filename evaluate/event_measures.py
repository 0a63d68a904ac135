"""Found events, false alarms an hour, and delay: what people who watch a camera ask for.

An *event* is an annotation, an *alarm* at a threshold a longest run of neighbouring segments of a
video whose scores reach it. An event is found if a frame of it is in an alarm; an alarm is false if
none of its frames is anomalous. All of it is counted per segment, for every threshold at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hiprobe.evaluate.low_false_positives import FALSE_POSITIVE_RATES, threshold_at
from hiprobe.evaluate.scored import ScoredSegments

FALSE_ALARMS_PER_HOUR = (1.0, 6.0, 60.0)


@dataclass(frozen=True)
class Events:
    """The true events of a test set, and the segments that they lie in.

    Attributes
    ----------
    start_frame : (event,) int
    fps : (event,) float64
        Of the event's video; NaN where it is not known.
    first, last : (event,) int
        The segments from `first` to before `last` hold a frame of it.
    """

    start_frame: np.ndarray
    fps: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, scored: ScoredSegments) -> Events:
        """Lay the annotations over the segments."""
        rows = [
            (video, start, stop)
            for video, ranges in enumerate(scored.videos["annotations"])
            for start, stop in ranges
        ]
        video, start, stop = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        # One number for video and frame, ascending over all segments.
        width = int(scored.stop_frame.max(initial=0)) + 1
        starts = scored.video.astype(np.int64) * width + scored.start_frame
        return cls(
            start_frame=start,
            fps=scored.videos["fps"].to_numpy(dtype=np.float64)[video],
            first=np.searchsorted(starts, video * width + start, side="right") - 1,
            last=np.searchsorted(starts, video * width + stop, side="left"),
        )


def event_measures(scored: ScoredSegments) -> dict[str, Any] | None:
    """Measure events and alarms of the smoothed scores; None where frames have no labels.

    Returns
    -------
    dict
        ``num_events``; ``normal_hours``, the duration of all normal frames, None where the frame
        rate of a video is not known; and operating points, each as of `_point`: ``at_threshold``
        (scores above T), ``at_false_alarms_per_hour`` by rate (None where the hours are not
        known), ``at_false_positive_rate`` by share of the normal frames (None where a class is
        absent).

    Notes
    -----
    At so many false alarms an hour: from the highest score down, the last threshold before the
    first at which their number, over the hours of normal frames, exceeds the rate. A threshold
    further down may have fewer again, where alarms grow together until one covers all; that is no
    better detector.
    """
    if not scored.has_frame_labels:
        return None
    events, hours = Events.of(scored), normal_hours(scored)
    ranking = scored.ranking(scored.smoothed)
    at_rate: dict[str, Any] = {f"{rate:g}": None for rate in FALSE_ALARMS_PER_HOUR}
    if hours:
        highest = np.maximum.accumulate(num_false_alarms(scored, ranking.thresholds)) / hours
        for rate in FALSE_ALARMS_PER_HOUR:
            index = int(np.searchsorted(highest, rate, side="right")) - 1
            threshold = float(ranking.thresholds[index]) if index >= 0 else None
            at_rate[f"{rate:g}"] = _point_from(scored, events, hours, threshold)
    at_share: dict[str, Any] = {f"{rate:g}": None for rate in FALSE_POSITIVE_RATES}
    for rate in FALSE_POSITIVE_RATES:
        if found := threshold_at(ranking, rate):
            at_share[f"{rate:g}"] = _point_from(scored, events, hours, found[1])
    return {
        "num_events": len(events.first),
        "normal_hours": hours,
        "at_threshold": {"threshold": scored.threshold}
        | _point(scored, events, hours, scored.is_anomalous),
        "at_false_alarms_per_hour": at_rate,
        "at_false_positive_rate": at_share,
    }


def normal_hours(scored: ScoredSegments) -> float | None:
    """Duration of all frames that are not anomalous; None where a frame rate is not known."""
    frames = np.bincount(scored.video, scored.num_normal, minlength=len(scored.videos))
    seconds = frames / scored.videos["fps"].to_numpy(dtype=np.float64)
    return float(seconds.sum() / 3600) if np.isfinite(seconds).all() else None


def num_false_alarms(scored: ScoredSegments, thresholds: np.ndarray) -> np.ndarray:
    """Count the false alarms at every threshold: (threshold,) int.

    A run begins where a segment reaches the threshold and the one before it does not: runs are
    segments that do, less neighbours that both do, which is when the lower of the two does. Runs
    with an anomalous segment are counted in the same way, of such segments and the lowest score
    between each two that follow each other.
    """
    scores, video = scored.smoothed, scored.video
    both = np.minimum(scores[1:], scores[:-1])[video[1:] == video[:-1]]
    runs = _count(scores, thresholds) - _count(both, thresholds)
    anomalous = np.flatnonzero(scored.num_anomalous)
    if not len(anomalous):
        return runs
    between = np.minimum.reduceat(scores, anomalous)[:-1]
    lowest = np.minimum(between, scores[anomalous[1:]])
    joined = lowest[video[anomalous[1:]] == video[anomalous[:-1]]]
    return runs - (_count(scores[anomalous], thresholds) - _count(joined, thresholds))


def _count(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many of the values reach each threshold."""
    return len(values) - np.searchsorted(np.sort(values), thresholds, side="left")


def _point_from(
    scored: ScoredSegments, events: Events, hours: float | None, threshold: float | None
) -> dict[str, Any]:
    """Measure with scores of at least `threshold` flagged; None flags nothing."""
    lowest = np.inf if threshold is None else threshold
    return {"threshold": threshold} | _point(scored, events, hours, scored.smoothed >= lowest)


def _point(
    scored: ScoredSegments, events: Events, hours: float | None, is_flagged: np.ndarray
) -> dict[str, Any]:
    """Measure with some segments flagged.

    Returns
    -------
    dict
        ``num_found``; ``recall``, the share of the events; ``num_false_alarms`` and
        ``false_alarms_per_hour`` of normal frames; ``delay_frames`` and ``delay_seconds``, each
        ``mean`` and ``median`` over the events that were found, from an event's first frame to the
        first frame of it that is in an alarm. What is undefined is None.
    """
    flagged = np.flatnonzero(is_flagged)
    # The first flagged segment from the event's first on; a last one stands behind all.
    following = np.append(flagged, len(is_flagged))[np.searchsorted(flagged, events.first)]
    is_found = following < events.last
    begin = scored.start_frame[following[is_found]]
    delay = np.maximum(begin - events.start_frame[is_found], 0)
    num_events, false_alarms = len(is_found), _false_runs(scored, flagged)
    return {
        "num_found": int(is_found.sum()),
        "recall": float(is_found.mean()) if num_events else None,
        "num_false_alarms": false_alarms,
        "false_alarms_per_hour": false_alarms / hours if hours else None,
        "delay_frames": _middle(delay),
        "delay_seconds": _middle(delay / events.fps[is_found]),
    }


def _false_runs(scored: ScoredSegments, flagged: np.ndarray) -> int:
    """Runs of neighbouring flagged segments, none of which holds an anomalous frame."""
    video = scored.video[flagged]
    begins = np.append([True] * bool(len(flagged)), (np.diff(flagged) > 1) | (np.diff(video) > 0))
    run = np.cumsum(begins)
    return int(begins.sum()) - len(np.unique(run[scored.num_anomalous[flagged] > 0]))


def _middle(values: np.ndarray) -> dict[str, float] | None:
    """Mean and median; None where there is no value, or one is not known."""
    if not len(values) or not np.isfinite(values).all():
        return None
    return {"mean": float(values.mean()), "median": float(np.median(values))}
