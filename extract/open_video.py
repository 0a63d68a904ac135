"""A video in progress: its states on their way from the model into the store's blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from hiprobe.extract.batches import End, Part
from hiprobe.extract.changed_files import CHANGED
from hiprobe.extract.overlap import WriteBehind
from hiprobe.extract.plan import Job
from hiprobe.extract.tally import Progress
from hiprobe.store import DONE, FAILED, BlockWriter, VideoError


class OpenVideo:
    """A video in progress: gathers states until they fill a block, and commits how it ends.

    Blocks and outcomes go to the store through `behind`, which keeps their order: the journal's
    line of a video's end must come after those of its blocks. Until a block is handed over, its
    states are in memory only; an interruption costs at most these.
    """

    def __init__(self, job: Job, writer: BlockWriter, behind: WriteBehind) -> None:
        self._job, self._writer, self._behind = job, writer, behind
        self._block = job.first_block
        self._states: list[np.ndarray] = []
        self._thumbnails: list[np.ndarray] = []
        # Batches of a failed video may still be on their way; they are dropped.
        self.has_failed = False
        self._seconds, self._num_counted = 0.0, 0

    @property
    def _num_segments(self) -> int:
        """Segments so far, with those that earlier runs committed."""
        return self._block * self._writer.row_block + self._num_waiting

    @property
    def _num_waiting(self) -> int:
        return sum(states.shape[1] for states in self._states)

    def take(self, part: Part, states: np.ndarray | VideoError, layers: Sequence[int]) -> Progress:
        """Take states, or why there are none; hand a block that is full to the writer."""
        if isinstance(states, VideoError):
            return self._fail(str(states))
        if reason := _not_finite(states, layers, self._num_segments, self._job.record.path):
            return self._fail(reason)
        self._states.append(states)
        if part.thumbnails is not None:
            self._thumbnails.append(part.thumbnails)
        # Never more than full: batches do not cross a block's end.
        if self._num_waiting == self._writer.row_block:
            self._write_block()
        return Progress(self._job.record.video_id, num_segments=states.shape[1])

    def end(self, end: End) -> Progress:
        """Commit how it ends: the rest, which need not fill a block, and that the video is done."""
        if end.changed:
            # Nothing: it stays as it was, and unfinished, until the user decides.
            return Progress(self._job.record.video_id, outcome=CHANGED, reason=end.changed)
        if end.failure:
            return self._fail(end.failure)
        if self._states:
            self._write_block()
        return self._finish(DONE, end.num_frames, end.note)

    def _fail(self, reason: str) -> Progress:
        """Commit that the video has failed; its blocks stay, but nobody reads them."""
        self.has_failed = True
        return self._finish(FAILED, self._job.num_frames, reason)

    def counted(
        self, progress: Progress, seconds: float, waited_on: Mapping[str, float]
    ) -> Progress:
        """Add to a step what it took, and to the last one what all of them took."""
        self._seconds += seconds
        self._num_counted += progress.num_segments
        return replace(
            progress,
            seconds=seconds,
            waited_seconds=sum(waited_on.values()),
            waited_on=waited_on,
            gpu_bytes=_gpu_bytes(),
            video_segments=self._num_counted if progress.outcome else 0,
            video_seconds=self._seconds if progress.outcome else 0.0,
        )

    def _write_block(self) -> None:
        states = np.concatenate(self._states, axis=1)
        thumbnails = np.concatenate(self._thumbnails) if self._thumbnails else None
        self._behind.submit(
            self._writer.write_block, self._job.video, self._block, states, thumbnails
        )
        self._states, self._thumbnails, self._block = [], [], self._block + 1

    def _finish(self, status: str, num_frames: int, remark: str) -> Progress:
        self._behind.submit(
            self._writer.finish_video,
            self._job.video,
            status=status,
            num_frames=num_frames,
            fps=self._job.fps,
            error=remark,
        )
        return Progress(self._job.record.video_id, outcome=status, reason=remark)


def _gpu_bytes() -> int:
    """Peak of this process's GPU memory. Must not ask a GPU that nobody uses: it would start it."""
    return torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else 0


def _not_finite(states: np.ndarray, layers: Sequence[int], first_segment: int, path: str) -> str:
    """Say which state a store must not hold; empty where there is none."""
    bad = ~np.isfinite(states).all(axis=2)
    if not bad.any():
        return ""
    layer, segment = np.argwhere(bad)[0]
    return (
        f"{path}: the model gave a non-finite state in layer {layers[layer]} of segment "
        f"{first_segment + segment}. Half precision may have overflowed: try --dtype bfloat16 "
        "or float32."
    )
