"""What the readers' threads do: a video → its segments, in batches ready for the model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.batch_size import BatchSize
from hiprobe.extract.changed_files import changed_file
from hiprobe.extract.devices import is_out_of_memory
from hiprobe.extract.plan import Job
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.thumbnails import make_thumbnail
from hiprobe.extract.video import Segment, SegmentReader
from hiprobe.store import BlockWriter, VideoError

# A container's count may be off by the frames that a cut left without their reference.
TOLERANCE_FRAMES = 24
# Pixels of a batch before they are resized: 8 segments of 8 keyframes of 1920x1080. Larger frames
# go through the model in smaller batches.
MAX_PIXEL_BYTES = 2**29


@dataclass(frozen=True)
class Batch:
    """Consecutive segments of one video and one block, prepared.

    Attributes
    ----------
    job : Job
    num_segments : int
    inputs : dict of str to Tensor
        From `Backbone.prepare`.
    thumbnails : (segment, y, x, 3) uint8 or None
    decoding_seconds, preparing_seconds : float
        What its reader took.
    """

    job: Job
    num_segments: int
    inputs: dict[str, torch.Tensor]
    thumbnails: np.ndarray | None
    decoding_seconds: float = 0.0
    preparing_seconds: float = 0.0

    @property
    def num_bytes(self) -> int:
        """What it takes of the main memory."""
        return sum(tensor.nbytes for tensor in self.inputs.values())


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
    job: Job,
    *,
    backbone: Backbone,
    writer: BlockWriter,
    batch_size: BatchSize,
    segment_frames: int | None,
    keyframes: int,
) -> Iterator[Batch | End]:
    """Decode and preprocess a video, in batches that never cross a block's end.

    A block is committed whole and a resumed video begins with a block. So batches are made of the
    same segments whether a run was interrupted or not, and so the states are the same to the last
    bit: they depend a little on what shares a batch.
    """
    known = writer.index.file(job.video)
    if changed := changed_file(known, job.record.path):
        yield End(job, changed=changed)
        return
    first = job.first_block * writer.row_block
    ranges = segment_ranges(job.num_frames, segment_frames)
    reader = SegmentReader(job.record.path, ranges, keyframes, first)
    segments = iter(reader)
    position = first
    # A failure is an item like any other: the model's thread meets it after the video's batches.
    try:
        while True:
            room = writer.row_block - position % writer.row_block
            started = time.monotonic()
            batch = _take(segments, min(batch_size.size, room))
            if not batch:
                break
            decoded = time.monotonic()
            num_segments, inputs = len(batch), _prepare(backbone, batch, job)
            thumbnails = _thumbnails(batch, writer.thumbnail_size)
            del batch  # the pixels: nobody needs them while the next ones are read
            yield Batch(
                job, num_segments, inputs, thumbnails, decoded - started, time.monotonic() - decoded
            )
            position += num_segments
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


def _take(segments: Iterator[Segment], num_segments: int) -> list[Segment]:
    """Take a batch: so many segments, or fewer where their frames are large; empty at the end."""
    batch: list[Segment] = []
    # A video's frames are of one size, so the batches are the same whenever it is read.
    while len(batch) < num_segments and (segment := next(segments, None)) is not None:
        batch.append(segment)
        if (len(batch) + 1) * segment.keyframes.nbytes > MAX_PIXEL_BYTES:
            break
    return batch


def _thumbnails(batch: Sequence[Segment], size: tuple[int, int] | None) -> np.ndarray | None:
    """Make the segments' thumbnails, of their middle keyframes, if the store keeps them."""
    if size is None:
        return None
    middles = [segment.keyframes[len(segment.keyframes) // 2] for segment in batch]
    return np.stack([make_thumbnail(picture, size) for picture in middles])


def _prepare(backbone: Backbone, batch: Sequence[Segment], job: Job) -> dict[str, torch.Tensor]:
    """Prepare a batch; frames that the processor refuses are the video's fault."""
    height, width = batch[0].keyframes.shape[1:3]
    try:
        return backbone.prepare(batch, job.fps)
    except (MemoryError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise VideoError(
                f"{job.record.path}: there is not enough memory to prepare its {width}x{height} "
                "frames. Free some, take fewer --readers or --keyframes, or re-encode it smaller."
            ) from error
        raise VideoError(
            f"{job.record.path}: the model's processor refuses its {width}x{height} frames: {error}"
        ) from error


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
