"""A store's folder, opened: its arrays, its plan and its progress, all of them checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from hiprobe.store import answer_rows, schema
from hiprobe.store.answer_rows import Answers
from hiprobe.store.checked_arrays import CheckedArrays
from hiprobe.store.errors import StoreError
from hiprobe.store.index import StoreIndex
from hiprobe.store.index_checks import check_ids, check_plan
from hiprobe.store.journal_log import JournalLog
from hiprobe.store.pending_labels import PENDING_LABELS, apply_pending
from hiprobe.store.small_files import ROOT_METADATA, SmallFiles
from hiprobe.store.store_folder import check_is_store
from hiprobe.store.taps import HIDDEN_STATES, StatesArray, Tap, taps_of

MAX_ATTEMPTS = 5
MAX_ANSWER_VALUES = 2**26  # far above some words of a hidden size


class OpenedStore:
    """A store, read while others may write it; `refresh` catches up with them.

    Parameters
    ----------
    path : Path
        The store's folder.
    writable : bool

    Attributes
    ----------
    index : StoreIndex
    files : SmallFiles
    log : JournalLog
    states : dict of str to StatesArray
        By name, `hidden_states` first.
    thumbnails : zarr.Array or None
        None where the store keeps none.
    layers : list of int
        Of `hidden_states`.

    Raises
    ------
    StoreError
        There is no store, it is of another schema version, or it is damaged.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        self._writable = writable
        self._read_again()

    def refresh(self) -> None:
        """Apply what the journals gained; read the plan again where it has changed."""
        gained = self.log.read()
        if gained.is_plan_new:
            self._read_again()
        else:
            self.index.apply(gained)

    @property
    def attributes(self) -> dict[str, Any]:
        """The group's attributes."""
        return dict(self.group.attrs)

    @property
    def row_block(self) -> int:
        """Rows of a block, R."""
        return self._count("row_block")

    @property
    def thumbnail_size(self) -> tuple[int, int] | None:
        """Height and width of the thumbnails; None where the store keeps none."""
        if self.thumbnails is None:
            return None
        _, height, width, _ = self.thumbnails.shape
        return height, width

    def checked_arrays(self) -> CheckedArrays:
        """The large arrays, to read from."""
        return CheckedArrays(self.path, self.index, self.row_block, self.states, self.thumbnails)

    @property
    def has_windows(self) -> bool:
        """Whether each row has a window, other frames than the segment's."""
        return any(
            name in self.log.digests.names() or (self.path / name).exists()
            for name in (f"{array.name}/zarr.json" for array in schema.WINDOW_ARRAYS)
        )

    def index_arrays(self) -> tuple[schema.IndexArray, ...]:
        """Which of the small arrays along rows and videos the store has, or is to have."""
        return (*schema.INDEX_ARRAYS, *(schema.WINDOW_ARRAYS if self.has_windows else ()))

    def answers(self) -> Answers | None:
        """Rows of the model's LM head; None where the store has none.

        Raises
        ------
        StoreError
            They are damaged.
        """
        record: Any = self.group.attrs.get(answer_rows.ATTRIBUTE)
        if record is None:
            return None
        arrays = {name: self.array(name) for name in answer_rows.ARRAYS}
        with self._damage(ROOT_METADATA, "its answers cannot be: "):
            for name, (_, dtype) in answer_rows.ARRAYS.items():
                own = arrays[name].dtype
                if not (own.kind == "T" if dtype == "string" else own == np.dtype(dtype)):
                    raise ValueError(f"{name} is of {own}")
                if np.prod(arrays[name].shape, dtype=object) > MAX_ANSWER_VALUES:
                    raise ValueError(f"{name} has the shape {arrays[name].shape}")
            # Beyond is what a killed writer began to add, of which files may be missing.
            count = len(record["tokens"])
            values = {
                name: np.asarray(arrays[name][:count] if dims[0] == "answer" else arrays[name][:])
                for name, (dims, _) in answer_rows.ARRAYS.items()
            }
            return Answers.of(record, values, self.states[HIDDEN_STATES].tap.num_features)

    def array(self, name: str) -> zarr.Array[Any]:
        """One of the arrays; whatever is wrong with its metadata names the file."""
        with self._damage(f"{name}/zarr.json"), zarr.config.set({"array.write_empty_chunks": True}):
            # Without it Zarr leaves out what is all fill value, and a missing file says nothing.
            array = self.group[name]
            if not isinstance(array, zarr.Array):
                raise ValueError("it describes no array")
            return array

    def _read_again(self) -> None:
        """Read everything, again if somebody wrote meanwhile."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            log = JournalLog(self.path / schema.JOURNAL)
            try:
                self._read(log)
                return
            except StoreError:
                if attempt == MAX_ATTEMPTS or not log.has_grown():
                    raise

    def _read(self, log: JournalLog) -> None:
        check_is_store(self.path)
        gained = log.read()
        self.log = log
        self.files = SmallFiles(self.path, read_only=not self._writable, digests=log.digests)
        with self._damage(ROOT_METADATA):
            # Whatever a consolidated copy of the metadata says is older than the metadata.
            self.group = zarr.open_group(
                self.files,
                mode="r+" if self._writable else "r",
                zarr_format=3,
                use_consolidated=False,
            )
        self._read_large_arrays()
        num_videos, num_rows = self._count("num_videos"), self._count("num_rows")
        videos, rows = self._read_arrays("video", num_videos), self._read_arrays("row", num_rows)
        with self._damage(ROOT_METADATA, "its plan cannot be: "):
            apply_pending(videos, self.group.attrs.get(PENDING_LABELS))
            check_plan(videos, rows, self.row_block)
        num_layers = {name: len(one.tap.layers) for name, one in self.states.items()}
        self.index = StoreIndex(videos, rows, self.row_block, num_layers, self.path)
        self.index.apply(gained)
        with self._damage(ROOT_METADATA, "its plan cannot be: "):
            check_ids(videos)

    def _read_large_arrays(self) -> None:
        num_rows, row_block = self._count("num_rows"), self._count("row_block", 1)
        with self._damage("layer"):
            layer = self._small("layer", "integer")
            layers = layer[:].tolist()  # type: ignore[union-attr]
            if layers != sorted({*layers}) or any(number < 0 for number in layers):
                raise ValueError(f"no ascending layers: {layers}"[:200])
        self.layers: list[int] = layers
        with self._damage(ROOT_METADATA, "its taps cannot be: "):
            further = taps_of(self.group.attrs)
        main = self._large(HIDDEN_STATES, "float32", 3)
        own = Tap(HIDDEN_STATES, tuple(layers), main.shape[2])
        self.states = {HIDDEN_STATES: StatesArray(own, main)}
        for name, tap in further.items():
            self.states[name] = StatesArray(tap, self._large(name, "float32", 3))
        for one in self.states.values():
            self._check_states(one, num_rows, row_block)
        has_thumbnails = (
            f"{schema.THUMBNAIL}/zarr.json" in self.log.digests.names()
            or (self.path / schema.THUMBNAIL).exists()
        )
        self.thumbnails = self._large(schema.THUMBNAIL, "uint8", 4) if has_thumbnails else None
        if self.thumbnails is not None and self.thumbnails.shape[0] < num_rows:
            with self._damage(f"{schema.THUMBNAIL}/zarr.json"):
                raise ValueError(f"shape {self.thumbnails.shape} for {num_rows} rows")

    def _check_states(self, states: StatesArray, num_rows: int, row_block: int) -> None:
        array, tap = states.array, states.tap
        with self._damage(f"{tap.name}/zarr.json"):
            expected = (len(tap.layers), tap.num_features)
            if (array.shape[0], array.shape[2]) != expected or array.shape[1] < num_rows:
                raise ValueError(
                    f"shape {array.shape} for {expected[0]} layers, {num_rows} rows and "
                    f"{expected[1]} features"
                )
            if array.shards is not None and array.shards[1] != row_block:
                raise ValueError(
                    f"shards of {array.shards[1]} rows, the store has blocks of {row_block}"
                )

    def _large(self, name: str, dtype: str, num_dims: int) -> zarr.Array[Any]:
        array = self.array(name)
        with self._damage(f"{name}/zarr.json"):
            if array.dtype != np.dtype(dtype) or array.ndim != num_dims:
                raise ValueError(f"{array.ndim} dimensions of {array.dtype}")
            for shape in (array.shards or (), array.chunks):
                if (
                    np.prod([1, *shape], dtype=object) * array.dtype.itemsize
                    > schema.MAX_SHARD_BYTES
                ):
                    raise ValueError(f"chunks of shape {shape} are too large")
        return array

    def _small(self, name: str, kind: str) -> zarr.Array[Any]:
        array = self.array(name)
        with self._damage(f"{name}/zarr.json"):
            right = (
                array.dtype.kind in "iu" if kind == "integer" else
                array.dtype.kind == "T" if kind == "string" else array.dtype == np.dtype(kind)
            )  # fmt: skip
            if not right or array.ndim != 1:
                raise ValueError(f"{array.ndim} dimensions of {array.dtype}, expected 1 of {kind}")
            if max(*array.chunks, *(array.shards or (0,))) > schema.MAX_SMALL_CHUNK:
                raise ValueError(f"chunks of {array.chunks} entries are too large")
        return array

    def _read_arrays(self, dim: str, length: int) -> dict[str, np.ndarray]:
        """Read the first `length` entries of the index arrays; what lies beyond does not count."""
        return {
            array.name: self._read_array(array, length)
            for array in self.index_arrays()
            if array.dim == dim
        }

    def _read_array(self, described: schema.IndexArray, length: int) -> np.ndarray:
        name, metadata = described.name, f"{described.name}/zarr.json"
        if self.files.checked(metadata) is None:
            if not described.is_optional:
                raise StoreError(
                    f"{self.path}: damaged: the array {name!r} is missing. "
                    + self._was_it_created(length)
                )
            dtype = object if described.dtype == "string" else described.dtype
            return np.full(length, described.fill_value, dtype=dtype)
        array = self._small(name, described.dtype)
        with self._damage(metadata):
            if array.shape[0] < length:
                raise ValueError(f"{array.shape[0]} entries, expected {length}")
            # Else a number in the metadata, with no file behind it, would fill the memory.
            if name in ("video", "video_id") and length > array.chunks[0] * self._num_files(name):
                raise ValueError(f"files for {length} entries are missing")
        with self._damage(f"{name}/c"):
            values = np.asarray(array[:length])
            # Python's own strings, for tables and for keys; writable, as the journal is applied.
            if described.dtype == "string":
                return values.astype(object)
            return values if values.flags.writeable else values.copy()

    def _num_files(self, name: str) -> int:
        return sum(1 for path in (self.path / name / "c").glob("*") if path.name.isdecimal())

    def _was_it_created(self, length: int) -> str:
        if length == 0 and not (self.path / "hidden_states/c").exists():
            return "Its making was interrupted and nothing is in it yet: delete it."
        return "Restore the store's folder from a copy."

    def _count(self, name: str, least: int = 0) -> int:
        value = self.group.attrs.get(name)
        if type(value) is not int or not least <= value < 2**48:
            raise StoreError(
                f"{self.path / ROOT_METADATA}: damaged: {name} is {value!r}"[:300]
                + f", expected a number of at least {least}. Restore it from a copy."
            )
        return value

    @contextmanager
    def _damage(self, file: str, what: str = "") -> Iterator[None]:
        """Name the file, whatever goes wrong: Zarr meets broken metadata with any exception."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            name = type(error).__name__
            text = str(error) if isinstance(error, ValueError) else f"{name}: {error}"
            raise StoreError(
                f"{self.path / file}: damaged: {what}{text[:500]}. "
                "Restore the store's folder from a copy."
            ) from error
