"""What the readers' threads do: videos → their segments, in batches ready for the model."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.batch_size import BatchSize, inputs_of_segments
from hiprobe.extract.changed_files import changed_file
from hiprobe.extract.devices import is_out_of_memory
from hiprobe.extract.plan import Job
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.thumbnails import make_thumbnail
from hiprobe.extract.video import Segment, SegmentReader, inspect_video
from hiprobe.store import BlockWriter, VideoError
from hiprobe.store.windows import Window

# A container's count may be off by the frames that a cut left without their reference.
TOLERANCE_FRAMES = 24
# Pixels of a batch before they are resized: 8 segments of 8 keyframes of 1920x1080. Larger frames
# go through the model in smaller batches.
MAX_PIXEL_BYTES = 2**29


@dataclass(frozen=True)
class Part:
    """Consecutive segments of one video and one block, in a batch.

    Attributes
    ----------
    job : Job
    num_segments : int
    thumbnails : (segment, y, x, 3) uint8 or None
    """

    job: Job
    num_segments: int
    thumbnails: np.ndarray | None


@dataclass(frozen=True)
class Batch:
    """Segments with frames of one size, prepared: of one block, or of several short videos.

    Attributes
    ----------
    parts : tuple of Part
    inputs : dict of str to Tensor
        From `Backbone.prepare`.
    decoding_seconds, preparing_seconds : float
        What its reader took.
    """

    parts: tuple[Part, ...]
    inputs: dict[str, torch.Tensor]
    decoding_seconds: float = 0.0
    preparing_seconds: float = 0.0

    @property
    def num_segments(self) -> int:
        """Of all parts."""
        return sum(part.num_segments for part in self.parts)

    @property
    def num_bytes(self) -> int:
        """What it takes of the main memory."""
        return sum(tensor.nbytes for tensor in self.inputs.values())

    def split(self) -> Iterator[Batch]:
        """Make a batch of each part."""
        start = 0
        for part in self.parts:
            stop = start + part.num_segments
            yield Batch((part,), inputs_of_segments(self.inputs, self.num_segments, start, stop))
            start = stop


@dataclass(frozen=True)
class End:
    """A video has been read to its end, or cannot be read any further.

    Attributes
    ----------
    job : Job
    num_frames : int
        Decoded.
    note : str
        What to keep in mind of a video that is whole enough.
    failure : str
        Why the video has failed; else empty.
    changed : str
        How its file has changed since it was planned; else empty.
    """

    job: Job
    num_frames: int = 0
    note: str = ""
    failure: str = ""
    changed: str = ""
    # Whoever waits for a video's end waits for the decoder.
    decoding_seconds: float = 0.0
    preparing_seconds: float = 0.0

    @property
    def num_bytes(self) -> int:
        """Next to nothing."""
        return 0


def read_batches(
    jobs: Iterable[Job],
    *,
    backbone: Backbone,
    writer: BlockWriter,
    batch_size: BatchSize,
    segment_frames: int | None,
    keyframes: int,
    window: Window | None = None,
) -> Iterator[Batch | End]:
    """Decode and preprocess a pack's videos one after the other; a video's end follows its batches.

    States depend a little on what shares a batch, and that depends on the batch size and on the
    list of packs, never on who is faster: the same run gives the same bits. A video longer than a
    block shares with nobody, its batches never cross a block's end, and a resumed video begins with
    a block: so its states are the same to the last bit also after an interruption. Short videos may
    then have other neighbours: their states agree as those of different batches do.

    Parameters
    ----------
    jobs : iterable of Job
        One of `hiprobe.extract.plan.packs`.
    backbone : Backbone
    writer : BlockWriter
    batch_size : BatchSize
    segment_frames : int or None
    keyframes : int
    window : Window, optional
    """
    batch = _OpenBatch(backbone, writer, batch_size)
    for job in jobs:
        for item in _read_video(job, writer, segment_frames, keyframes, window):
            yield from batch.add(job, item)
            if job.video in batch.refused:
                break
    yield from batch.flush()


def _read_video(
    job: Job,
    writer: BlockWriter,
    segment_frames: int | None,
    keyframes: int,
    window: Window | None,
) -> Iterator[Segment | End]:
    """Decode a video. A failure is an item like any other, and so meets this video alone."""
    known = writer.index.file(job.video)
    if changed := changed_file(known, job.record.path):
        yield End(job, changed=changed)
        return
    first = job.first_block * writer.row_block
    try:
        # As it was planned: of a video that is done, the store has what could be decoded.
        num_frames = inspect_video(job.record.path).num_frames if job.is_done else job.num_frames
        ranges = segment_ranges(num_frames, segment_frames)
        seen = None if window is None else window.of_segments(ranges, num_frames, job.fps)
        reader = SegmentReader(job.record.path, ranges, keyframes, first, seen)
        yield from reader
        note = check_length(job, reader)
    except VideoError as error:
        yield End(job, failure=str(error))
    except MemoryError:  # of anything that is small beside the frames
        yield End(job, failure=f"{job.record.path}: there is not enough memory to read it.")
    else:
        # Written over while it was read.
        changed = changed_file(known, job.record.path)
        # Frames beyond the plan have no rows.
        num_frames = min(reader.num_decoded, job.num_frames)
        yield End(job, num_frames=num_frames, note=note, changed=changed)


class _OpenBatch:
    """Segments that gather to a batch, and the ends of videos that have to come after it.

    Attributes
    ----------
    refused : set of int
        Videos whose frames could not be prepared: they have ended with that.
    """

    def __init__(self, backbone: Backbone, writer: BlockWriter, batch_size: BatchSize) -> None:
        self._backbone, self._writer, self._batch_size = backbone, writer, batch_size
        self._segments: list[tuple[Job, Segment]] = []
        self._ends: list[End] = []
        self._started = time.monotonic()
        self.refused: set[int] = set()

    def add(self, job: Job, item: Segment | End) -> Iterator[Batch | End]:
        """Take what was read; give what is ready."""
        if isinstance(item, End):
            self._ends.append(item)
            if not self._segments:
                yield from self.flush()
            return
        if self._segments and item.keyframes.shape != self._segments[-1][1].keyframes.shape:
            yield from self.flush()
        self._segments.append((job, item))
        if self._is_full(item):
            yield from self.flush()

    def flush(self) -> Iterator[Batch | End]:
        """Give the batch, and the ends that have waited for it."""
        taken, ends = self._segments, self._ends
        self._segments, self._ends = [], []
        prepared = self._prepare(taken, time.monotonic() - self._started) if taken else []
        taken.clear()  # the pixels: nobody needs them while the next ones are read
        yield from prepared
        yield from (end for end in ends if end.job.video not in self.refused)
        self._started = time.monotonic()

    def _is_full(self, last: Segment) -> bool:
        num_segments = len(self._segments)
        # A video's frames are of one size, so the batches are the same whenever it is read.
        return (
            num_segments >= self._batch_size.segments_for(_frame_size(last))
            or (last.index + 1) % self._writer.row_block == 0
            or (num_segments + 1) * last.keyframes.nbytes > MAX_PIXEL_BYTES
        )

    def _prepare(
        self, taken: Sequence[tuple[Job, Segment]], decoding_seconds: float = 0.0
    ) -> list[Batch | End]:
        """Prepare segments; frames that the processor refuses are their video's fault."""
        started = time.monotonic()
        videos = [[*group] for _, group in groupby(taken, key=lambda pair: pair[0].video)]
        try:
            inputs = self._backbone.prepare(
                [segment for _, segment in taken], [job.fps for job, _ in taken]
            )
            self._batch_size.learn(_frame_size(taken[0][1]), inputs, len(taken))
            parts = tuple(self._part(video) for video in videos)
        except (MemoryError, ValueError, RuntimeError) as error:
            if len(videos) == 1:
                job, segment = taken[0]
                self.refused.add(job.video)
                return [End(job, failure=_why_refused(job, segment, error))]
        else:
            return [Batch(parts, inputs, decoding_seconds, time.monotonic() - started)]
        # Each by itself, so that only those fail whose fault it is.
        return [item for video in videos for item in self._prepare(video)]

    def _part(self, video: Sequence[tuple[Job, Segment]]) -> Part:
        """Describe one video's segments, with their pictures where the store keeps any."""
        thumbnails = None
        if (size := self._writer.thumbnail_size) is not None:
            middles = [segment.keyframes[len(segment.keyframes) // 2] for _, segment in video]
            thumbnails = np.stack([make_thumbnail(picture, size) for picture in middles])
        return Part(video[0][0], len(video), thumbnails)


def _frame_size(segment: Segment) -> tuple[int, int]:
    _, height, width, _ = segment.keyframes.shape
    return height, width


def _why_refused(job: Job, segment: Segment, error: BaseException) -> str:
    height, width = _frame_size(segment)
    if is_out_of_memory(error):
        return (
            f"{job.record.path}: there is not enough memory to prepare its {width}x{height} "
            "frames. Free some, take fewer --readers or --keyframes, or re-encode it smaller."
        )
    return f"{job.record.path}: the model's processor refuses its {width}x{height} frames: {error}"


def check_length(job: Job, reader: SegmentReader) -> str:
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
