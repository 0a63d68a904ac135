"""Reading layers straight from the shard files, on all cores.

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
from hiprobe.store.digests import digest_of
from hiprobe.store.durable_files import open_plain, read_at, read_plain
from hiprobe.store.schema import MAX_SHARD_BYTES

# A shard's index has an offset and a length a chunk, each of 8 bytes; both are at their maximum for
# a chunk that is not there.
ENTRY_BYTES, CHECKSUM_BYTES = 16, 4
ABSENT = 2**64 - 1
DIGITS = 8  # of a checksum in the journal
NO_CHECKSUM = "-" * DIGITS  # of a chunk that is not there
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


def read_states(
    folder: Path,
    shape: tuple[int, int, int],
    positions: Sequence[int],
    rows: Sequence[slice],
    checksums: Sequence[tuple[str, ...]] = (),
) -> np.ndarray:
    """Read some layers of some rows.

    Parameters
    ----------
    folder : Path
        Of the array `hidden_states`.
    shape : (int, int, int)
        Layers, rows and features of a shard.
    positions : sequence of int
        Of the layers among those stored.
    rows : sequence of slice
        Each starts at a shard's first row.
    checksums : sequence of tuple of str
        For each shard, in order, what the journals say that it may hold: 8 hex digits a layer; ""
        for what they do not know.

    Returns
    -------
    (layer, row, feature) float32
        One after the other; NaN where a shard is missing, as Zarr has it.

    Raises
    ------
    ValueError, RuntimeError
        A checksum does not match, or a chunk does not decode.
    """
    _, row_block, num_features = shape
    # One buffer for all, which each chunk decodes into: no copy is made.
    total = sum(own.stop - own.start for own in rows)
    states = np.empty((len(positions), total, num_features), np.float32)
    tasks: list[tuple[Path, np.ndarray, int, tuple[str, ...]]] = []
    filled, number = 0, 0
    for own in rows:
        for first in range(own.start, own.stop, row_block):
            path = folder / f"c/0/{first // row_block}/0"
            upto = filled + min(row_block, own.stop - first)
            known = checksums[number] if checksums else ()
            for out, position in zip(states, positions, strict=True):
                tasks.append((path, out[filled:upto], position, known))
            filled, number = upto, number + 1

    def read(share: list[tuple[Path, np.ndarray, int, tuple[str, ...]]]) -> None:
        for path, out, position, known in share:
            _read_chunk(path, out, shape, position, known)

    # A share a thread, not a task a chunk: a chunk decodes faster than a pool hands it out.
    num_threads = THREADS_PER_CORE * (os.cpu_count() or 1)
    shares = [tasks[start::num_threads] for start in range(min(num_threads, len(tasks)))]
    if len(shares) > 1:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(read, shares))
    elif shares:
        read(shares[0])
    return states


def chunk_checksums(path: Path, num_layers: int) -> str:
    """The checksum that ends each layer's chunk in a shard, as the journal has them.

    Raises
    ------
    ValueError
        The shard is damaged.
    """
    with open_plain(path) as (descriptor, size):
        parts = []
        for offset, length in _index(descriptor, size, path, num_layers).tolist():
            if offset == ABSENT:
                parts.append(NO_CHECKSUM)
                continue
            end = read_at(descriptor, CHECKSUM_BYTES, offset + length - CHECKSUM_BYTES)
            parts.append(f"{int.from_bytes(end, 'little'):08x}")
    return "".join(parts)


def shard_digest(path: Path) -> str:
    """Digest of a whole shard, as the journal has it."""
    return digest_of(read_plain(path, MAX_SHARD_BYTES))


def _read_chunk(
    path: Path,
    out: np.ndarray,
    shape: tuple[int, int, int],
    position: int,
    known: tuple[str, ...],
) -> None:
    """Fill `out` with the first rows of a shard's chunk."""
    chunk = _chunk_bytes(path, shape[0], position, known)
    if chunk is None:
        out.fill(np.nan)
        return
    # Blosc would make room for whatever a crafted chunk says that it holds.
    num_bytes = int.from_bytes(chunk[4:8], "little")
    if num_bytes != shape[1] * shape[2] * 4:
        raise ValueError(f"a chunk of {path} has {num_bytes} bytes")
    if len(out) == shape[1]:  # a whole chunk, which most are: into place
        blosc.decompress(chunk, out)
    else:
        decoded = np.frombuffer(blosc.decompress(chunk), dtype="<f4")
        out[...] = decoded.reshape(shape[1:])[: len(out)]


def _chunk_bytes(
    path: Path, num_layers: int, position: int, known: tuple[str, ...]
) -> memoryview | None:
    """The compressed bytes of one layer in a shard; None if they are not there."""
    try:
        with open_plain(path) as (descriptor, size):
            # Positioned reads: index and chunk are all that is read of a shard of many layers.
            index = _index(descriptor, size, path, num_layers)
            offset, length = index[position].tolist()
            if offset == ABSENT:
                return None
            if not CHECKSUM_BYTES < length <= size - offset:
                raise ValueError(f"a chunk of {path} lies outside of it")
            content = read_at(descriptor, length, offset)
    except FileNotFoundError:
        return None
    body, checksum = _checked(content, path)
    own = slice(position * DIGITS, (position + 1) * DIGITS)
    # Whole, and the right one: a checksum alone does not tell one block from another.
    if known and "" not in known and f"{checksum:08x}" not in [text[own] for text in known]:
        raise ValueError(f"{path} holds another block than the journals say")
    return body


def _index(descriptor: int, size: int, path: Path, num_layers: int) -> np.ndarray:
    """Offset and length of each chunk of a shard: (layer, 2)."""
    index_bytes = num_layers * ENTRY_BYTES + CHECKSUM_BYTES
    if size < index_bytes:
        raise ValueError(f"{path} is cut short")
    body, _ = _checked(read_at(descriptor, index_bytes, size - index_bytes), path)
    return np.frombuffer(body, dtype="<u8").reshape(num_layers, 2)


def _checked(content: bytes, path: Path) -> tuple[memoryview, int]:
    """Take the CRC-32C off the end."""
    body = content[:-CHECKSUM_BYTES]
    checksum = int.from_bytes(content[-CHECKSUM_BYTES:], "little")
    if google_crc32c.value(body) != checksum:
        raise ValueError(f"a checksum of {path} does not match")
    return memoryview(body), checksum
