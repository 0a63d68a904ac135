"""Reading datasets of an HDF5 file that may be damaged, or made to harm.

Only plain datasets in the file itself are read: a link, a reference or external storage could
name any file of this machine. Nothing is allocated that the file is too small for; compressed
chunks are inflated here, because HDF5 lets one of kilobytes inflate to gigabytes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np

from hiprobe.store.errors import StoreError

FLETCHER, DEFLATE, SHUFFLE = (
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
)
# A text of variable length takes a length and a place in the file.
_BYTES_OF_VARIABLE_TEXT = 16
# The axis of the rows: states are (layer, segment, feature), thumbnails (segment, y, x, channel).
_ROW_AXIS = {1: 0, 2: 0, 3: 1, 4: 0}
# What libhdf5, zlib and JSON raise about bytes that make no sense.
_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, zlib.error)


class UntrustedFile:
    """An HDF5 file of which nothing is believed; `open_untrusted` opens it.

    Attributes
    ----------
    path : Path
    num_bytes : int
        Size of the file.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self.num_bytes = path.stat().st_size
        self._file = file

    def __contains__(self, name: str) -> bool:
        return self._file.get(name, getlink=True) is not None

    def refuse(self, name: str, reason: str) -> NoReturn:
        """Raise the error that names the file, a dataset or attribute of it, and what to do."""
        raise StoreError(
            f"{self.path}: damaged at {name}: {reason}. "
            "Copy the file again, or export the store again."
        )

    def require(self, is_right: object, name: str, expected: str) -> None:
        """Refuse what is not right."""
        if not is_right:
            self.refuse(name, f"expected {expected}")

    @contextmanager
    def damage(self, name: str) -> Iterator[None]:
        """Turn what the libraries raise into `refuse`'s message."""
        try:
            yield
        except _DAMAGE as error:
            self.refuse(name, str(error) or type(error).__name__)

    def attribute(self, name: str) -> Any:
        """Read one value, text as bytes, None for none: never an array of any size."""
        with self.damage(name):
            if name not in self._file.attrs:
                return None
            if self._file.attrs.get_id(name).shape != ():
                raise ValueError("expected a single value")
            value = self._file.attrs[name]
            return value.encode() if isinstance(value, str) else value

    def find(self, name: str, dtype: str, num_dims: int) -> h5py.Dataset:
        """Find a dataset and check that it is plain, local, all there, and fits into the file.

        Parameters
        ----------
        name : str
        dtype : str
            As in numpy's ``dtype.str``; ``'text'`` for texts of variable, ``'S'`` of any length.
        num_dims : int
            1 or 2 for a table, which must not be compressed; 3 for states, 4 for pictures.
        """
        with self.damage(name):
            found: Any = self._file
            for part in name.split("/"):
                link = found.get(part, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    kind = "nothing" if link is None else f"a {type(link).__name__}"
                    raise ValueError(f"expected a dataset in the file itself, got {kind}")
                found = found[part]
            if not isinstance(found, h5py.Dataset) or found.ndim != num_dims:
                raise ValueError(f"expected a dataset of {num_dims} dimensions")
            if not _has_type(found, dtype):
                raise ValueError(f"expected the type {dtype}, got {found.dtype}")
            self._check_storage(found)
            return found

    def texts(self, name: str) -> np.ndarray:
        """Read texts of variable length one by one: all may name one and the same large one."""
        dataset = self.find(name, "text", 1)
        texts, space = np.empty(dataset.shape, dtype=object), dataset.id.get_space()
        place, text, left = h5py.h5s.create_simple((1,)), np.empty(1, dtype=object), self.num_bytes
        with self.damage(name):
            for index in range(len(texts)):
                space.select_hyperslab((index,), (1,))
                dataset.id.read(place, space, text)
                texts[index] = text[0]
                left -= len(text[0])
                if left < 0:
                    raise ValueError("texts longer than the file")
        return texts

    def table(self, name: str, dtype: str, num_dims: int = 1) -> np.ndarray:
        """Read a column of a table, or one of vectors."""
        dataset = self.find(name, dtype, num_dims)
        with self.damage(name):
            return np.asarray(dataset[...])

    def _check_storage(self, dataset: h5py.Dataset) -> None:
        """Refuse data that lies elsewhere, is not all there, or is more than the file can hold."""
        plist = dataset.id.get_create_plist()
        if plist.get_external_count() or plist.get_layout() == h5py.h5d.VIRTUAL:
            raise ValueError("its data lies in other files")
        stored = dataset.id.get_storage_size()
        if stored > self.num_bytes:
            raise ValueError(f"claims {stored} bytes of a file of {self.num_bytes}")
        item = _BYTES_OF_VARIABLE_TEXT if dataset.dtype.kind == "O" else dataset.dtype.itemsize
        expected = math.prod(dataset.shape) * item
        is_table = dataset.ndim < 3
        if dataset.chunks is None:
            if stored != expected or (expected and not is_table):
                raise ValueError(f"has {stored} bytes, expected {expected}, in chunks if no table")
            return
        if not {*_filters(dataset)} <= ({FLETCHER} if is_table else {FLETCHER, DEFLATE, SHUFFLE}):
            raise ValueError("has filters that no export uses")
        if is_table and stored < expected:
            raise ValueError(f"has {stored} bytes, expected {expected}")
        axis = _ROW_AXIS[dataset.ndim]
        chunks = (*[1] * axis, dataset.chunks[axis], *dataset.shape[axis + 1 :])
        pairs = zip(dataset.shape, dataset.chunks, strict=True)
        num_chunks = math.prod(-(-length // chunk) for length, chunk in pairs)
        if dataset.chunks != chunks or dataset.id.get_num_chunks() != num_chunks:
            raise ValueError("its chunks are not all there, or not those of an export")


class RowReader:
    """Reads rows of the states or thumbnails, in ascending order.

    Parameters
    ----------
    file : UntrustedFile
    dataset : h5py.Dataset
        Of `UntrustedFile.find`.
    """

    def __init__(self, file: UntrustedFile, dataset: h5py.Dataset) -> None:
        self._file, self._dataset = file, dataset
        self._axis = _ROW_AXIS[dataset.ndim]
        # The last chunk of each layer: the next rows often begin in it.
        self._cache: dict[tuple[int, ...], tuple[int, np.ndarray]] = {}

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows `start` to `stop`, of all layers where there are any."""
        shape, axis = self._dataset.shape, self._axis
        size = self._dataset.chunks[axis]
        out = np.empty((*shape[:axis], stop - start, *shape[axis + 1 :]), self._dataset.dtype)
        with self._file.damage(self._dataset.name[1:]):
            for layer in np.ndindex(shape[:axis]):
                for number in range(start // size, -(-stop // size)):
                    first = number * size
                    rows = slice(max(start, first), min(stop, first + size))
                    chunk = self._chunk(layer, number)[rows.start - first : rows.stop - first]
                    out[layer][rows.start - start : rows.stop - start] = chunk
        return out

    def _chunk(self, layer: tuple[int, ...], number: int) -> np.ndarray:
        """One chunk, (row, …)."""
        cached = self._cache.get(layer)
        if cached is None or cached[0] != number:
            cached = self._cache[layer] = (number, self._inflate(layer, number))
        return cached[1]

    def _inflate(self, layer: tuple[int, ...], number: int) -> np.ndarray:
        """Undo the filters of one chunk, in memory that its shape bounds."""
        dataset, chunks, dtype = self._dataset, self._dataset.chunks, self._dataset.dtype
        num_bytes = math.prod(chunks) * dtype.itemsize
        # Deflate adds less than a thousandth to what it cannot compress.
        buffer = np.empty(num_bytes + num_bytes // 1000 + 64, dtype=np.uint8)
        offset = [*layer, number * chunks[self._axis]]
        offset += [0] * (len(chunks) - len(offset))
        mask, stored = dataset.id.read_direct_chunk(tuple(offset), out=buffer)
        if mask:
            raise ValueError("a chunk that was not filtered")
        data = bytes(stored)
        for code in reversed(_filters(dataset)):
            if code == FLETCHER:
                data = data[:-4]  # the videos' digests say more
            elif code == DEFLATE:
                data = zlib.decompressobj().decompress(data, num_bytes + 1)
            else:
                data = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1).T.tobytes()
        if len(data) != num_bytes:
            raise ValueError(f"a chunk of {len(data)} bytes, expected {num_bytes}")
        return np.frombuffer(data, dtype).reshape(chunks[self._axis :])


@contextmanager
def open_untrusted(path: Path) -> Iterator[UntrustedFile]:
    """Open an HDF5 file.

    Raises
    ------
    StoreError
        There is none.
    """
    # A pipe or a device would hang, or never end.
    if not path.is_file():
        raise StoreError(f"{path}: {'not a file' if path.exists() else 'no such file'}.")
    try:
        file = h5py.File(path, "r")
    except _DAMAGE as error:
        raise StoreError(f"{path}: cannot be read as HDF5: {error}") from error
    with file:
        yield UntrustedFile(path, file)


def _filters(dataset: h5py.Dataset) -> list[int]:
    """Codes of a dataset's filters, in the order of writing."""
    plist = dataset.id.get_create_plist()
    return [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]


def _has_type(dataset: h5py.Dataset, dtype: str) -> bool:
    """Whether a dataset is of the type; see `UntrustedFile.find`."""
    if dtype == "text":
        text = h5py.check_string_dtype(dataset.dtype)
        return text is not None and text.length is None
    return bool(dataset.dtype.kind == "S" if dtype == "S" else dataset.dtype.str == dtype)
