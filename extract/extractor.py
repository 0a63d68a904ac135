"""Videos → segments → backbone → blocks, with decoding ahead of the model and writing behind it.

The thread that calls `extract_videos` does nothing but run the model: `read_batches` works in the
readers' threads, the store's writer in one of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter

import numpy as np
import torch

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.batch_size import BatchSize, states_of_any_size
from hiprobe.extract.batches import Batch, End, read_batches
from hiprobe.extract.changed_files import CHANGED
from hiprobe.extract.devices import gpu_errors
from hiprobe.extract.overlap import WriteBehind, read_ahead
from hiprobe.extract.plan import Job
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
    def num_segments(self) -> int:
        """Segments so far, with those that earlier runs committed."""
        return self._block * self._writer.row_block + self._num_waiting

    @property
    def _num_waiting(self) -> int:
        return sum(states.shape[1] for states in self._states)

    def add(self, states: np.ndarray, thumbnails: np.ndarray | None) -> Progress:
        """Take a batch's results; hand a block that is full to the writer."""
        self._states.append(states)
        if thumbnails is not None:
            self._thumbnails.append(thumbnails)
        # Never more than full: batches do not cross a block's end.
        if self._num_waiting == self._writer.row_block:
            self._write_block()
        return Progress(self._job.record.video_id, num_segments=states.shape[1])

    def finish(self, num_frames: int, note: str) -> Progress:
        """Commit the rest, which need not fill a block, and that the video is done."""
        if self._states:
            self._write_block()
        return self._end(DONE, num_frames, note)

    def fail(self, reason: str) -> Progress:
        """Commit that the video has failed; its blocks stay, but nobody reads them."""
        self.has_failed = True
        return self._end(FAILED, self._job.num_frames, reason)

    def leave(self, changed: str) -> Progress:
        """Commit nothing: it stays as it was, and unfinished, until the user decides."""
        return Progress(self._job.record.video_id, outcome=CHANGED, reason=changed)

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

    def _end(self, status: str, num_frames: int, remark: str) -> Progress:
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
        Threads that decode and preprocess, a video each.
    on_progress : callable
    """
    read = partial(
        read_batches, backbone=backbone, writer=writer, batch_size=batch_size,
        segment_frames=segment_frames, keyframes=keyframes,
    )  # fmt: skip
    # Several readers, a video each: their items come mixed, those of one video in order.
    open_videos: dict[int, _OpenVideo] = {}
    with WriteBehind(BLOCKS_BEHIND) as behind:
        items = read_ahead(
            jobs, read, num_readers, BATCHES_AHEAD,
            num_bytes=attrgetter("num_bytes"), max_bytes=BYTES_AHEAD,
        )  # fmt: skip
        try:
            for item, seconds_waited, started in _timed(items):
                job = item.job
                video = open_videos.setdefault(job.video, _OpenVideo(job, writer, behind))
                seconds_blocked = behind.seconds_blocked
                progress = _take(item, video, backbone, batch_size)
                if isinstance(item, End):
                    del open_videos[job.video]
                if progress is not None:
                    waited_on = {
                        **_shares(item, seconds_waited),
                        "writing": behind.seconds_blocked - seconds_blocked,
                    }
                    on_progress(video.counted(progress, time.monotonic() - started, waited_on))
        finally:
            # Also after Ctrl-C: stops the readers before the writer has its last blocks.
            items.close()  # type: ignore[attr-defined]


def _take(
    item: Batch | End, video: _OpenVideo, backbone: Backbone, batch_size: BatchSize
) -> Progress | None:
    """Run the model on a batch, or end the video; None for what comes after a failure."""
    if video.has_failed:
        return None
    if isinstance(item, End):
        if item.changed:
            return video.leave(item.changed)
        if item.failure:
            return video.fail(item.failure)
        return video.finish(item.num_frames, item.note)
    try:
        with gpu_errors(item.job.record.path):
            states = states_of_any_size(backbone, item.inputs, item.num_segments, batch_size)
        _check_finite(states, backbone.layers, video.num_segments, item.job.record.path)
    except VideoError as error:
        return video.fail(str(error))
    return video.add(states, item.thumbnails)


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


def _check_finite(states: np.ndarray, layers: Sequence[int], first_segment: int, path: str) -> None:
    """Refuse states that a store must not hold."""
    bad = ~np.isfinite(states).all(axis=2)
    if bad.any():
        layer, segment = np.argwhere(bad)[0]
        raise VideoError(
            f"{path}: the model gave a non-finite state in layer {layers[layer]} of segment "
            f"{first_segment + segment}. Half precision may have overflowed: try --dtype bfloat16 "
            "or float32."
        )
