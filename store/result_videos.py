"""Videos and their detected intervals, as ``intervals.json`` has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from hiprobe.store import fields
from hiprobe.store.manifest import Annotations, format_annotations, parse_annotations

KINDS = ("anomalous", "normal")
_INTERVAL_FIELDS = ("start_frame", "stop_frame", "start_seconds", "stop_seconds")


@dataclass(frozen=True)
class Interval:
    """A stretch of a video that was detected as anomalous, or as normal.

    Attributes
    ----------
    video_id : str
    kind : {'anomalous', 'normal'}
    start_frame, stop_frame : int
        Half-open.
    start_seconds, stop_seconds : float or None
        None where the frame rate is not known.
    """

    video_id: str
    kind: str
    start_frame: int
    stop_frame: int
    start_seconds: float | None
    stop_seconds: float | None

    @classmethod
    def of_frames(cls, video_id: str, kind: str, start: int, stop: int, fps: float | None) -> Self:
        """Add the seconds to a frame range."""
        seconds = [round(frame / fps, 3) if fps else None for frame in (start, stop)]
        return cls(video_id, kind, start, stop, *seconds)

    @classmethod
    def from_json(cls, video_id: str, kind: str, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote, and leave alone what else there may be."""
        start, stop = (fields.whole(content[name], name) for name in _INTERVAL_FIELDS[:2])
        if start >= stop:
            raise ValueError(f"the interval {start}:{stop} stops at or before its start")
        seconds = [
            None if content[name] is None else fields.number(content[name], name)
            for name in _INTERVAL_FIELDS[2:]
        ]
        return cls(video_id, kind, start, stop, *seconds)

    @property
    def frames(self) -> tuple[int, int]:
        """The half-open frame range."""
        return self.start_frame, self.stop_frame

    def to_json(self) -> dict[str, Any]:
        """The interval as ``intervals.json`` has it, below its video and its kind."""
        return {name: getattr(self, name) for name in _INTERVAL_FIELDS}


@dataclass(frozen=True)
class ResultVideo:
    """What ``intervals.json`` says of a video.

    Attributes
    ----------
    label, category : str
    fps : float or None
    num_frames : int
        That were evaluated.
    annotations : tuple of (int, int)
        The truth, half-open frame ranges.
    intervals : dict of str to tuple of Interval
        What was found, by kind ('anomalous', 'normal'), in the order of time.
    """

    label: str
    category: str
    fps: float | None
    num_frames: int
    annotations: Annotations
    intervals: dict[str, tuple[Interval, ...]]

    @property
    def in_order(self) -> list[Interval]:
        """All intervals in the order of time."""
        everything = [one for kind in KINDS for one in self.intervals[kind]]
        return sorted(everything, key=lambda interval: interval.start_frame)

    def to_json(self) -> dict[str, Any]:
        """The video as ``intervals.json`` has it."""
        return {
            "label": self.label,
            "category": self.category,
            "fps": self.fps,
            "num_frames": self.num_frames,
            "annotations": format_annotations(self.annotations),
            **{kind: [one.to_json() for one in self.intervals[kind]] for kind in KINDS},
        }

    @classmethod
    def from_json(cls, video_id: str, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; what cannot be right is a `ValueError`."""
        fps, num_frames = content["fps"], fields.whole(content["num_frames"], "num_frames")
        if fps is not None and fields.number(fps, "fps") <= 0:
            raise ValueError(f"fps is {fps}, expected a number above 0, or null")
        video = cls(
            label=fields.text(content["label"], "label"),
            category=fields.text(content["category"], "category"),
            fps=fps,
            num_frames=num_frames,
            annotations=parse_annotations(fields.text(content["annotations"], "annotations")),
            intervals={
                kind: tuple(
                    Interval.from_json(video_id, kind, one)
                    for one in fields.items(content[kind], kind)
                )
                for kind in KINDS
            },
        )
        beyond = [one for one in video.in_order if one.stop_frame > num_frames]
        if beyond:
            raise ValueError(f"an interval stops at {beyond[0].stop_frame} of {num_frames} frames")
        return video


def known_fps(fps: float) -> float | None:
    """Frame rate as JSON has it: null where it is not known."""
    return float(fps) if math.isfinite(fps) else None
