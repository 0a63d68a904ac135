"""Joining stores that parts of one extraction wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.store.errors import StoreError
from hiprobe.store.manifest import VideoRecord
from hiprobe.store.reader import FeatureStore
from hiprobe.store.schema import DONE
from hiprobe.store.writer import PlannedVideo, StoreWriter

# What may differ between the parts.
OWN_PROVENANCE = frozenset(
    [
        "created",
        "manifest",
        "batch_size",
        "device",
        "libraries",
        "num_videos",
        "num_rows",
        "parity",
        "merged_from",
    ]
)

# What a new store gets of its own.
STRUCTURE = ("num_videos", "num_rows", "schema_version", "layer_convention", "row_block")


def merge(
    out: Path,
    parts: Sequence[Path],
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Copy the finished videos of several stores, in their order, into a new one.

    Parameters
    ----------
    out : Path
        Interrupted, or with more parts, the same call goes on where it was.
    parts : sequence of Path
        Made with the same settings; a video may be in one of them only.
    on_video : callable
        Called with (videos done, videos).

    Returns
    -------
    int
        Videos in `out`.

    Raises
    ------
    StoreError
        The parts do not fit together.
    """
    stores = [FeatureStore.open(part) for part in parts]
    _check_same_settings(stores)
    owners = _owners(stores)
    with _open(out, stores, parts) as writer:
        new = [v for v in owners if v not in writer.index.positions()]
        writer.add_videos([_plan(owners[video_id], video_id) for video_id in new])
        positions = writer.index.positions()
        for done, (video_id, store) in enumerate(owners.items()):
            on_video(done, len(owners))
            if writer.index.status(positions[video_id]) != DONE:
                write_video(
                    writer,
                    positions[video_id],
                    store.video(video_id),
                    store.videos.loc[video_id],
                    None if store.thumbnail_size is None else store.thumbnails(video_id),
                )
        on_video(len(owners), len(owners))
    return len(owners)


def _owners(stores: Sequence[FeatureStore]) -> dict[str, FeatureStore]:
    """Which store holds each finished video."""
    owners: dict[str, FeatureStore] = {}
    for store in stores:
        videos = store.videos
        for video_id in videos.index[videos["status"] == DONE]:
            if video_id in owners:
                raise StoreError(
                    f"{video_id!r} is in both {owners[video_id].path} and {store.path}. "
                    "Leave one of them out."
                )
            owners[video_id] = store
    return owners


def _check_same_settings(stores: Sequence[FeatureStore]) -> None:
    first = _settings(stores[0])
    for store in stores[1:]:
        own = _settings(store)
        if names := [name for name in sorted({*first, *own}) if first.get(name) != own.get(name)]:
            name = names[0]
            raise StoreError(
                f"{store.path}: made with other settings than {stores[0].path}: {name} is "
                f"{own.get(name)!r}, not {first.get(name)!r}. Only parts of one extraction merge."
            )


def _settings(store: FeatureStore) -> dict[str, Any]:
    shape = {
        "num_features": store.num_features,
        "layers": store.layers,
        "thumbnail_size": store.thumbnail_size,
    }
    return shape | {k: v for k, v in store.provenance.items() if k not in OWN_PROVENANCE}


def _open(out: Path, stores: Sequence[FeatureStore], parts: Sequence[Path]) -> StoreWriter:
    if (out / "zarr.json").exists():
        _check_same_settings([stores[0], FeatureStore.open(out)])
        return StoreWriter(out)
    provenance = {
        name: value for name, value in stores[0].provenance.items() if name not in STRUCTURE
    }
    return StoreWriter.create(
        out,
        layers=stores[0].layers,
        num_features=stores[0].num_features,
        provenance=provenance | {"merged_from": [str(part) for part in parts]},
        row_block=stores[0].row_block,
        thumbnail_size=stores[0].thumbnail_size,
    )


def _plan(store: FeatureStore, video_id: str) -> PlannedVideo:
    video = store.videos.loc[video_id]
    record = VideoRecord(
        video_id=video_id,
        **{name: video[name] for name in ("path", "split", "label", "category", "annotations")},
    )
    segments = store.segments[store.segments["video_id"] == video_id]
    ranges = [(int(a), int(b)) for a, b in segments[["start_frame", "stop_frame"]].to_numpy()]
    return PlannedVideo(record, int(video["num_frames"]), float(video["fps"]), ranges)


def write_video(
    writer: StoreWriter,
    position: int,
    states: np.ndarray,
    outcome: Mapping[str, Any],
    thumbnails: np.ndarray | None = None,
) -> None:
    """Write a finished video from its states in one piece.

    Parameters
    ----------
    writer : StoreWriter
    position : int
        Index of the video in the writer's plan.
    states : (layer, segment, feature) float32
    outcome : mapping
        ``num_frames``, ``fps``, ``error`` (a note).
    thumbnails : (segment, y, x, 3) uint8, optional
    """
    for block, start in enumerate(range(0, states.shape[1], writer.row_block)):
        own = slice(start, start + writer.row_block)
        writer.write_block(
            position, block, states[:, own], None if thumbnails is None else thumbnails[own]
        )
    writer.finish_video(
        position,
        status=DONE,
        num_frames=int(outcome["num_frames"]),
        fps=float(outcome["fps"]),
        error=str(outcome["error"]),
    )
