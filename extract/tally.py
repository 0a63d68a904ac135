"""Where a run is: the steps it reports, and what they sum up to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from hiprobe.store import FAILED

WAITS = ("decoding", "preprocessing", "writing")


@dataclass(frozen=True)
class Progress:
    """Where a run is; sent after each batch and at each video's end.

    Attributes
    ----------
    video_id : str
    num_segments : int
        Finished since the last message.
    outcome : str
        'done', 'failed' or 'changed' (see `changed_files`) when the video has ended, else empty.
    reason : str
        Why it failed, how it has changed, or a note.
    seconds, waited_seconds : float
        Since the last message; and of these, how long the model waited.
    waited_on : dict of str to float
        The seconds waited, by what for: see `WAITS`.
    gpu_bytes : int
        The most GPU memory that the process has held so far; 0 without a GPU.
    video_segments, video_seconds : int, float
        At the video's end, what its steps sum up to in this process: steps in between may get lost
        on their way from another machine.
    """

    video_id: str
    num_segments: int = 0
    outcome: str = ""
    reason: str = ""
    seconds: float = 0.0
    waited_seconds: float = 0.0
    waited_on: Mapping[str, float] = field(default_factory=dict)
    gpu_bytes: int = 0
    video_segments: int = 0
    video_seconds: float = 0.0


OnProgress = Callable[[Progress], None]


class Tally:
    """What a run has done so far, and what its model waited for. Steps may come from any thread.

    Attributes
    ----------
    num_videos, num_segments : int or None
        To be done; None until it is known.
    outcomes : Counter
        Videos ended, by outcome.
    segments_done : int
    gpu_bytes : int
        See `Progress`.
    """

    def __init__(self) -> None:
        self.num_videos: int | None = None
        self.num_segments: int | None = None
        self.outcomes: Counter[str] = Counter()
        self.segments_done, self.gpu_bytes = 0, 0
        self._seconds, self._waited = 0.0, dict.fromkeys(WAITS, 0.0)
        self._segments_of: Counter[str] = Counter()
        self._started, self._ended = time.monotonic(), 0.0
        self._lock = Lock()

    def plan(self, num_videos: int, num_segments: int) -> None:
        """Take what there is to do, and start the clock: the model is loaded."""
        self.num_videos, self.num_segments = num_videos, num_segments
        self._started = time.monotonic()

    def add(self, step: Progress) -> None:
        """Take a step."""
        with self._lock:
            self.gpu_bytes = max(self.gpu_bytes, step.gpu_bytes)
            self._seconds += step.seconds
            for name, seconds in step.waited_on.items():
                self._waited[name] += seconds
            counted = self._segments_of[step.video_id] + step.num_segments
            if step.outcome:
                self.outcomes[step.outcome] += 1
                counted = max(counted, step.video_segments)
            self.segments_done += counted - self._segments_of[step.video_id]
            self._segments_of[step.video_id] = counted
            if self.num_ended == self.num_videos:
                self._ended = time.monotonic()

    @property
    def num_ended(self) -> int:
        """Videos done, failed or left as they were."""
        return self.outcomes.total()

    @property
    def num_failed(self) -> int:
        """Videos that have failed."""
        return self.outcomes[FAILED]

    @property
    def waited(self) -> dict[str, float]:
        """Shares of the model's time, in all processes together, that it waited; by what for."""
        return {name: seconds / max(self._seconds, 1e-9) for name, seconds in self._waited.items()}

    @property
    def seconds(self) -> float:
        """Since the plan, until the last video has ended: what follows is no extraction."""
        return (self._ended or time.monotonic()) - self._started

    @property
    def segments_per_second(self) -> float:
        """Since the plan, all processes together."""
        return self.segments_done / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this speed; None where nothing tells."""
        if self.num_segments is None or not self.segments_done:
            return None
        return max(0, self.num_segments - self.segments_done) / self.segments_per_second

    def as_record(self) -> dict[str, Any]:
        """What a store keeps of a run."""
        return {
            "num_videos": self.num_ended,
            "num_segments": self.segments_done,
            "seconds": round(self.seconds, 3),
            "segments_per_second": round(self.segments_per_second, 3),
            "waited": {name: round(share, 4) for name, share in self.waited.items()},
        }
