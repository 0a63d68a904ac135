"""The extraction job: manifest → plan → videos extracted, here or on a cluster → sealed store.

Run by ``hiprobe extract``. The same call goes on where an interrupted one was: what the
store's journal holds is not computed again. A video that fails is recorded with its reason,
and the batch goes on.
"""

from __future__ import annotations

import math
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from hiprobe.extract.backbone import Backbone, BackboneConfig, BackboneDescription
from hiprobe.extract.extractor import BatchSize, Job, OnProgress, extract_videos
from hiprobe.extract.parity import recompute
from hiprobe.extract.segments import NUM_KEYFRAMES, SEGMENT_FRAMES, segment_ranges
from hiprobe.extract.thumbnails import THUMBNAIL_SIZE
from hiprobe.extract.video import SegmentReader, inspect_video
from hiprobe.store import (
    DONE,
    FAILED,
    PENDING,
    REPLACED,
    FeatureStore,
    ManifestError,
    PlannedVideo,
    StoreError,
    StoreWriter,
    VideoError,
    VideoRecord,
    file_digest,
    read_manifest,
)

LIBRARIES = ("hiprobe", "torch", "transformers", "torchvision", "av", "zarr", "numpy")
# Provenance that must not change between the runs that fill one store.
FIXED_PROVENANCE = (
    "model",
    "prompt",
    "prompt_text",
    "processor",
    "segment_frames",
    "keyframes",
    "layers",
    "numerics",
    "thumbnails",
)


@dataclass(frozen=True)
class ExtractConfig:
    """One extraction.

    Attributes
    ----------
    manifest, store : Path
    backbone : BackboneConfig
    segment_frames : int or None
        Frames of a segment; None makes each video one segment.
    keyframes : int
        Keyframes per segment, K.
    thumbnails : bool
        Keep a small picture of each segment too, for the report.
    batch_size : int or None
        Segments of one video per forward pass; None finds the largest that fits.
    num_readers : int
        Threads that decode and preprocess ahead of the model.
    num_workers : int
        Processes that share the videos on this machine; 0 works in this one.
    scheduler : str or None
        Address of a running Dask scheduler whose workers share the videos.
    rank, world_size : int
        Take every `world_size`-th video of the manifest, from the `rank`-th on.
    limit : int or None
        At most so many videos in this run.
    only : tuple of str
        Ids of the videos to extract in this run, or patterns with ``*``; none: all.
    retry_failed : bool
        Plan and extract failed videos again.
    parity : int
        Segments to compute again at the end, one at a time.
    """

    manifest: Path
    store: Path
    backbone: BackboneConfig
    segment_frames: int | None = SEGMENT_FRAMES
    keyframes: int = NUM_KEYFRAMES
    thumbnails: bool = False
    batch_size: int | None = None
    num_readers: int = 2
    num_workers: int = 0
    scheduler: str | None = None
    rank: int = 0
    world_size: int = 1
    limit: int | None = None
    only: tuple[str, ...] = ()
    retry_failed: bool = False
    parity: int = 4


@dataclass(frozen=True)
class ExtractSummary:
    """What the store holds after a run.

    Attributes
    ----------
    num_done, num_pending : int
        Videos.
    num_segments : int
        Segments of the finished videos.
    failures, notes : dict of str to str
        Reason, or remark, by video id.
    parity : dict or None
        The certificate of this run, see `hiprobe.extract.parity`.
    """

    num_done: int
    num_pending: int
    num_segments: int
    failures: dict[str, str]
    notes: dict[str, str]
    parity: dict[str, Any] | None


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
        Measured on the first video, without decoding; 0 if there is nothing to do.
    failures : dict of str to str
        Videos that cannot be opened, by id.
    """

    num_videos: int
    num_segments: int
    video_seconds: float
    max_bytes: int
    seconds_per_segment: float
    failures: dict[str, str]


class Workplace(Protocol):
    """Where the model runs: in this process, or on a Dask cluster."""

    description: BackboneDescription

    def extract(self, writer: StoreWriter, jobs: Sequence[Job], on_progress: OnProgress) -> None:
        """Extract videos; each outcome is committed to the store's journals."""

    def recompute(self, num_segments: int, seed: int) -> dict[str, Any]:
        """Make a parity certificate, see `hiprobe.extract.parity.recompute`."""

    def close(self) -> None:
        """Let go of what it holds."""


class Here:
    """The workplace that this process is."""

    def __init__(self, config: ExtractConfig) -> None:
        self._config, self._backbone = config, Backbone(config.backbone)
        self.description = self._backbone.describe()

    def extract(self, writer: StoreWriter, jobs: Sequence[Job], on_progress: OnProgress) -> None:
        """See `Workplace`."""
        extract_videos(
            writer,
            self._backbone,
            jobs,
            segment_frames=self._config.segment_frames,
            keyframes=self._config.keyframes,
            batch_size=BatchSize(self._config.batch_size, self._backbone.device),
            num_readers=self._config.num_readers,
            on_progress=on_progress,
        )

    def recompute(self, num_segments: int, seed: int) -> dict[str, Any]:
        """See `Workplace`."""
        return recompute(self._config.store, self._backbone, num_segments, seed)

    def close(self) -> None:
        """See `Workplace`."""


def extract(
    config: ExtractConfig,
    on_progress: OnProgress = lambda progress: None,
    on_plan: Callable[[int, int], None] = lambda num_videos, num_segments: None,
) -> ExtractSummary:
    """Run, or go on with, an extraction.

    Parameters
    ----------
    config : ExtractConfig
    on_progress : callable
        Called with a `Progress`.
    on_plan : callable
        Called once with the videos and the segments left to do in this run.

    Raises
    ------
    ManifestError, ModelError, StoreError
        Nothing was lost; the message says what to do.
    """
    records = _read_records(config)
    workplace = _workplace(config)
    certificate = None
    try:
        with _open_writer(config, workplace.description) as writer:
            if config.retry_failed:
                _set_failed_aside(writer, records)
            _plan_new_videos(writer, records, config.segment_frames)
            jobs, num_segments = _jobs(writer, _select(records, config), config.limit)
            on_plan(len(jobs), num_segments)
            workplace.extract(writer, jobs, on_progress)
            if jobs and config.parity:
                certificate = workplace.recompute(config.parity, seed=len(writer.index.videos))
                writer.record("parity", certificate)
    finally:
        workplace.close()
    return _summarise(FeatureStore.open(config.store), records, certificate)


def dry_run(config: ExtractConfig) -> DryRun:
    """Say what `extract` would do, without writing anything; times the model on one batch."""
    records, done = _read_records(config), set()
    if (config.store / "zarr.json").exists():
        videos = FeatureStore.open(config.store).videos
        done = set(videos.index[videos["status"] != PENDING])
    backbone = Backbone(config.backbone)
    num_videos = num_segments = 0
    video_seconds, seconds_per_segment, failures = 0.0, 0.0, {}
    for record in _select([r for r in records if r.video_id not in done], config):
        try:
            info = inspect_video(record.path)
        except VideoError as error:
            failures[record.video_id] = str(error)
            continue
        ranges = segment_ranges(info.num_frames, config.segment_frames)
        num_videos, num_segments = num_videos + 1, num_segments + len(ranges)
        video_seconds += info.num_frames / info.fps
        if not seconds_per_segment:
            seconds_per_segment = _time_model(backbone, record, ranges, info.fps, config)
    return DryRun(
        num_videos,
        num_segments,
        video_seconds,
        4 * len(backbone.layers) * backbone.num_features * num_segments,
        seconds_per_segment,
        failures,
    )


def _time_model(
    backbone: Backbone,
    record: VideoRecord,
    ranges: list[tuple[int, int]],
    fps: float,
    config: ExtractConfig,
) -> float:
    """Seconds per segment of a batch, the second time it is run."""
    size = BatchSize(config.batch_size, backbone.device).size
    segments = list(SegmentReader(record.path, ranges[:size], config.keyframes))
    inputs = backbone.prepare(segments, fps)
    backbone.states(inputs)
    started = time.monotonic()
    backbone.states(inputs)
    return (time.monotonic() - started) / len(segments)


def _read_records(config: ExtractConfig) -> list[VideoRecord]:
    return read_manifest(config.manifest)[config.rank :: config.world_size]


def _workplace(config: ExtractConfig) -> Workplace:
    if config.scheduler is None and not config.num_workers:
        return Here(config)
    from hiprobe.extract.cluster import Cluster

    return Cluster(config)


def _open_writer(config: ExtractConfig, backbone: BackboneDescription) -> StoreWriter:
    """Create the store, or open it after checking that this run would give the same numbers."""
    fixed = {
        **backbone.provenance,
        "segment_frames": config.segment_frames or "whole",
        "keyframes": config.keyframes,
        "layers": list(backbone.layers),
        "thumbnails": list(THUMBNAIL_SIZE) if config.thumbnails else None,
    }
    if (config.store / "zarr.json").exists():
        writer = StoreWriter(config.store)
        if differences := _differences(writer.provenance, fixed):
            writer.close()
            raise StoreError(
                f"{config.store}: was made with other settings:\n"
                + "\n".join(f"  {line}" for line in differences)
                + "\nRun with the store's settings, or write to another store."
            )
        return writer
    return StoreWriter.create(
        config.store,
        layers=backbone.layers,
        num_features=backbone.num_features,
        thumbnail_size=THUMBNAIL_SIZE if config.thumbnails else None,
        provenance={
            **fixed,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "manifest": {
                "path": str(config.manifest.absolute()),
                "digest": file_digest(config.manifest),
            },
            "batch_size": config.batch_size or "auto",
            "device": backbone.device,
            "libraries": {name: version(name) for name in LIBRARIES}
            | {"python": platform.python_version()},
        },
    )


def _differences(stored: Any, wanted: Any, name: str = "") -> list[str]:
    """Name each setting that differs, down to the innermost one."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        names = FIXED_PROVENANCE if not name else sorted({*stored, *wanted})
        return [
            line
            for key in names
            for line in _differences(
                stored.get(key), wanted.get(key), f"{name}.{key}" if name else key
            )
        ]
    return [] if stored == wanted else [f"{name}: store {stored!r}, this run {wanted!r}"]


def _set_failed_aside(writer: StoreWriter, records: Sequence[VideoRecord]) -> None:
    positions, status = writer.index.positions(), writer.index.videos["status"]
    for record in records:
        video = positions.get(record.video_id)
        if video is not None and status[video] == FAILED:
            writer.replace_failed(video)


def _plan_new_videos(
    writer: StoreWriter, records: Sequence[VideoRecord], segment_frames: int | None
) -> None:
    """Give rows to the manifest's videos that the store does not know yet."""
    status = writer.index.videos["status"]
    known = {
        video_id
        for video_id, video in writer.index.positions().items()
        if status[video] != REPLACED
    }
    planned, unreadable = [], {}
    for record in records:
        if record.video_id in known:
            continue
        try:
            info = inspect_video(record.path)
        except VideoError as error:
            unreadable[record.video_id] = str(error)
            planned.append(PlannedVideo(record, 0, math.nan, ()))
            continue
        segments = segment_ranges(info.num_frames, segment_frames)
        planned.append(PlannedVideo(record, info.num_frames, record.fps or info.fps, segments))
    writer.add_videos(planned)
    positions = writer.index.positions()
    for video_id, reason in unreadable.items():
        writer.finish_video(
            positions[video_id], status=FAILED, num_frames=0, fps=math.nan, error=reason
        )


def _select(records: Sequence[VideoRecord], config: ExtractConfig) -> list[VideoRecord]:
    """Keep the videos that this run is asked for.

    Raises
    ------
    ManifestError
        A pattern fits no video.
    """
    if not config.only:
        return list(records)
    for pattern in config.only:
        if not any(fnmatchcase(record.video_id, pattern) for record in records):
            raise ManifestError(
                f"{config.manifest}: --only {pattern!r} fits none of its {len(records)} video ids; "
                f"they look like {records[0].video_id!r}."
            )
    return [r for r in records if any(fnmatchcase(r.video_id, one) for one in config.only)]


def _jobs(
    writer: StoreWriter, records: Sequence[VideoRecord], limit: int | None
) -> tuple[list[Job], int]:
    """List what is left to do, with the number of segments in it."""
    index, positions = writer.index, writer.index.positions()
    jobs, num_segments = [], 0
    for record in records:
        video = positions[record.video_id]
        if index.videos["status"][video] != PENDING:
            continue
        # Blocks are written in order, so the committed ones are the first ones.
        first_block = len(index.committed_blocks.get(video, ()))
        num_segments += int(index.videos["num_segments"][video]) - first_block * writer.row_block
        jobs.append(
            Job(
                video,
                record,
                int(index.videos["num_frames"][video]),
                float(index.videos["fps"][video]),
                first_block,
            )
        )
        if len(jobs) == limit:
            break
    return jobs, num_segments


def _summarise(
    store: FeatureStore, records: Sequence[VideoRecord], parity: dict[str, Any] | None
) -> ExtractSummary:
    videos = store.videos.loc[[record.video_id for record in records]]
    done, failed = videos[videos["status"] == DONE], videos[videos["status"] == FAILED]
    return ExtractSummary(
        num_done=len(done),
        num_pending=int((videos["status"] == PENDING).sum()),
        num_segments=int(done["num_segments"].sum()),
        failures=dict(failed["error"]),
        notes={str(key): note for key, note in done["error"].items() if note},
        parity=parity,
    )


def parse_layers(text: str) -> tuple[int, ...] | None:
    """Read ``all`` or ``0,8,16-24`` into ascending layer indices; None means all.

    Raises
    ------
    ValueError
        Not of that form.
    """
    if text == "all":
        return None
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise ValueError(f"{text!r} is no list of layers")
    layers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        layers.update(range(int(first), int(last or first) + 1))
    if not layers:
        raise ValueError(f"no layers in {text!r}")
    return tuple(sorted(layers))
