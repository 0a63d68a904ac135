"""What a store's HDF5 file holds, checked before anything of it becomes a store."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from hiprobe.store import answer_rows
from hiprobe.store.answer_rows import Answers
from hiprobe.store.copying import provenance_of_copy
from hiprobe.store.errors import StoreError
from hiprobe.store.hdf5_datasets import RowReader, UntrustedFile
from hiprobe.store.hdf5_layout import (
    ANSWER_TABLES,
    DIGEST,
    FILE_COLUMNS,
    HDF5_SCHEMA,
    NUMBER_COLUMNS,
    OLD_HDF5_SCHEMA,
    SEGMENT_COLUMNS,
    STATES,
    TEXT_COLUMNS,
    WIDE_HDF5_SCHEMA,
    WINDOW_COLUMNS,
    VideoDigest,
    content_digest,
)
from hiprobe.store.manifest import LABELS, SPLITS, parse_annotations
from hiprobe.store.schema import DONE, FAILED, PENDING, THUMBNAIL
from hiprobe.store.taps import taps_of
from hiprobe.store.video_file import FileIdentity

_MAX_PROVENANCE_BYTES = 1 << 24
# A block is written whole, however short the video: far more bytes than the file may have.
_MAX_BLOCK_BYTES, _SMALL_BLOCK_BYTES, _BLOCK_OVER_FILE = 1 << 30, 1 << 26, 128


class Hdf5Content:
    """The content of a store's HDF5 file.

    All but states and thumbnails is read and checked at once, those when `blocks` reads them.

    Parameters
    ----------
    file : UntrustedFile

    Attributes
    ----------
    has_digests : bool
        False for a file of the first versions: plausible is all that it can be.
    provenance : dict
        Without what a new store gets of its own.
    row_block, num_features, num_videos : int
    layers : list of int
    taps : dict of str to Tap
        Further states, by name.
    answers : Answers or None
    has_windows : bool
    thumbnail_size : (int, int) or None
    videos : dict of str to list or array
        The columns `TEXT_COLUMNS` and `NUMBER_COLUMNS`.
    segments : dict of str to (segment,) int32
        The columns `SEGMENT_COLUMNS`, with windows `WINDOW_COLUMNS` too.
    rows : list of slice
        Of each video: its segments among all.

    Raises
    ------
    StoreError
        The file is damaged, or of another schema.
    """

    def __init__(self, file: UntrustedFile) -> None:
        self.file = file
        self._schema = self._read_schema()
        self.has_digests = self._schema != OLD_HDF5_SCHEMA
        self._read_attributes()
        self._read_tables()
        self._find_arrays()
        if self.has_digests:
            self._check_digest()
        self._check_shapes()
        self._check_videos()
        self._check_segments()

    def blocks(
        self, video: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None, dict[str, np.ndarray]]]:
        """Read a video's states, thumbnails and taps a block at a time, in order.

        Raises
        ------
        StoreError
            They are damaged; after the last block, if only the video's digest tells.
        """
        num_layers = len(self.layers) + sum(len(tap.layers) for tap in self.taps.values())
        digest = VideoDigest(num_layers, self.thumbnail_size is not None)
        own, name = self.rows[video], repr(self.videos["video_id"][video])
        for start in range(own.start, own.stop, self.row_block):
            stop = min(start + self.row_block, own.stop)
            found = {key: reader.read(start, stop) for key, reader in self._readers.items()}
            thumbnails = found.pop(THUMBNAIL, None)
            for key, states in found.items():
                if not np.isfinite(states).all():
                    self.file.refuse(key, f"values of video {name} that are not finite")
            states = found.pop(STATES)
            digest.add(states, thumbnails, found)
            yield states, thumbnails, found
        if self.has_digests and digest.hexdigest().encode() != self._tables[DIGEST][video]:
            self.file.refuse(STATES, f"the content of video {name} does not match its digest")

    def video_file(self, video: int) -> FileIdentity | None:
        """Which file a video was; None where that is not recorded."""
        if not self.has_digests:
            return None
        size, mtime_ns, digest = (self._tables[f"videos/{name}"][video] for name in FILE_COLUMNS)
        return FileIdentity(int(size), int(mtime_ns), digest.decode()) if digest else None

    def _read_schema(self) -> str:
        schema = self.file.attribute("hiprobe_schema")
        text = schema.decode(errors="replace") if isinstance(schema, bytes) else schema
        if text not in (HDF5_SCHEMA, WIDE_HDF5_SCHEMA, OLD_HDF5_SCHEMA):
            raise StoreError(
                f"{self.file.path}: expected the schema {HDF5_SCHEMA!r}, got {text!r}. "
                "Give a file of `hiprobe store export`."
            )
        return str(text)

    def _read_attributes(self) -> None:
        row_block, provenance = map(self.file.attribute, ("row_block", "provenance"))
        is_number = isinstance(row_block, np.integer) and row_block > 0
        self.file.require(is_number, "row_block", "an integer above 0")
        self.row_block = int(row_block)
        is_text = isinstance(provenance, bytes) and len(provenance) <= _MAX_PROVENANCE_BYTES
        self.file.require(is_text, "provenance", "JSON text")
        with self.file.damage("provenance"):
            content = json.loads(provenance)
        self.file.require(isinstance(content, dict), "provenance", "a JSON object")
        self._provenance_text = bytes(provenance)
        self.provenance = provenance_of_copy(content)
        is_wide = self._schema == WIDE_HDF5_SCHEMA
        with self.file.damage("provenance"):
            self.taps = taps_of(content) if is_wide else {}
        self._answers_record = content.get(answer_rows.ATTRIBUTE) if is_wide else None
        self.has_windows = is_wide and all(name in self.file for name in WINDOW_COLUMNS.values())

    def _read_tables(self) -> None:
        """Read every dataset but states and thumbnails."""
        table = self.file.table
        self._tables = {"layer": table("layer", "<i2")}
        self.layers = [int(layer) for layer in self._tables["layer"]]
        self.videos: dict[str, Any] = {}
        for name in (f"videos/{column}" for column in TEXT_COLUMNS):
            texts = table(name, "S") if self.has_digests else self.file.texts(name)
            self._tables[name] = texts
            with self.file.damage(name):
                self.videos[name.removeprefix("videos/")] = [text.decode() for text in texts]
        for column, dtype in NUMBER_COLUMNS.items():
            self.videos[column] = self._tables[f"videos/{column}"] = table(
                f"videos/{column}", dtype
            )
        if self.has_digests:
            for column, dtype in FILE_COLUMNS.items():
                self._tables[f"videos/{column}"] = table(f"videos/{column}", dtype)
        columns = (*SEGMENT_COLUMNS, *(WINDOW_COLUMNS if self.has_windows else ()))
        self.segments = {name: table(f"segments/{name}", "<i4") for name in columns}
        self._tables |= {f"segments/{name}": column for name, column in self.segments.items()}
        if self.has_digests:
            self._tables[DIGEST] = table(DIGEST, "|S64")
        if self._answers_record is not None:
            for name, (dims, dtype) in answer_rows.ARRAYS.items():
                stored = "S" if dtype == "string" else "<f4"
                self._tables[ANSWER_TABLES[name]] = table(ANSWER_TABLES[name], stored, len(dims))

    def _find_arrays(self) -> None:
        """Find states and thumbnails, and check that a block of all of them is none too large."""
        self._arrays = {name: self.file.find(name, "<f4", 3) for name in (STATES, *self.taps)}
        if THUMBNAIL in self.file:
            self._arrays[THUMBNAIL] = self.file.find(THUMBNAIL, "|u1", 4)
        self.num_features = int(self._arrays[STATES].shape[2])
        shape = self._arrays[THUMBNAIL].shape if THUMBNAIL in self._arrays else None
        self.thumbnail_size = None if shape is None else (int(shape[1]), int(shape[2]))
        allowed = _SMALL_BLOCK_BYTES + _BLOCK_OVER_FILE * self.file.num_bytes
        block_bytes = 0
        for name, array in self._arrays.items():
            axis = 1 if array.ndim == 3 else 0
            row_bytes = (
                math.prod((*array.shape[:axis], *array.shape[axis + 1 :])) * array.dtype.itemsize
            )
            num_rows = max(self.row_block, array.chunks[axis] if array.chunks else 1)
            limit = min(allowed, _MAX_BLOCK_BYTES)
            block_bytes += num_rows * row_bytes
            self.file.require(block_bytes <= limit, name, f"at most {limit} bytes in a block")
        self._readers = {name: RowReader(self.file, one) for name, one in self._arrays.items()}

    def _check_digest(self) -> None:
        expected = self.file.attribute("digest")
        shapes = {name: array.shape for name, array in self._arrays.items()}
        got = content_digest(
            self._schema, self._provenance_text, self.row_block, self._tables, shapes
        )
        is_right = expected == got.encode()
        self.file.require(is_right, "digest", f"{got}, which tables and attributes have")

    def _check_shapes(self) -> None:
        require, videos, segments = self.file.require, self.videos, self.segments
        self.num_videos, num_segments = len(videos["video_id"]), len(segments["video"])
        for name, column in self._tables.items():
            if name == "layer" or name in ANSWER_TABLES.values():
                continue
            length = num_segments if name.startswith("segments/") else self.num_videos
            require(len(column) == length, name, f"{length} entries")
        shape: tuple[int, ...] = (len(self.layers), num_segments, self.num_features)
        require(self._arrays[STATES].shape == shape and shape[2], STATES, f"the shape {shape}")
        for name, tap in self.taps.items():
            shape = (len(tap.layers), num_segments, tap.num_features)
            require(self._arrays[name].shape == shape and shape[2], name, f"the shape {shape}")
        self.answers = self._read_answers()
        if self.thumbnail_size is not None:
            shape = (num_segments, *self.thumbnail_size, 3)
            is_right = self._arrays[THUMBNAIL].shape == shape and all(self.thumbnail_size)
            require(is_right, THUMBNAIL, f"the shape {shape}")

    def _read_answers(self) -> Answers | None:
        """Put the answers' tables together."""
        if self._answers_record is None:
            return None
        tables = {name: self._tables[own] for name, own in ANSWER_TABLES.items()}
        with self.file.damage("answers"):
            words = [word.decode() for word in tables[answer_rows.ANSWER]]
            tables[answer_rows.ANSWER] = np.array(words, dtype=np.dtypes.StringDType())
            return Answers.of(self._answers_record, tables, self.num_features)

    def _check_videos(self) -> None:
        """Check that layers and videos are such as a store may hold."""
        require, videos = self.file.require, self.videos
        is_right = self.layers and self.layers[0] >= 0 and np.all(np.diff(self.layers) > 0)
        require(is_right, "layer", "ascending numbers")
        ids = videos["video_id"]
        require(all(ids) and len({*ids}) == len(ids), "videos/video_id", "ids, each once")
        allowed = {"split": SPLITS, "label": LABELS, "status": (PENDING, DONE, FAILED)}
        for name, values in allowed.items():
            require({*videos[name]} <= {*values}, f"videos/{name}", " or ".join(values))
        with self.file.damage("videos/annotations"):
            for text in videos["annotations"]:
                parse_annotations(text)
        fps = videos["fps"]
        is_rate = np.isnan(fps) | (np.isfinite(fps) & (fps >= 0))
        require(is_rate.all(), "videos/fps", "frames per second")
        for name in ("num_frames", "num_segments"):
            require((videos[name] >= 0).all(), f"videos/{name}", "counts")

    def _check_segments(self) -> None:
        """Check that the segments are those of the finished videos, in their order."""
        require, videos, segments = self.file.require, self.videos, self.segments
        owner, numbers = segments["video"], np.arange(self.num_videos)
        is_done = np.array([status == DONE for status in videos["status"]], dtype=bool)
        is_inside = np.all((owner >= 0) & (owner < self.num_videos))
        is_right = is_inside and np.all(np.diff(owner) >= 0) and is_done[owner].all()
        require(is_right, "segments/video", "finished videos, in order")
        first, end = (np.searchsorted(owner, numbers, side) for side in ("left", "right"))
        self.rows = [slice(int(a), int(b)) for a, b in zip(first, end, strict=True)]
        is_right = np.all((videos["num_segments"] == end - first)[is_done])
        require(is_right, "videos/num_segments", "as many as the video has in segments/video")
        segment = np.arange(len(owner)) - first[owner]
        require(np.all(segments["segment"] == segment), "segments/segment", "0, 1, … per video")
        start, stop = segments["start_frame"], segments["stop_frame"]
        is_ascending = (np.diff(start, prepend=0) > 0) | (segment == 0)
        is_right = np.all((start >= 0) & is_ascending)
        require(is_right, "segments/start_frame", "ascending frames of each video")
        is_right = np.all((start < stop) & (stop <= videos["num_frames"][owner]))
        require(is_right, "segments/stop_frame", "frames of the video, after start_frame")
        if self.has_windows:
            start, stop = (segments[name] for name in WINDOW_COLUMNS)
            is_right = np.all((start >= 0) & (start < stop) & (stop <= videos["num_frames"][owner]))
            require(is_right, "segments/window_stop", "frames of the video, after window_start")
