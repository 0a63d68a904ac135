"""One HDF5 file that holds a whole store: to hand on, and for programs that read no Zarr.

``hiprobe store export`` and ``hiprobe store import``; lossless both ways. The file has the datasets
``hidden_states`` (layer, segment, feature), ``layer``, and the tables ``videos/…`` and
``segments/…``, a dataset a column, rows as in `FeatureStore.videos` and `FeatureStore.segments`;
where the store keeps them, ``thumbnail`` (segment, y, x, channel); the attribute ``provenance`` is
JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hiprobe.store.copying import provenance_of_copy, write_video
from hiprobe.store.errors import StoreError, write_errors
from hiprobe.store.manifest import VideoRecord, format_annotations, parse_annotations
from hiprobe.store.reader import FeatureStore
from hiprobe.store.row_plan import PlannedVideo
from hiprobe.store.schema import DONE, PENDING, THUMBNAIL
from hiprobe.store.writer import StoreWriter

HDF5_SCHEMA = "hiprobe-hdf5-1"
TEXT_COLUMNS = ("video_id", "path", "split", "label", "category", "annotations", "status", "error")
NUMBER_COLUMNS = ("num_frames", "fps", "num_segments")
SEGMENT_COLUMNS = ("video", "segment", "start_frame", "stop_frame")
OnLayer = Callable[[int, int], None]


def export_hdf5(path: Path, out: Path, on_layer: OnLayer = lambda done, total: None) -> None:
    """Write a store's content to one HDF5 file.

    Parameters
    ----------
    path : Path
        The store.
    out : Path
        The file; there must be none.
    on_layer : callable
        Called with (layers done, layers).

    Raises
    ------
    StoreError
        The store is damaged, or the file exists.
    """
    if out.exists():
        raise StoreError(f"{out}: exists. Choose another name, or remove it.")
    store = FeatureStore.open(path)
    videos = store.videos.reset_index()
    videos["annotations"] = [format_annotations(ranges) for ranges in videos["annotations"]]
    position = dict(zip(videos["video_id"], videos.index, strict=True))
    segments = store.segments.assign(video=store.segments["video_id"].map(position))
    # Renamed when it is whole: an export that was killed leaves no file of this name.
    partial = out.with_name(f"{out.name}.partial")
    with write_errors(out), h5py.File(partial, "w") as file:
        file.attrs["hiprobe_schema"] = HDF5_SCHEMA
        file.attrs["provenance"] = json.dumps(store.provenance)
        file.attrs["row_block"] = store.row_block
        file["layer"] = np.array(store.layers, dtype=np.int16)
        for name in TEXT_COLUMNS:
            file.create_dataset(f"videos/{name}", data=[*videos[name]], dtype=h5py.string_dtype())
        for name in NUMBER_COLUMNS:
            file[f"videos/{name}"] = videos[name].to_numpy()
        for name in SEGMENT_COLUMNS:
            file[f"segments/{name}"] = segments[name].to_numpy(dtype=np.int32)
        if store.thumbnail_size is not None:
            _write_thumbnails(file, store, store.thumbnail_size)
        _write_states(file, store, on_layer)
    partial.replace(out)


def _write_states(file: h5py.File, store: FeatureStore, on_layer: OnLayer) -> None:
    """Write the states a layer at a time: one fits into memory, all may not."""
    shape = (len(store.layers), len(store.segments), store.num_features)
    states = file.create_dataset(
        "hidden_states",
        shape,
        dtype=np.float32,
        chunks=(1, max(1, min(256, shape[1])), shape[2]),
        compression="gzip",
        compression_opts=1,
        shuffle=True,
    )
    for done, layer in enumerate(store.layers):
        on_layer(done, len(store.layers))
        if len(store.segments):
            states[done] = store.layer(layer)
    on_layer(len(store.layers), len(store.layers))


def _write_thumbnails(file: h5py.File, store: FeatureStore, size: tuple[int, int]) -> None:
    """Write the thumbnails a video at a time."""
    shape = (len(store.segments), *size, 3)
    thumbnails = file.create_dataset(
        THUMBNAIL, shape, dtype=np.uint8, chunks=(1, *shape[1:]), compression="gzip"
    )
    # A video's segments lie together, so its first and last row say where.
    for video_id, rows in store.segments.groupby("video_id").indices.items():
        thumbnails[rows[0] : rows[-1] + 1] = store.thumbnails(str(video_id))


def import_hdf5(path: Path, out: Path, on_video: OnLayer = lambda done, total: None) -> None:
    """Make a store of a file that `export_hdf5` wrote.

    Parameters
    ----------
    path : Path
        The file.
    out : Path
        The store to make.
    on_video : callable
        Called with (videos done, videos).

    Raises
    ------
    StoreError
        It is no such file, or the store exists.
    """
    if not path.exists():
        raise StoreError(f"{path}: no such file.")
    if not path.is_file():  # a FIFO would wait for ever
        raise StoreError(f"{path}: no regular file. Give a file of `hiprobe store export`.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path}: cannot be read as HDF5: {error}") from error
    with file:
        if file.attrs.get("hiprobe_schema") != HDF5_SCHEMA:
            raise StoreError(
                f"{path}: expected the schema {HDF5_SCHEMA!r}, got "
                f"{file.attrs.get('hiprobe_schema')!r}. Give a file of `hiprobe store export`."
            )
        _fill_store(file, out, on_video)


def _fill_store(file: h5py.File, out: Path, on_video: OnLayer) -> None:
    """Make the store, and write every video with its outcome."""
    states, thumbnails = file["hidden_states"], file.get(THUMBNAIL)
    writer = StoreWriter.create(
        out,
        layers=[int(layer) for layer in file["layer"][:]],
        num_features=states.shape[2],
        provenance=provenance_of_copy(json.loads(file.attrs["provenance"])),
        row_block=int(file.attrs["row_block"]),
        thumbnail_size=None if thumbnails is None else thumbnails.shape[1:3],
    )
    videos: dict[str, Any] = {name: file[f"videos/{name}"].asstr()[:] for name in TEXT_COLUMNS}
    videos |= {name: file[f"videos/{name}"][:] for name in NUMBER_COLUMNS}
    segments = {name: file[f"segments/{name}"][:] for name in SEGMENT_COLUMNS}
    num_videos = len(videos["video_id"])
    owner = segments["video"]
    with writer:
        writer.add_videos([_plan(videos, segments, video) for video in range(num_videos)])
        for video in range(num_videos):
            on_video(video, num_videos)
            outcome = {
                name: videos[name][video] for name in ("status", "num_frames", "fps", "error")
            }
            if outcome["status"] == DONE:
                rows = np.flatnonzero(owner == video)
                own = slice(rows[0], rows[-1] + 1)
                pictures = None if thumbnails is None else thumbnails[own]
                write_video(writer, video, states[:, own], outcome, pictures)
            elif outcome["status"] != PENDING:
                writer.finish_video(video, **_plain(outcome))
        on_video(num_videos, num_videos)


def _plan(videos: dict[str, Any], segments: dict[str, Any], video: int) -> PlannedVideo:
    """Plan one video of the file's tables."""
    names = ("video_id", "path", "split", "label", "category")
    texts: dict[str, Any] = {name: str(videos[name][video]) for name in names}
    annotations = parse_annotations(str(videos["annotations"][video]))
    record = VideoRecord(**texts, annotations=annotations)
    own = segments["video"] == video
    ranges = [
        (int(start), int(stop))
        for start, stop in zip(
            segments["start_frame"][own], segments["stop_frame"][own], strict=True
        )
    ]
    return PlannedVideo(
        record, int(videos["num_frames"][video]), float(videos["fps"][video]), ranges
    )


def _plain(outcome: dict[str, Any]) -> dict[str, Any]:
    """An outcome as the journal can have it: Python's own types for numpy's."""
    return {
        "status": str(outcome["status"]),
        "num_frames": int(outcome["num_frames"]),
        "fps": float(outcome["fps"]),
        "error": str(outcome["error"]),
    }
