"""Reading one layer straight from the shard files, on all cores.

Zarr 3.1's own reader spends most of its time between its codecs: this one is several times faster
(``make bench-probe``) and checks what Zarr checks, the checksum of each shard's index and of each
chunk. It reads what `schema` lays out, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc

from hiprobe.store import schema

# A shard's index has an offset and a length a chunk, each of 8 bytes; both are at their maximum for
# a chunk that is not there.
ENTRY_BYTES, CHECKSUM_BYTES = 16, 4
ABSENT = 2**64 - 1
# More than cores: while some decode, others wait for the disk.
THREADS_PER_CORE = 4


def can_read(states: zarr.Array) -> bool:
    """Tell whether `hidden_states` is stored as `schema` writes it."""
    num_layers, _, num_features = states.shape
    if states.shards is None:
        return False
    # Codecs are compared whole: a level or a type size that differs may be another byte layout.
    own = schema.hidden_states_codecs((num_layers, states.shards[1], num_features))
    codecs = states.metadata.codecs  # type: ignore[union-attr]
    return list(codecs) == [own] and states.dtype == np.float32


def read_layer(
    folder: Path, shape: tuple[int, int, int], position: int, rows: Sequence[slice]
) -> np.ndarray:
    """Read one layer of some rows.

    Parameters
    ----------
    folder : Path
        Of the array `hidden_states`.
    shape : (int, int, int)
        Layers, rows and features of a shard.
    position : int
        Of the layer among those stored.
    rows : sequence of slice
        Each starts at a shard's first row.

    Returns
    -------
    (row, feature) float32
        One after the other; NaN where a shard is missing, as Zarr has it.

    Raises
    ------
    ValueError, RuntimeError
        A checksum does not match, or a chunk does not decode.
    """
    _, row_block, num_features = shape
    # One buffer for all, which each chunk decodes into: no copy is made.
    total = sum(own.stop - own.start for own in rows)
    states = np.empty((total, num_features), np.float32)
    tasks, filled = [], 0
    for own in rows:
        for first in range(own.start, own.stop, row_block):
            count = min(row_block, own.stop - first)
            tasks.append((folder / f"c/0/{first // row_block}/0", states[filled : filled + count]))
            filled += count

    def read(share: list[tuple[Path, np.ndarray]]) -> None:
        for path, out in share:
            _read_chunk(path, out, shape, position)

    # A share a thread, not a task a chunk: a chunk decodes faster than a pool hands it out.
    num_threads = THREADS_PER_CORE * (os.cpu_count() or 1)
    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(read, (tasks[start::num_threads] for start in range(num_threads))))
    return states


def _read_chunk(path: Path, out: np.ndarray, shape: tuple[int, int, int], position: int) -> None:
    """Fill `out` with the first rows of a shard's chunk."""
    chunk = _chunk_bytes(path, shape[0], position)
    if chunk is None:
        out.fill(np.nan)
    elif len(out) == shape[1]:  # a whole chunk, which most are: into place
        blosc.decompress(chunk, out)
    else:
        decoded = np.frombuffer(blosc.decompress(chunk), dtype="<f4")
        out[...] = decoded.reshape(shape[1:])[: len(out)]


def _chunk_bytes(path: Path, num_layers: int, position: int) -> memoryview | None:
    """The compressed bytes of one layer in a shard; None if they are not there."""
    index_bytes = num_layers * ENTRY_BYTES + CHECKSUM_BYTES
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    with file:
        start_of_index = os.fstat(file.fileno()).st_size - index_bytes
        if start_of_index < 0:
            raise ValueError(f"{path} is cut short")
        # Positioned reads: index and chunk are all that is read of a shard of many layers.
        index = _checked(os.pread(file.fileno(), index_bytes, start_of_index), path)
        offset, length = np.frombuffer(index, dtype="<u8").reshape(num_layers, 2)[position].tolist()
        if offset == ABSENT:
            return None
        return _checked(os.pread(file.fileno(), length, offset), path)


def _checked(content: bytes, path: Path) -> memoryview:
    """Take the CRC-32C off the end."""
    body = content[:-CHECKSUM_BYTES]
    if google_crc32c.value(body) != int.from_bytes(content[-CHECKSUM_BYTES:], "little"):
        raise ValueError(f"a checksum of {path} does not match")
    return memoryview(body)
