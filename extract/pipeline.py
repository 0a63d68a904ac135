"""The extraction job: manifest → segments → backbone → store, video by video.

Run by ``hiprobe extract``. The same call goes on where an interrupted one was: what the
store's journal holds is not computed again. A video that fails is recorded with its reason,
and the batch goes on.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np

from hiprobe.extract.backbone import Backbone, BackboneConfig
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.video import Segment, SegmentReader, inspect_video
from hiprobe.store import (
    DONE,
    FAILED,
    PENDING,
    FeatureStore,
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
    batch_size : int
        Segments of one video per forward pass.
    limit : int or None
        At most so many videos in this run.
    """

    manifest: Path
    store: Path
    backbone: BackboneConfig
    segment_frames: int | None = 24
    keyframes: int = 8
    batch_size: int = 8
    limit: int | None = None


@dataclass(frozen=True)
class Progress:
    """Where the job is; sent before each video and after each batch."""

    video_id: str
    num_segments_done: int
    num_segments: int


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
    """

    num_done: int
    num_pending: int
    num_segments: int
    failures: dict[str, str]
    notes: dict[str, str]


def extract(
    config: ExtractConfig, on_progress: Callable[[Progress], None] = lambda progress: None
) -> ExtractSummary:
    """Run, or go on with, an extraction.

    Parameters
    ----------
    config : ExtractConfig
    on_progress : callable
        Called with a `Progress`.

    Raises
    ------
    ManifestError, ModelError, StoreError
        Nothing was lost; the message says what to do.
    """
    records = read_manifest(config.manifest)
    backbone = Backbone(config.backbone)
    with _open_writer(config, backbone) as writer:
        _plan_new_videos(writer, records, config.segment_frames)
        _extract_videos(writer, backbone, records, config, on_progress)
    return _summarise(FeatureStore.open(config.store), records)


def _open_writer(config: ExtractConfig, backbone: Backbone) -> StoreWriter:
    """Create the store, or open it after checking that this run would give the same numbers."""
    fixed = {
        **backbone.provenance(),
        "segment_frames": config.segment_frames or "whole",
        "keyframes": config.keyframes,
        "layers": list(backbone.layers),
    }
    if (config.store / "zarr.json").exists():
        writer = StoreWriter(config.store)
        differences = [
            f"  {name}: store {writer.provenance.get(name)!r}, this run {fixed[name]!r}"
            for name in FIXED_PROVENANCE
            if writer.provenance.get(name) != fixed[name]
        ]
        if differences:
            raise StoreError(
                f"{config.store}: was made with other settings:\n"
                + "\n".join(differences)
                + "\nRun with the store's settings, or write to another store."
            )
        return writer
    return StoreWriter.create(
        config.store,
        layers=backbone.layers,
        num_features=backbone.num_features,
        provenance={
            **fixed,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "manifest": {
                "path": str(config.manifest.absolute()),
                "digest": file_digest(config.manifest),
            },
            "batch_size": config.batch_size,
            "device": str(backbone.device),
            "libraries": {name: version(name) for name in LIBRARIES}
            | {"python": platform.python_version()},
        },
    )


def _plan_new_videos(
    writer: StoreWriter, records: Sequence[VideoRecord], segment_frames: int | None
) -> None:
    """Give rows to the manifest's videos that the store does not know yet."""
    known = set(writer.index.videos["video_id"])
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
    for video, video_id in enumerate(writer.index.videos["video_id"]):
        if video_id in unreadable:
            writer.finish_video(
                video, status=FAILED, num_frames=0, fps=math.nan, error=unreadable[video_id]
            )


def _extract_videos(
    writer: StoreWriter,
    backbone: Backbone,
    records: Sequence[VideoRecord],
    config: ExtractConfig,
    on_progress: Callable[[Progress], None],
) -> None:
    position = {video_id: i for i, video_id in enumerate(writer.index.videos["video_id"])}
    status = writer.index.videos["status"]
    todo = [record for record in records if status[position[record.video_id]] == PENDING]
    todo = todo[: config.limit]
    counts = writer.index.videos["num_segments"]
    num_segments = sum(int(counts[position[record.video_id]]) for record in todo)
    before = 0
    for record in todo:
        video = position[record.video_id]
        own_segments = int(counts[video])

        def report(done: int, record: VideoRecord = record, before: int = before) -> None:
            on_progress(Progress(record.video_id, before + done, num_segments))

        _extract_video(writer, backbone, video, record, config, report)
        before += own_segments


def _extract_video(
    writer: StoreWriter,
    backbone: Backbone,
    video: int,
    record: VideoRecord,
    config: ExtractConfig,
    report: Callable[[int], None],
) -> None:
    """Extract what is missing of one video, and commit its outcome."""
    num_frames = int(writer.index.videos["num_frames"][video])
    fps = float(writer.index.videos["fps"][video])
    ranges = segment_ranges(num_frames, config.segment_frames)
    # Blocks are written in order, so the committed ones are the first ones.
    block = len(writer.index.committed_blocks.get(video, ()))
    reader = SegmentReader(record.path, ranges, config.keyframes, block * writer.row_block)
    report(done := block * writer.row_block)
    waiting: list[np.ndarray] = []
    try:
        for batch in _batches(iter(reader), config.batch_size):
            states = backbone.states(backbone.prepare(batch, fps))
            _check_finite(states, backbone.layers, batch, record)
            waiting.append(states)
            report(done := done + len(batch))
            while sum(part.shape[1] for part in waiting) >= writer.row_block:
                joined = np.concatenate(waiting, axis=1)
                writer.write_block(video, block, joined[:, : writer.row_block])
                waiting, block = [joined[:, writer.row_block :]], block + 1
        note = _check_length(record, reader, num_frames)
    except VideoError as error:
        writer.finish_video(video, status=FAILED, num_frames=num_frames, fps=fps, error=str(error))
        return
    if sum(part.shape[1] for part in waiting):
        writer.write_block(video, block, np.concatenate(waiting, axis=1))
    writer.finish_video(
        video,
        status=DONE,
        num_frames=min(reader.num_decoded, num_frames),
        fps=fps,
        error=note,
    )


def _batches(segments: Iterator[Segment], size: int) -> Iterator[list[Segment]]:
    while batch := list(islice(segments, size)):
        yield batch


def _check_finite(
    states: np.ndarray, layers: Sequence[int], batch: Sequence[Segment], record: VideoRecord
) -> None:
    bad = ~np.isfinite(states).all(axis=2)
    if bad.any():
        layer, segment = np.argwhere(bad)[0]
        raise VideoError(
            f"{record.path}: the model gave a non-finite state in layer {layers[layer]} of segment "
            f"{batch[segment].index}. Half precision may have overflowed: try --dtype bfloat16 or "
            "float32."
        )


def _check_length(record: VideoRecord, reader: SegmentReader, num_frames: int) -> str:
    """Compare the frames decoded with those announced; return a note.

    Raises
    ------
    VideoError
        More than one segment's worth of frames is missing or too many: the file is broken.
    """
    tolerance_frames = 24
    notes = []
    if reader.num_bad_packets:
        notes.append(f"{reader.num_bad_packets} packet(s) could not be decoded")
    if reader.num_decoded != num_frames:
        text = f"decoded {reader.num_decoded} of the {num_frames} frames announced"
        if abs(reader.num_decoded - num_frames) > tolerance_frames or not reader.num_decoded:
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


def _summarise(store: FeatureStore, records: Sequence[VideoRecord]) -> ExtractSummary:
    videos = store.videos.loc[[record.video_id for record in records]]
    done, failed = videos[videos["status"] == DONE], videos[videos["status"] == FAILED]
    return ExtractSummary(
        num_done=len(done),
        num_pending=int((videos["status"] == PENDING).sum()),
        num_segments=int(done["num_segments"].sum()),
        failures=dict(failed["error"]),
        notes={str(key): note for key, note in done["error"].items() if note},
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
