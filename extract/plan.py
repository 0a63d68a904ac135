"""What a run has to do: the manifest's videos that it is asked for → rows in the store → jobs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hiprobe.extract.config import ExtractConfig
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.video import inspect_video
from hiprobe.store import (
    DONE,
    FAILED,
    PENDING,
    REPLACED,
    BlockWriter,
    FileIdentity,
    ManifestError,
    PlannedVideo,
    StoreWriter,
    VideoError,
    VideoRecord,
    read_manifest,
)
from hiprobe.store.windows import Window

# What a worker of a cluster is given at a time: a part of its share, and not too many videos.
GROUPS_PER_WORKER, GROUP_VIDEOS = 4, 16


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
        Blocks before it are committed already, with all taps.
    num_segments : int
        Left to do.
    is_done : bool
        The video is done, but older than some of the store's taps: these are to be added.
    """

    video: int
    record: VideoRecord
    num_frames: int
    fps: float
    first_block: int
    num_segments: int
    is_done: bool = False


def read_records(config: ExtractConfig) -> list[VideoRecord]:
    """Read this rank's share of the manifest."""
    return read_manifest(config.manifest)[config.rank :: config.world_size]


def select(records: Sequence[VideoRecord], config: ExtractConfig) -> list[VideoRecord]:
    """Keep the videos that this run is asked for.

    Raises
    ------
    ManifestError
        A pattern fits no video, or there is none of the split.
    """
    if config.split is not None:
        of_split = [record for record in records if record.split == config.split]
        if records and not of_split:
            raise ManifestError(f"{config.manifest}: has no videos of --split {config.split}.")
        records = of_split
    if not config.only:
        return list(records)
    for pattern in config.only:
        if not any(fnmatchcase(record.video_id, pattern) for record in records):
            raise ManifestError(
                f"{config.manifest}: --only {pattern!r} fits none of its {len(records)} video ids; "
                f"they look like {records[0].video_id!r}."
            )
    return [r for r in records if any(fnmatchcase(r.video_id, one) for one in config.only)]


def set_failed_aside(writer: StoreWriter, records: Sequence[VideoRecord]) -> None:
    """Mark these videos' failures as replaced, so that they are planned anew."""
    positions = writer.index.positions()
    for record in records:
        video = positions.get(record.video_id)
        if video is not None and writer.index.status(video) == FAILED:
            writer.replace_failed(video)


def plan_new_videos(
    writer: StoreWriter,
    records: Sequence[VideoRecord],
    segment_frames: int | None,
    window: Window | None = None,
) -> None:
    """Give rows to the manifest's videos that the store does not know yet.

    A video that cannot be opened gets a place without rows and has failed: its reason is kept.
    """
    index = writer.index
    known = {
        video_id for video_id, video in index.positions().items() if index.status(video) != REPLACED
    }
    planned, unreadable = [], {}
    for record in records:
        if record.video_id in known:
            continue
        # First: if the file changes in between, it will be seen.
        file = _identity(record.path)
        try:
            info = inspect_video(record.path)
        except VideoError as error:
            unreadable[record.video_id] = str(error)
            planned.append(PlannedVideo(record, 0, math.nan, (), file))
            continue
        segments = segment_ranges(info.num_frames, segment_frames)
        # A frame rate that the manifest gives is somebody's correction of the container's.
        fps = record.fps or info.fps
        seen = None if window is None else window.of_segments(segments, info.num_frames, fps)
        planned.append(PlannedVideo(record, info.num_frames, fps, segments, file, seen))
    writer.add_videos(planned)
    positions = writer.index.positions()
    for video_id, reason in unreadable.items():
        writer.finish_video(
            positions[video_id], status=FAILED, num_frames=0, fps=math.nan, error=reason
        )


def _identity(path: str) -> FileIdentity | None:
    """Which file it is; None where it cannot be read, which `inspect_video` says better."""
    try:
        return FileIdentity.of(path)
    except OSError:
        return None


def jobs_left(
    writer: StoreWriter, records: Sequence[VideoRecord], limit: int | None
) -> tuple[list[Job], int]:
    """List what is left to do, with the number of segments in it."""
    positions = writer.index.positions()
    jobs: list[Job] = []
    for record in records:
        video = positions[record.video_id]
        if not is_left(writer, video):
            continue
        jobs.append(job_of(writer, video, record))
        if len(jobs) == limit:
            break
    return jobs, sum(job.num_segments for job in jobs)


def is_left(writer: BlockWriter, video: int) -> bool:
    """Whether there is something to do of a video: it is not done, or lacks a tap."""
    status, index = writer.index.status(video), writer.index
    return status == PENDING or (
        status == DONE and not all(index.has_states(video, name) for name in writer.taps)
    )


def job_of(writer: BlockWriter, video: int, record: VideoRecord) -> Job:
    """What is left to do of a video."""
    index, first_block = writer.index, writer.index.whole_blocks(video, writer.taps)
    left = index.num_segments(video) - first_block * writer.row_block
    is_done = index.status(video) == DONE
    return Job(video, record, index.num_frames(video), index.fps(video), first_block, left, is_done)


def groups(jobs: Sequence[Job], num_workers: int) -> list[list[Job]]:
    """Part jobs into what a worker of a cluster is given at a time, in their order.

    So many that workers share evenly, however long the videos are; of so many videos that decoding
    overlaps with the model inside a worker.
    """
    num_segments = sum(job.num_segments for job in jobs)
    share = num_segments / (GROUPS_PER_WORKER * max(1, num_workers))
    found: list[list[Job]] = []
    room = 0.0
    for job in jobs:
        # Half of a video may be too many: that keeps the shares even on the average.
        if found and job.num_segments / 2 <= room and len(found[-1]) < GROUP_VIDEOS:
            found[-1].append(job)
        else:
            found.append([job])
            room = share
        room -= job.num_segments
    return found


def packs(jobs: Iterable[Job], row_block: int, max_segments: int) -> list[list[Job]]:
    """Part jobs into what one reader reads at a time, in their order.

    A pack is consecutive short videos, each of one block of the store's, with `max_segments`
    segments together; their segments may share batches. A longer video, also one whose end is all
    that is left, is a pack of its own.
    """
    found: list[list[Job]] = []
    room = 0
    for job in jobs:
        is_short = not job.first_block and job.num_segments <= row_block
        if is_short and job.num_segments <= room:
            found[-1].append(job)
        else:
            found.append([job])
            room = max_segments if is_short else 0
        room -= job.num_segments
    return found
