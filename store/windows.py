"""What the model sees of a segment: the segment itself, or a window around its middle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, inf
from typing import Any, Self

ATTRIBUTE = "window"
COLUMNS = ("window_start", "window_stop")
# What a store records whose segments are all that the model sees; one without a record is such.
SEGMENT = "segment"


@dataclass(frozen=True)
class Window:
    """So many frames, or so many seconds, around a segment's middle.

    Attributes
    ----------
    frames : int or None
    seconds : float or None
        One of them is given.
    """

    frames: int | None = None
    seconds: float | None = None

    def num_frames(self, fps: float) -> int:
        """Frames of it in a video; at least 1."""
        if self.frames is not None:
            return self.frames
        assert self.seconds is not None
        return max(1, floor(self.seconds * fps + 0.5))

    def of_segments(
        self, segments: Sequence[tuple[int, int]], num_frames: int, fps: float
    ) -> list[tuple[int, int]]:
        """Lay it around the middle of each segment, clipped at the video's ends.

        Parameters
        ----------
        segments : sequence of (int, int)
            Half-open frame ranges.
        num_frames : int
            The video's.
        fps : float

        Returns
        -------
        list of (int, int)
            ``[(start + stop - N) // 2, … + N)`` within ``[0, num_frames)``; neither bound ever
            goes back from one segment to the next.
        """
        length = self.num_frames(fps)
        starts = [(start + stop - length) // 2 for start, stop in segments]
        return [(max(0, start), min(start + length, num_frames)) for start in starts]

    def as_record(self) -> dict[str, int | float]:
        """What a store's attribute says."""
        values = {"frames": self.frames, "seconds": self.seconds}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def of_record(cls, record: Any) -> Self | None:
        """Read a store's attribute; None for a segment's own frames, and for what says nothing."""
        if not isinstance(record, Mapping):
            return None
        frames, seconds = record.get("frames"), record.get("seconds")
        if type(frames) is int and frames > 0 and seconds is None:
            return cls(frames=frames)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            return None
        if frames is None and 0 < seconds < inf:
            return cls(seconds=float(seconds))
        return None


def window_record(window: Window | None) -> dict[str, int | float] | str:
    """The attribute of a store, also for no window."""
    return SEGMENT if window is None else window.as_record()
