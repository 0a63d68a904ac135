"""A video in progress: its states on their way from the model into the store's blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from hiprobe.extract.backbone import States
from hiprobe.extract.batches import End, Part
from hiprobe.extract.changed_files import CHANGED
from hiprobe.extract.overlap import WriteBehind
from hiprobe.extract.plan import Job
from hiprobe.extract.tally import Progress
from hiprobe.store import DONE, FAILED, BlockWriter, VideoError
from hiprobe.store.provenance import Provenance
from hiprobe.store.state_distances import relative_l2, tolerance_of
from hiprobe.store.taps import HIDDEN_STATES


class OpenVideo:
    """A video in progress: gathers states until they fill a block, and commits how it ends.

    Blocks and outcomes go to the store through `behind`, which keeps their order: the journal's
    line of a video's end must come after those of its blocks. Until a block is handed over, its
    states are in memory only; an interruption costs at most these.
    """

    def __init__(self, job: Job, writer: BlockWriter, behind: WriteBehind) -> None:
        self._job, self._writer, self._behind = job, writer, behind
        self._block = job.first_block
        self._states: list[States] = []
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
        return sum(states[HIDDEN_STATES].shape[1] for states in self._states)

    def take(self, part: Part, states: States | VideoError) -> Progress:
        """Take states, or why there are none; hand a block that is full to the writer."""
        if isinstance(states, VideoError):
            return self._fail(str(states))
        for name, one in states.items():
            layers = self._writer.layers_of(name)
            if reason := _not_finite(one, name, layers, self._num_segments, self._job.record.path):
                return self._fail(reason)
        self._states.append(states)
        if part.thumbnails is not None:
            self._thumbnails.append(part.thumbnails)
        # Never more than full: batches do not cross a block's end.
        if self._num_waiting == self._writer.row_block and (reason := self._write_block()):
            return self._fail(reason)
        return Progress(self._job.record.video_id, num_segments=part.num_segments)

    def end(self, end: End) -> Progress:
        """Commit how it ends: the rest, which need not fill a block, and that the video is done."""
        if end.changed:
            # Nothing: it stays as it was, and unfinished, until the user decides.
            return Progress(self._job.record.video_id, outcome=CHANGED, reason=end.changed)
        if end.failure:
            return self._fail(end.failure)
        if self._states and (reason := self._write_block()):
            return self._fail(reason)
        return self._finish(DONE, end.num_frames, end.note)

    def _fail(self, reason: str) -> Progress:
        """Commit that the video has failed; its blocks stay, but nobody reads them.

        One that was done before stays so: it only does not get what was to be added.
        """
        self.has_failed = True
        if self._job.is_done:
            return Progress(self._job.record.video_id, outcome=CHANGED, reason=reason)
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

    def _write_block(self) -> str:
        """Hand a block to the writer; of one that is there already, what it lacks, or say why not.

        Videos that are older than a tap are computed again as a whole: what the store has of them
        already tells whether that is right.
        """
        taps = {
            name: np.concatenate([one[name] for one in self._states], axis=1)
            for name in self._states[0]
        }
        states = taps.pop(HIDDEN_STATES)
        thumbnails = np.concatenate(self._thumbnails) if self._thumbnails else None
        video, block = self._job.video, self._block
        if not self._writer.index.is_committed(video, block):
            self._behind.submit(self._writer.write_block, video, block, states, thumbnails, taps)
        elif reason := self._differs(states):
            return reason
        else:
            self._behind.submit(self._writer.add_taps_of_block, video, block, taps)
        self._states, self._thumbnails, self._block = [], [], block + 1
        return ""

    def _differs(self, again: np.ndarray) -> str:
        """Say how the block's states differ from those in the store; empty where they do not."""
        stored = self._writer.block_states(self._job.video, self._block)
        model = Provenance.of(self._writer.provenance).model
        tolerance, path = tolerance_of(model), self._job.record.path
        # Fewer may have been decoded than were planned.
        distances = relative_l2(stored[:, : again.shape[1]], again)
        # Written so that nan, of which every comparison is false, exceeds it.
        if (distances <= tolerance).all():
            return ""
        layer, segment = np.unravel_index(np.nanargmax(distances), distances.shape)
        return (
            f"{path}: its states are not those of the store when they are computed again: layer "
            f"{self._writer.layers_of(HIDDEN_STATES)[layer]} of segment "
            f"{self._block * self._writer.row_block + int(segment)} differs by "
            f"{distances[layer, segment]:.1e} (relative L2), {tolerance:.0e} is expected at most. "
            "Nothing was added to it. Add taps where the store was made, with the same libraries."
        )

    def _finish(self, status: str, num_frames: int, remark: str) -> Progress:
        if self._job.is_done:
            return Progress(self._job.record.video_id, outcome=DONE)
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


def _not_finite(
    states: np.ndarray, name: str, layers: Sequence[int], first_segment: int, path: str
) -> str:
    """Say which state a store must not hold; empty where there is none."""
    bad = ~np.isfinite(states).all(axis=2)
    if not bad.any():
        return ""
    layer, segment = np.argwhere(bad)[0]
    return (
        f"{path}: the model gave a non-finite state in layer {layers[layer]}"
        f"{f' of {name}' if name != HIDDEN_STATES else ''} of segment "
        f"{first_segment + segment}. Half precision may have overflowed: try --dtype bfloat16 "
        "or float32."
    )
