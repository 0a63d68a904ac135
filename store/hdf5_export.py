"""Writing a whole store to one HDF5 file."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hiprobe.store.durable_files import sync_folder
from hiprobe.store.errors import StoreError, write_errors
from hiprobe.store.hdf5_layout import (
    ANSWER_TABLES,
    DIGEST,
    FILE_COLUMNS,
    HDF5_SCHEMA,
    NUMBER_COLUMNS,
    SEGMENT_COLUMNS,
    STATES,
    TEXT_COLUMNS,
    WIDE_HDF5_SCHEMA,
    WINDOW_COLUMNS,
    content_digest,
)
from hiprobe.store.manifest import format_annotations
from hiprobe.store.reader import FeatureStore
from hiprobe.store.schema import DONE, THUMBNAIL
from hiprobe.store.taps import Tap

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
        The store is damaged, videos lack states that were added later, the file exists, or cannot
        be written.
    """
    if out.exists():
        raise StoreError(f"{out}: exists. Choose another name, or remove it.")
    store = FeatureStore.open(path)
    provenance = json.dumps(store.provenance).encode()
    tables = _tables(store)
    taps = sorted(store.further_taps, key=attrgetter("name"))
    is_wide = taps or store.has_windows or store.answers is not None
    schema = WIDE_HDF5_SCHEMA if is_wide else HDF5_SCHEMA
    with write_errors(out), _whole_file(out) as (file, check):
        # Fixed-length text lies where HDF5 has checksums, variable-length text where it has none.
        file.attrs["hiprobe_schema"] = np.bytes_(schema)
        file.attrs["provenance"] = np.bytes_(provenance)
        file.attrs["row_block"] = store.row_block
        digests = [hashlib.sha256() for _ in store.videos.index]
        owner = tables["segments/video"]

        def on_done(done: int, total: int) -> None:
            check()
            on_layer(done, total)

        numbers = itertools.count()
        total = sum(len(tap.layers) for tap in (store.tap(), *taps))

        def on_next(tap: Tap) -> tuple[int, ...]:
            return _write_states(
                file, store, tap, owner, digests, lambda: on_done(next(numbers), total)
            )

        shapes = {STATES: on_next(store.tap())}
        if store.thumbnail_size is not None:
            shapes[THUMBNAIL] = _write_thumbnails(file, store, owner, digests)
        shapes |= {tap.name: on_next(tap) for tap in taps}
        on_done(total, total)
        is_done = store.videos["status"] == DONE
        tables[DIGEST] = np.array(
            [
                digest.hexdigest() if done else ""
                for digest, done in zip(digests, is_done, strict=True)
            ],
            dtype="S64",
        )
        for name, table in tables.items():
            row_bytes = table.dtype.itemsize * math.prod(table.shape[1:])
            _create(file, name, table.shape, table.dtype, row_bytes)[...] = table
        # Last, so that a file without it is known to be unfinished.
        digest = content_digest(schema, provenance, store.row_block, tables, shapes)
        file.attrs["digest"] = np.bytes_(digest)


class _NewFile:
    """A file that libhdf5 writes to, and that never fails it.

    A write that fails makes libhdf5 crash the process when it closes. So the first failure is
    kept, what comes after it is dropped, and `check` raises it.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("r+b", buffering=0)
        self._failure: OSError | None = None
        self.seek, self.tell = self._file.seek, self._file.tell
        self.read, self.readinto = self._file.read, self._file.readinto
        self.fileno, self.close = self._file.fileno, self._file.close

    def write(self, content: memoryview) -> int:
        """Write all of it."""
        left = memoryview(content)
        with self._kept():
            while left and self._failure is None:
                left = left[self._file.write(left) :]
        return len(content)

    def truncate(self, size: int) -> None:
        """Cut or extend it."""
        with self._kept():
            self._file.truncate(size)

    def flush(self) -> None:
        """Nothing waits."""

    def check(self) -> None:
        """Raise the failure, if there was one."""
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = self._failure or error


@contextmanager
def _whole_file(out: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Write a file under another name, and give it its own when it is whole and on the disk.

    Gives the file, and a function that raises what has failed in writing it.
    """
    partial = out.with_name(f"{out.name}.partial")
    with closing(_NewFile(partial)) as new:
        try:
            fcntl.flock(new.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"{out}: another process is exporting to this file. Wait for it, or stop it."
            ) from None
        try:
            new.truncate(0)
            # The oldest format in which all metadata have checksums.
            with h5py.File(new, "w", libver=("v110", "v110")) as file:
                yield file, new.check
            new.check()
            os.fsync(new.fileno())
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
    axis = int(len(shape) == 3)
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
        tables[f"videos/{name}"] = _texts(store, name, videos[name])
    for name, dtype in NUMBER_COLUMNS.items():
        tables[f"videos/{name}"] = videos[name].to_numpy(dtype=dtype)
    files = [store.file(video_id) for video_id in videos["video_id"]]
    for name, dtype in FILE_COLUMNS.items():
        unknown = "" if dtype.startswith("|S") else -1
        values = [getattr(one, name.removeprefix("file_"), unknown) for one in files]
        tables[f"videos/{name}"] = np.array(values, dtype=dtype)
    for name in (*SEGMENT_COLUMNS, *(WINDOW_COLUMNS if store.has_windows else ())):
        tables[f"segments/{name}"] = segments[name].to_numpy(dtype="<i4")
    if (answers := store.answers) is not None:
        for name, array in answers.as_arrays().items():
            is_text = array.dtype.kind == "T"
            table = _texts(store, name, array) if is_text else array.astype("<f4")
            tables[ANSWER_TABLES[name]] = table
    return tables


def _texts(store: FeatureStore, name: str, values: Iterable[object]) -> np.ndarray:
    """A table of texts of a fixed length."""
    texts = [str(text).encode() for text in values]
    if any(text.endswith(b"\0") for text in texts):
        raise StoreError(f"{store.path}: a {name} ends in a NUL character: HDF5 drops it.")
    return np.array(texts, dtype=h5py.string_dtype("utf-8", max(1, *map(len, texts), 1)))


def _write_states(
    file: h5py.File,
    store: FeatureStore,
    tap: Tap,
    owner: np.ndarray,
    digests: list[hashlib._Hash],
    on_layer: Callable[[], None],
) -> tuple[int, ...]:
    """Write an array of states a layer at a time: one fits into memory, all may not."""
    shape = (len(tap.layers), len(owner), tap.num_features)
    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    states = _create(file, tap.name, shape, "<f4", 4 * shape[2], **options)
    runs = _runs(owner)
    for done, layer in enumerate(tap.layers):
        on_layer()
        values = store.layer(layer, tap=tap.tap, prompt=tap.prompt).astype("<f4", copy=False)
        for video, own in runs:
            if not np.isfinite(values[own]).all():
                of_tap = "" if tap.name == STATES else f" of {tap.name}"
                raise StoreError(
                    f"{store.path}: damaged: layer {layer}{of_tap} of video "
                    f"{store.videos.index[video]!r} has values that are not finite."
                )
            digests[video].update(hashlib.sha256(values[own].tobytes()).digest())
        if len(values):
            states[done] = values
    return shape


def _write_thumbnails(
    file: h5py.File, store: FeatureStore, owner: np.ndarray, digests: list[hashlib._Hash]
) -> tuple[int, ...]:
    """Write the thumbnails a video at a time."""
    shape = (len(owner), *(store.thumbnail_size or ()), 3)
    thumbnails = _create(file, THUMBNAIL, shape, "|u1", 1, compression="gzip")
    for video, own in _runs(owner):
        pictures = store.thumbnails(str(store.videos.index[video]))
        digests[video].update(hashlib.sha256(pictures.tobytes()).digest())
        thumbnails[own] = pictures
    return shape


def _runs(owner: np.ndarray) -> list[tuple[int, slice]]:
    """Each video with its segments, which lie together."""
    videos, first, counts = np.unique(owner, return_index=True, return_counts=True)
    return [
        (int(video), slice(int(start), int(start + count)))
        for video, start, count in zip(videos, first, counts, strict=True)
    ]
