"""Videos → segments → backbone → blocks, with decoding ahead of the model and writing behind it.

The thread that calls `extract_videos` does nothing but run the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np
import torch

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.overlap import WriteBehind, read_ahead
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.thumbnails import make_thumbnail
from hiprobe.extract.video import Segment, SegmentReader
from hiprobe.store import DONE, FAILED, BlockWriter, VideoError, VideoRecord

# Batches that wait for the model, and blocks that wait for the disk: what bounds the memory.
BATCHES_AHEAD, BLOCKS_BEHIND = 4, 4
CPU_BATCH_SIZE = 8
LARGEST_BATCH = 64
TOLERANCE_FRAMES = 24


@dataclass(frozen=True)
class Job:
    """A video to extract.

    Attributes
    ----------
    video : int
        Index in the store's plan.
    record : VideoRecord
    num_frames : int
        As planned.
    fps : float
    first_block : int
        Blocks before it are committed already.
    """

    video: int
    record: VideoRecord
    num_frames: int
    fps: float
    first_block: int


@dataclass(frozen=True)
class Progress:
    """Where a run is; sent before each video and after each batch.

    Attributes
    ----------
    video_id : str
    num_segments : int
        Finished since the last message.
    outcome : str
        'done' or 'failed' when the video has ended, else empty.
    reason : str
        Why it failed, or a note.
    seconds, waited_seconds : float
        Since the last message; and of these, how long the model waited for segments.
    """

    video_id: str
    num_segments: int = 0
    outcome: str = ""
    reason: str = ""
    seconds: float = 0.0
    waited_seconds: float = 0.0


OnProgress = Callable[[Progress], None]


class BatchSize:
    """How many segments make a batch.

    Parameters
    ----------
    size : int or None
        None looks for the largest that fits: on a GPU it doubles while there is room.
    device : torch.device
    """

    def __init__(self, size: int | None, device: torch.device) -> None:
        self.size = CPU_BATCH_SIZE if size is None else size
        self._grows = size is None and device.type == "cuda"
        self._device = device

    def succeeded(self, num_segments: int) -> None:
        """Grow after a full batch, if twice the memory is there."""
        if not self._grows or num_segments < self.size:
            return
        peak = torch.cuda.max_memory_allocated(self._device)
        total = torch.cuda.get_device_properties(self._device).total_memory
        if self.size * 2 > LARGEST_BATCH or peak * 2 > 0.9 * total:
            self._grows = False
        else:
            self.size *= 2

    def failed(self, num_segments: int) -> None:
        """Halve after a batch that did not fit, and grow no more."""
        self.size, self._grows = max(1, num_segments // 2), False


@dataclass(frozen=True)
class _Batch:
    job: Job
    num_segments: int
    inputs: dict[str, torch.Tensor]
    thumbnails: np.ndarray | None


@dataclass(frozen=True)
class _End:
    job: Job
    num_frames: int = 0
    note: str = ""
    failure: str = ""


@dataclass
class _OpenVideo:
    """A video in progress: states and thumbnails that do not fill a block yet."""

    block: int
    waiting: list[np.ndarray] = field(default_factory=list)
    thumbnails: list[np.ndarray] = field(default_factory=list)
    has_failed: bool = False


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
        _read, backbone=backbone, writer=writer, batch_size=batch_size,
        segment_frames=segment_frames, keyframes=keyframes,
    )  # fmt: skip
    open_videos: dict[int, _OpenVideo] = {}
    with WriteBehind(BLOCKS_BEHIND) as behind:
        items = read_ahead(jobs, read, num_readers, BATCHES_AHEAD)
        try:
            for item, seconds_waited, started in _timed(items):
                job = item.job
                video = open_videos.setdefault(job.video, _OpenVideo(job.first_block))
                if isinstance(item, _Batch):
                    progress = _run_batch(item, video, writer, backbone, batch_size, behind)
                else:
                    progress = _finish(item, video, writer, behind)
                    del open_videos[job.video]
                if progress is not None:
                    seconds = time.monotonic() - started
                    on_progress(replace(progress, seconds=seconds, waited_seconds=seconds_waited))
        finally:
            items.close()  # type: ignore[attr-defined]


def _read(
    job: Job,
    *,
    backbone: Backbone,
    writer: BlockWriter,
    batch_size: BatchSize,
    segment_frames: int | None,
    keyframes: int,
) -> Iterator[_Batch | _End]:
    """Decode and preprocess a video; batches never cross a block's end."""
    first = job.first_block * writer.row_block
    ranges = segment_ranges(job.num_frames, segment_frames)
    reader = SegmentReader(job.record.path, ranges, keyframes, first)
    segments = iter(reader)
    position = first
    try:
        while True:
            room = writer.row_block - position % writer.row_block
            batch = list(islice(segments, min(batch_size.size, room)))
            if not batch:
                break
            inputs = _prepare(backbone, batch, job)
            yield _Batch(job, len(batch), inputs, _thumbnails(batch, writer.thumbnail_size))
            position += len(batch)
        note = _check_length(job, reader)
    except VideoError as error:
        yield _End(job, failure=str(error))
    else:
        yield _End(job, num_frames=min(reader.num_decoded, job.num_frames), note=note)


def _thumbnails(batch: Sequence[Segment], size: tuple[int, int] | None) -> np.ndarray | None:
    """Make the segments' thumbnails, of their middle keyframes, if the store keeps them."""
    if size is None:
        return None
    middles = [segment.keyframes[len(segment.keyframes) // 2] for segment in batch]
    return np.stack([make_thumbnail(picture, size) for picture in middles])


def _prepare(backbone: Backbone, batch: Sequence[Segment], job: Job) -> dict[str, torch.Tensor]:
    try:
        return backbone.prepare(batch, job.fps)
    except (ValueError, RuntimeError) as error:
        height, width = batch[0].keyframes.shape[1:3]
        raise VideoError(
            f"{job.record.path}: the model's processor refuses its {width}x{height} frames: {error}"
        ) from error


def _run_batch(
    batch: _Batch,
    video: _OpenVideo,
    writer: BlockWriter,
    backbone: Backbone,
    batch_size: BatchSize,
    behind: WriteBehind,
) -> Progress | None:
    """Run the model on a batch; hand a block that is full to the writer."""
    if video.has_failed:
        return None
    job = batch.job
    try:
        states = states_of_any_size(backbone, batch.inputs, batch.num_segments, batch_size)
        done = video.block * writer.row_block + sum(part.shape[1] for part in video.waiting)
        _check_finite(states, backbone.layers, done, job.record.path)
    except VideoError as error:
        video.has_failed = True
        _commit_failure(writer, behind, job, str(error))
        return Progress(job.record.video_id, outcome=FAILED, reason=str(error))
    video.waiting.append(states)
    if batch.thumbnails is not None:
        video.thumbnails.append(batch.thumbnails)
    if sum(part.shape[1] for part in video.waiting) == writer.row_block:
        _write_waiting(video, job, writer, behind)
    return Progress(job.record.video_id, num_segments=batch.num_segments)


def _finish(
    end: _End, video: _OpenVideo, writer: BlockWriter, behind: WriteBehind
) -> Progress | None:
    """Commit how a video has ended."""
    job = end.job
    if video.has_failed:
        return None
    if end.failure:
        _commit_failure(writer, behind, job, end.failure)
        return Progress(job.record.video_id, outcome=FAILED, reason=end.failure)
    if video.waiting:
        _write_waiting(video, job, writer, behind)
    behind.submit(
        writer.finish_video,
        job.video,
        status=DONE,
        num_frames=end.num_frames,
        fps=job.fps,
        error=end.note,
    )
    return Progress(job.record.video_id, outcome=DONE, reason=end.note)


def _write_waiting(video: _OpenVideo, job: Job, writer: BlockWriter, behind: WriteBehind) -> None:
    states = np.concatenate(video.waiting, axis=1)
    thumbnails = np.concatenate(video.thumbnails) if video.thumbnails else None
    behind.submit(writer.write_block, job.video, video.block, states, thumbnails)
    video.waiting, video.thumbnails, video.block = [], [], video.block + 1


def _commit_failure(writer: BlockWriter, behind: WriteBehind, job: Job, reason: str) -> None:
    behind.submit(
        writer.finish_video,
        job.video,
        status=FAILED,
        num_frames=job.num_frames,
        fps=job.fps,
        error=reason,
    )


def states_of_any_size(
    backbone: Backbone,
    inputs: dict[str, torch.Tensor],
    num_segments: int,
    batch_size: BatchSize,
) -> np.ndarray:
    """Run the model; a batch that does not fit into memory is halved until it does.

    Returns
    -------
    (layer, segment, feature) float32

    Raises
    ------
    VideoError
        Not even one segment fits.
    """
    try:
        states = backbone.states(inputs)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        # The CPU's allocator has no error class of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "t allocate memory" not in str(error):
            raise
        if num_segments == 1:
            raise VideoError(
                f"one segment does not fit into the memory of {backbone.device}: {error} "
                "Use fewer --keyframes, --dtype bfloat16 or --load-in 8bit."
            ) from error
    else:
        batch_size.succeeded(num_segments)
        return states
    backbone.forget()
    batch_size.failed(num_segments)
    half = num_segments // 2
    parts = [(0, half), (half, num_segments)]
    return np.concatenate(
        [
            states_of_any_size(
                backbone, _part(inputs, num_segments, start, stop), stop - start, batch_size
            )
            for start, stop in parts
        ],
        axis=1,
    )


def _part(
    inputs: dict[str, torch.Tensor], num_segments: int, start: int, stop: int
) -> dict[str, torch.Tensor]:
    """Take some of a batch's segments: each has an equal part of every tensor's first dimension."""
    return {
        name: value[len(value) // num_segments * start : len(value) // num_segments * stop]
        for name, value in inputs.items()
    }


def _timed(
    items: Iterator[_Batch | _End],
) -> Iterator[tuple[_Batch | _End, float, float]]:
    """Go through items with the seconds waited for each, and when that wait began."""
    while True:
        started = time.monotonic()
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, time.monotonic() - started, started


def _check_finite(states: np.ndarray, layers: Sequence[int], first_segment: int, path: str) -> None:
    bad = ~np.isfinite(states).all(axis=2)
    if bad.any():
        layer, segment = np.argwhere(bad)[0]
        raise VideoError(
            f"{path}: the model gave a non-finite state in layer {layers[layer]} of segment "
            f"{first_segment + segment}. Half precision may have overflowed: try --dtype bfloat16 "
            "or float32."
        )


def _check_length(job: Job, reader: SegmentReader) -> str:
    """Compare the frames decoded with those announced; return a note.

    Raises
    ------
    VideoError
        More than one segment's worth of frames is missing or too many: the file is broken.
    """
    record, num_frames, notes = job.record, job.num_frames, []
    if reader.num_bad_packets:
        notes.append(f"{reader.num_bad_packets} packet(s) could not be decoded")
    if reader.num_decoded != num_frames:
        text = f"decoded {reader.num_decoded} of the {num_frames} frames announced"
        if abs(reader.num_decoded - num_frames) > TOLERANCE_FRAMES or not reader.num_decoded:
            raise VideoError(
                f"{record.path}: {'; '.join([text, *notes])}: the file is truncated or damaged. "
                "Replace it, or re-encode it."
            )
        notes.append(text)
    if record.num_frames not in (None, num_frames):
        notes.append(f"the manifest says {record.num_frames} frames, the file has {num_frames}")
    if record.annotations and record.annotations[-1][0] >= num_frames:
        start, stop = record.annotations[-1]
        notes.append(f"annotation {start}:{stop} lies beyond the video's {num_frames} frames")
    return "; ".join(notes)
