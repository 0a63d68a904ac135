"""Videos → segments → backbone → blocks, with decoding ahead of the model and writing behind it.

The thread that calls `extract_videos` does nothing but run the model: `read_batches` works in the
readers' threads, the store's writer in one of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter

import numpy as np
import torch

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.batch_size import LARGEST_BATCH, BatchSize, states_of_any_size
from hiprobe.extract.batches import Batch, End, Part, read_batches
from hiprobe.extract.changed_files import CHANGED
from hiprobe.extract.devices import gpu_errors
from hiprobe.extract.overlap import WriteBehind, read_ahead
from hiprobe.extract.plan import Job, packs
from hiprobe.extract.tally import OnProgress, Progress
from hiprobe.store import DONE, FAILED, BlockWriter, VideoError

# Batches that wait for the model (so many, and so large together), and blocks that wait for the
# disk: what bounds the memory.
BATCHES_AHEAD, BYTES_AHEAD, BLOCKS_BEHIND = 4, 2**31, 4


class _OpenVideo:
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


def extract_videos(
    writer: BlockWriter,
    backbone: Backbone,
    jobs: Sequence[Job],
    *,
    segment_frames: int | None,
    keyframes: int,
    batch_size: BatchSize,
    num_readers: int,
    on_progress: OnProgress,
) -> None:
    """Extract videos and commit each one's outcome; one that fails does not stop the others.

    Parameters
    ----------
    writer : BlockWriter
    backbone : Backbone
    jobs : sequence of Job
    segment_frames : int or None
    keyframes : int
    batch_size : BatchSize
    num_readers : int
        Threads that decode and preprocess, a pack of videos each.
    on_progress : callable
    """
    read = partial(
        read_batches, backbone=backbone, writer=writer, batch_size=batch_size,
        segment_frames=segment_frames, keyframes=keyframes,
    )  # fmt: skip
    # Several readers, a pack each: their items come mixed, those of one video in order.
    with WriteBehind(BLOCKS_BEHIND) as behind:
        model = _Model(writer, backbone, batch_size, behind)
        items = read_ahead(
            packs(jobs, writer.row_block, LARGEST_BATCH), read, num_readers, BATCHES_AHEAD,
            num_bytes=attrgetter("num_bytes"), max_bytes=BYTES_AHEAD,
        )  # fmt: skip
        try:
            for item, seconds_waited, started in _timed(items):
                seconds_blocked = behind.seconds_blocked
                steps = model.take(item)
                seconds = time.monotonic() - started
                waited_on = {
                    **_shares(item, seconds_waited),
                    "writing": behind.seconds_blocked - seconds_blocked,
                }
                for step in steps:
                    on_progress(step.counted(seconds, waited_on))
        finally:
            # Also after Ctrl-C: stops the readers before the writer has its last blocks.
            items.close()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Step:
    """What an item was for one of its videos, and that video's share of the item's time."""

    video: _OpenVideo
    progress: Progress
    share: float = 1.0

    def counted(self, seconds: float, waited_on: Mapping[str, float]) -> Progress:
        waits = {name: self.share * value for name, value in waited_on.items()}
        return self.video.counted(self.progress, self.share * seconds, waits)


class _Model:
    """Gives batches to the model, and each video what becomes of its segments."""

    def __init__(
        self, writer: BlockWriter, backbone: Backbone, batch_size: BatchSize, behind: WriteBehind
    ) -> None:
        self._writer, self._behind = writer, behind
        self._backbone, self._batch_size = backbone, batch_size
        self._videos: dict[int, _OpenVideo] = {}

    def take(self, item: Batch | End) -> list[_Step]:
        """Run the model on a batch, or end a video; nothing for what comes after a failure."""
        if isinstance(item, End):
            video = self._video(item.job)
            del self._videos[item.job.video]
            return [] if video.has_failed else [_Step(video, video.end(item))]
        videos = [self._video(part.job) for part in item.parts]
        if all(video.has_failed for video in videos):
            return []
        return [
            _Step(
                video,
                video.take(part, states, self._backbone.layers),
                part.num_segments / item.num_segments,
            )
            for video, part, states in zip(videos, item.parts, self._states(item), strict=True)
            if not video.has_failed
        ]

    def _video(self, job: Job) -> _OpenVideo:
        if job.video not in self._videos:
            self._videos[job.video] = _OpenVideo(job, self._writer, self._behind)
        return self._videos[job.video]

    def _states(self, batch: Batch) -> list[np.ndarray | VideoError]:
        """States of each part, or why there are none."""
        try:
            with gpu_errors(batch.parts[0].job.record.path):
                states = states_of_any_size(
                    self._backbone, batch.inputs, batch.num_segments, self._batch_size
                )
        except VideoError as error:
            if len(batch.parts) == 1:
                return [error]
        else:
            ends = np.cumsum([part.num_segments for part in batch.parts])
            return list(np.split(states, ends[:-1], axis=1))
        # Each by itself, so that only those fail whose fault it is.
        return [states for alone in batch.split() for states in self._states(alone)]


def _timed(
    items: Iterator[Batch | End],
) -> Iterator[tuple[Batch | End, float, float]]:
    """Go through items with the seconds waited for each, and when that wait began."""
    while True:
        started = time.monotonic()
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, time.monotonic() - started, started


def _shares(item: Batch | End, seconds_waited: float) -> dict[str, float]:
    """Part what the model waited for a batch as its reader's time parts."""
    preparing = item.preparing_seconds / max(item.decoding_seconds + item.preparing_seconds, 1e-9)
    preparing *= seconds_waited
    return {"decoding": seconds_waited - preparing, "preprocessing": preparing}


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
