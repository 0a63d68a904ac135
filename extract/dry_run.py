"""What a run would do, and how long it would take."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.batch_size import BatchSize
from hiprobe.extract.changed_files import find_changed
from hiprobe.extract.config import ExtractConfig
from hiprobe.extract.plan import read_records, select
from hiprobe.extract.recipe import gone_on_with
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.settings import check_settings
from hiprobe.extract.video import SegmentReader, VideoInfo, inspect_video
from hiprobe.store import FAILED, PENDING, REPLACED, VideoError, VideoRecord
from hiprobe.store.opened import OpenedStore
from hiprobe.store.store_folder import is_store

TIMED_PASSES = 2  # of a batch


@dataclass(frozen=True)
class DryRun:
    """What a run would do.

    Attributes
    ----------
    num_videos, num_segments : int
        Left to do.
    video_seconds : float
        Playing time of these videos.
    max_bytes : int
        Of their states on the disk, uncompressed.
    seconds_per_segment : float
        Measured without decoding, the median of several batches; 0 if there is nothing to do.
    seconds_range : (float, float)
        The least and the most of these.
    failures : dict of str to str
        Videos that cannot be opened, or whose files have changed, by id.
    notes : tuple of str
        See `hiprobe.extract.backbone.BackboneDescription`.
    """

    num_videos: int
    num_segments: int
    video_seconds: float
    max_bytes: int
    seconds_per_segment: float
    failures: dict[str, str]
    seconds_range: tuple[float, float] = (0.0, 0.0)
    notes: tuple[str, ...] = ()


def dry_run(config: ExtractConfig) -> DryRun:
    """Say what `extract` would do, without writing anything; times the model on one batch."""
    records, done = read_records(config), set()
    config = gone_on_with(config)
    check_settings(config)
    failures: dict[str, str] = {}
    if is_store(config.store):
        index = OpenedStore(config.store).index
        again = (PENDING, REPLACED, *((FAILED,) if config.retry_failed else ()))
        done = {name for name, at in index.positions().items() if index.status(at) not in again}
        changed = find_changed(index, select(records, config))
        if config.replace_changed:
            done -= changed.keys()
        else:
            failures |= changed
    backbone = Backbone(config.backbone)
    num_segments, video_seconds = 0, 0.0
    readable: list[tuple[VideoRecord, VideoInfo]] = []
    left = [r for r in records if r.video_id not in {*done, *failures}]
    for record in select(left, config):
        try:
            info = inspect_video(record.path)
        except VideoError as error:
            failures[record.video_id] = str(error)
            continue
        ranges = segment_ranges(info.num_frames, config.segment_frames)
        num_segments += len(ranges)
        video_seconds += info.num_frames / info.fps
        readable.append((record, info))
    times: list[float] = []
    for record, info in _spread(readable):
        times += _time_model(backbone, record, info, config)
    return DryRun(
        len(readable),
        num_segments,
        video_seconds,
        backbone.segment_bytes * num_segments,
        median(times) if times else 0.0,
        failures,
        (min(times), max(times)) if times else (0.0, 0.0),
        backbone.describe().notes,
    )


def _spread(
    videos: list[tuple[VideoRecord, VideoInfo]],
) -> list[tuple[VideoRecord, VideoInfo]]:
    """Take the first, a middle and the last one: they may be of other sizes."""
    return [videos[at] for at in sorted({0, len(videos) // 2, len(videos) - 1}) if videos]


def _time_model(
    backbone: Backbone, record: VideoRecord, info: VideoInfo, config: ExtractConfig
) -> list[float]:
    """Seconds per segment of a batch, each time it is run but the first."""
    ranges = segment_ranges(info.num_frames, config.segment_frames)
    size = BatchSize(config.batch_size, backbone.device).segments_for((info.height, info.width))
    fps = record.fps or info.fps
    window = config.window
    seen = None if window is None else window.of_segments(ranges, info.num_frames, fps)
    segments = list(SegmentReader(record.path, ranges[:size], config.keyframes, windows=seen))
    if not segments:
        return []
    inputs, times = backbone.prepare(segments, info.fps), []
    backbone.states(inputs)
    for _ in range(TIMED_PASSES):
        started = time.monotonic()
        backbone.states(inputs)
        times.append((time.monotonic() - started) / len(segments))
    return times
