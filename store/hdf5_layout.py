"""What is in the HDF5 file of a store, and the digests that say it is all as it was written.

`storage_schema.md` specifies the file; `hdf5` writes it, `hdf5_content` checks and reads it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hiprobe.store import answer_rows, windows

HDF5_SCHEMA = "hiprobe-hdf5-2"
# With further states, windows or answers, which readers of the other one do not know.
WIDE_HDF5_SCHEMA = "hiprobe-hdf5-3"
# Without digests, texts of variable length: written by the first versions, still read.
OLD_HDF5_SCHEMA = "hiprobe-hdf5-1"

STATES = "hidden_states"
TEXT_COLUMNS = ("video_id", "path", "split", "label", "category", "annotations", "status", "error")
NUMBER_COLUMNS = {"num_frames": "<i4", "fps": "<f8", "num_segments": "<i4"}
# Which file each video was: see `video_file`. The first versions did not know.
FILE_COLUMNS = {"file_size": "<i8", "file_mtime_ns": "<i8", "file_digest": "|S32"}
SEGMENT_COLUMNS = ("video", "segment", "start_frame", "stop_frame")
DIGEST = "videos/digest"
# What only some stores have. Further states lie where they lie in the store.
WINDOW_COLUMNS = {name: f"segments/{name}" for name in windows.COLUMNS}
ANSWER_TABLES = {name: f"answers/{name}" for name in answer_rows.ARRAYS}


Arrays = Mapping[str, np.ndarray]


def content_digest(
    schema: str,
    provenance: bytes,
    row_block: int,
    tables: Arrays,
    shapes: Mapping[str, Sequence[int]],
) -> str:
    """Digest of all that is in the file, the states and pictures by their videos' digests.

    Parameters
    ----------
    schema : str
    provenance : bytes
        JSON, as in the file.
    row_block : int
    tables : mapping of str to array
        Every dataset but the states and the thumbnails, by name, with the file's data types.
    shapes : mapping of str to shape
        Of the states and the thumbnails.
    """
    digest = hashlib.sha256()
    head = [schema, row_block, {name: [*map(int, shape)] for name, shape in shapes.items()}]
    for part in (json.dumps(head, sort_keys=True).encode(), provenance):
        _add(digest, part)
    for name in sorted(tables):
        table = tables[name]
        # The type counts too: the same bytes are other values of another type.
        _add(digest, json.dumps([name, table.dtype.str, [*table.shape]]).encode())
        _add(digest, table.tobytes())
    return f"sha256:{digest.hexdigest()}"


def _add(digest: hashlib._Hash, part: bytes) -> None:
    """Add a part and its length, so that no two different lists of parts look alike."""
    digest.update(len(part).to_bytes(8, "little"))
    digest.update(part)


class VideoDigest:
    """SHA-256 over the SHA-256 of each layer's states of a video, of its thumbnails, of its taps.

    In two steps, because a file is written a layer and read a block at a time: neither has to
    hold a whole video.

    Parameters
    ----------
    num_layers : int
        Of all arrays of states.
    has_thumbnails : bool
    """

    def __init__(self, num_layers: int, has_thumbnails: bool) -> None:
        self._parts = [hashlib.sha256() for _ in range(num_layers + has_thumbnails)]

    def add(self, states: np.ndarray, thumbnails: np.ndarray | None, taps: Arrays) -> None:
        """Add the next segments: (layer, segment, feature), and (segment, y, x, channel)."""
        parts: Iterable[np.ndarray] = [*states, *([] if thumbnails is None else [thumbnails])]
        parts = itertools.chain(parts, *(taps[name] for name in sorted(taps)))
        for digest, part in zip(self._parts, parts, strict=True):
            digest.update(part.tobytes())

    def hexdigest(self) -> str:
        """Digest of what was added, 64 hex digits."""
        return hashlib.sha256(b"".join(part.digest() for part in self._parts)).hexdigest()
