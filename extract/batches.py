"""What the readers' threads do: a video → its segments, in batches ready for the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.batch_size import BatchSize
from hiprobe.extract.plan import Job
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.thumbnails import make_thumbnail
from hiprobe.extract.video import Segment, SegmentReader
from hiprobe.store import BlockWriter, VideoError

# A container's count may be off by the frames that a cut left without their reference.
TOLERANCE_FRAMES = 24


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
    """

    job: Job
    num_segments: int
    inputs: dict[str, torch.Tensor]
    thumbnails: np.ndarray | None


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
    """

    job: Job
    num_frames: int = 0
    note: str = ""
    failure: str = ""


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
    first = job.first_block * writer.row_block
    ranges = segment_ranges(job.num_frames, segment_frames)
    reader = SegmentReader(job.record.path, ranges, keyframes, first)
    segments = iter(reader)
    position = first
    # A failure is an item like any other: the model's thread meets it after the video's batches.
    try:
        while True:
            room = writer.row_block - position % writer.row_block
            batch = list(islice(segments, min(batch_size.size, room)))
            if not batch:
                break
            inputs = _prepare(backbone, batch, job)
            yield Batch(job, len(batch), inputs, _thumbnails(batch, writer.thumbnail_size))
            position += len(batch)
        note = check_length(job, reader)
    except VideoError as error:
        yield End(job, failure=str(error))
    else:
        # Frames beyond the plan have no rows.
        yield End(job, num_frames=min(reader.num_decoded, job.num_frames), note=note)


def _thumbnails(batch: Sequence[Segment], size: tuple[int, int] | None) -> np.ndarray | None:
    """Make the segments' thumbnails, of their middle keyframes, if the store keeps them."""
    if size is None:
        return None
    middles = [segment.keyframes[len(segment.keyframes) // 2] for segment in batch]
    return np.stack([make_thumbnail(picture, size) for picture in middles])


def _prepare(backbone: Backbone, batch: Sequence[Segment], job: Job) -> dict[str, torch.Tensor]:
    """Prepare a batch; frames that the processor refuses are the video's fault."""
    try:
        return backbone.prepare(batch, job.fps)
    except (ValueError, RuntimeError) as error:
        height, width = batch[0].keyframes.shape[1:3]
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
