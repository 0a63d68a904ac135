"""Writing a whole store to one HDF5 file."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hiprobe.store.errors import StoreError, write_errors
from hiprobe.store.hdf5_layout import (
    DIGEST,
    HDF5_SCHEMA,
    NUMBER_COLUMNS,
    SEGMENT_COLUMNS,
    STATES,
    TEXT_COLUMNS,
    content_digest,
)
from hiprobe.store.journal import sync_folder
from hiprobe.store.manifest import format_annotations
from hiprobe.store.reader import FeatureStore
from hiprobe.store.schema import DONE, THUMBNAIL

_CHUNK_BYTES = 1 << 20
OnDone = Callable[[int, int], None]


def export_hdf5(path: Path, out: Path, on_layer: OnDone = lambda done, total: None) -> None:
    """Write a store's content to one HDF5 file.

    Parameters
    ----------
    path : Path
        The store.
    out : Path
        The file; there must be none. It is there when it is whole: an interrupted export leaves
        none, and the same call starts again.
    on_layer : callable
        Called with (layers done, layers).

    Raises
    ------
    StoreError
        The store is damaged, the file exists, or cannot be written.
    """
    if out.exists():
        raise StoreError(f"{out}: exists. Choose another name, or remove it.")
    store = FeatureStore.open(path)
    provenance = json.dumps(store.provenance).encode()
    tables = _tables(store)
    with write_errors(out), _new_file(out) as file:
        # Text of a fixed length lies where HDF5 has checksums; of a variable one, where it has none.
        file.attrs["hiprobe_schema"] = np.bytes_(HDF5_SCHEMA)
        file.attrs["provenance"] = np.bytes_(provenance)
        file.attrs["row_block"] = store.row_block
        digests = [hashlib.sha256() for _ in store.videos.index]
        owner = tables["segments/video"]
        shapes = {STATES: _write_states(file, store, owner, digests, on_layer)}
        if store.thumbnail_size is not None:
            shapes[THUMBNAIL] = _write_thumbnails(file, store, owner, digests)
        is_done = store.videos["status"] == DONE
        tables[DIGEST] = np.array(
            [
                digest.hexdigest() if done else ""
                for digest, done in zip(digests, is_done, strict=True)
            ],
            dtype="S64",
        )
        for name, table in tables.items():
            _create(file, name, table.shape, table.dtype, table.dtype.itemsize)[...] = table
        # Last, so that a file without it is known to be unfinished.
        digest = content_digest(provenance, store.row_block, tables, shapes)
        file.attrs["digest"] = np.bytes_(digest)


@contextmanager
def _new_file(out: Path) -> Iterator[h5py.File]:
    """Write a file under another name, and give it its own when it is whole and on the disk."""
    partial = out.with_name(f"{out.name}.partial")
    with partial.open("ab") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"{out}: another process is exporting to this file. Wait for it, or stop it."
            ) from None
        try:
            # The oldest format whose metadata all have checksums; HDF5's own lock comes after it
            # has emptied the file, which is too late.
            with h5py.File(partial, "w", libver=("v110", "v110"), locking=False) as file:
                yield file
            os.fsync(guard.fileno())
            if out.exists():
                raise StoreError(f"{out}: exists. Choose another name, or remove it.")
            partial.replace(out)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync_folder(out.absolute().parent)


def _create(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any, row_bytes: int, **options: Any
) -> h5py.Dataset:
    """Create a dataset with checksums, in chunks of whole rows and about a MiB.

    States have their rows at the second place, all others at the first.
    """
    if not math.prod(shape):
        return file.create_dataset(name, shape, dtype=dtype)  # HDF5 has no empty chunks
    axis = int(name == STATES)
    num_rows = 1 if name == THUMBNAIL else min(shape[axis], max(1, _CHUNK_BYTES // row_bytes))
    chunks = (*[1] * axis, num_rows, *shape[axis + 1 :])
    return file.create_dataset(name, shape, dtype=dtype, chunks=chunks, fletcher32=True, **options)


def _tables(store: FeatureStore) -> dict[str, np.ndarray]:
    """All datasets but states and thumbnails, by name."""
    videos = store.videos.reset_index()
    videos["annotations"] = [format_annotations(ranges) for ranges in videos["annotations"]]
    position = dict(zip(videos["video_id"], videos.index, strict=True))
    segments = store.segments.assign(video=store.segments["video_id"].map(position))
    tables = {"layer": np.array(store.layers, dtype="<i2")}
    for name in TEXT_COLUMNS:
        texts = [str(text).encode() for text in videos[name]]
        if any(text.endswith(b"\0") for text in texts):
            raise StoreError(f"{store.path}: a {name} ends in a NUL character: HDF5 drops it.")
        dtype = h5py.string_dtype("utf-8", max(1, *map(len, texts), 1))
        tables[f"videos/{name}"] = np.array(texts, dtype=dtype)
    for name, dtype in NUMBER_COLUMNS.items():
        tables[f"videos/{name}"] = videos[name].to_numpy(dtype=dtype)
    for name in SEGMENT_COLUMNS:
        tables[f"segments/{name}"] = segments[name].to_numpy(dtype="<i4")
    return tables


def _write_states(
    file: h5py.File,
    store: FeatureStore,
    owner: np.ndarray,
    digests: list[hashlib._Hash],
    on_layer: OnDone,
) -> tuple[int, ...]:
    """Write the states a layer at a time: one fits into memory, all may not."""
    shape = (len(store.layers), len(owner), store.num_features)
    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    states = _create(file, STATES, shape, "<f4", 4 * shape[2], **options)
    runs = _runs(owner)
    for done, layer in enumerate(store.layers):
        on_layer(done, len(store.layers))
        values = np.ascontiguousarray(store.layer(layer), dtype="<f4")
        for video, own in runs:
            if not np.isfinite(values[own]).all():
                raise StoreError(
                    f"{store.path}: damaged: layer {layer} of video "
                    f"{store.videos.index[video]!r} has values that are not finite."
                )
            digests[video].update(hashlib.sha256(values[own]).digest())
        if len(values):
            states[done] = values
    on_layer(len(store.layers), len(store.layers))
    return shape


def _write_thumbnails(
    file: h5py.File, store: FeatureStore, owner: np.ndarray, digests: list[hashlib._Hash]
) -> tuple[int, ...]:
    """Write the thumbnails a video at a time."""
    shape = (len(owner), *(store.thumbnail_size or ()), 3)
    thumbnails = _create(file, THUMBNAIL, shape, "|u1", 1, compression="gzip")
    for video, own in _runs(owner):
        pictures = np.ascontiguousarray(store.thumbnails(str(store.videos.index[video])))
        digests[video].update(hashlib.sha256(pictures).digest())
        thumbnails[own] = pictures
    return shape


def _runs(owner: np.ndarray) -> list[tuple[int, slice]]:
    """Each video with its segments, which lie together."""
    videos, first, counts = np.unique(owner, return_index=True, return_counts=True)
    return [
        (int(video), slice(int(start), int(start + count)))
        for video, start, count in zip(videos, first, counts, strict=True)
    ]
