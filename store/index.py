"""What a store holds: the plan from Zarr, the progress from the journal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from hiprobe.store.errors import StoreError
from hiprobe.store.journal import read_journal
from hiprobe.store.manifest import parse_annotations
from hiprobe.store.schema import DONE, INDEX_ARRAYS, JOURNAL, REPLACED
from hiprobe.store.video_file import FileIdentity

TEXT_COLUMNS = ("path", "split", "label", "category")
OUTCOME_COLUMNS = ("num_frames", "fps", "num_segments", "status", "error")
SEGMENT_COLUMNS = ("segment", "start_frame", "stop_frame")


class StoreIndex:
    """The plan of a store with the journal's entries applied; videos are known by their position.

    Parameters
    ----------
    videos : dict of str to (video,) array
        The arrays along ``video``, by name; kept and changed.
    rows : dict of str to (row,) array
        The arrays along ``row``, by name, padding rows included; kept and changed.
    """

    def __init__(self, videos: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> None:
        self._videos = videos
        self._rows = rows
        # A set, not a count: a block that was written twice, by two workers that had the video one
        # after the other, has two lines in the journals.
        self._committed: defaultdict[int, set[int]] = defaultdict(set)

    @property
    def num_videos(self) -> int:
        """Videos in the plan, whatever their status."""
        return len(self._videos["video_id"])

    @property
    def num_rows(self) -> int:
        """Rows in the plan, padding included."""
        return len(self._rows["video"])

    def positions(self) -> dict[str, int]:
        """Position of each video by its id; of a video that was planned again, the last."""
        return {video_id: i for i, video_id in enumerate(self._videos["video_id"])}

    def video_id(self, video: int) -> str:
        """Id of a video."""
        return str(self._videos["video_id"][video])

    def status(self, video: int) -> str:
        """One of `pending`, `done`, `failed`, `replaced`."""
        return str(self._videos["status"][video])

    def error(self, video: int) -> str:
        """Why it failed, or a note on a finished one; may be empty."""
        return str(self._videos["error"][video])

    def num_segments(self, video: int) -> int:
        """Real rows of a video: as planned, and once it is done, as decoded."""
        return int(self._videos["num_segments"][video])

    def num_frames(self, video: int) -> int:
        """Length in frames: as announced, and once it is done, as decoded."""
        return int(self._videos["num_frames"][video])

    def fps(self, video: int) -> float:
        """Frames per second; NaN where unknown."""
        return float(self._videos["fps"][video])

    def file(self, video: int) -> FileIdentity | None:
        """Which file a video was when it was planned; None where the store does not know."""
        digest = str(self._videos["file_digest"][video])
        if not digest:
            return None
        size, mtime_ns = (self._videos[name][video] for name in ("file_size", "file_mtime_ns"))
        return FileIdentity(int(size), int(mtime_ns), digest)

    def video_rows(self, video: int) -> slice:
        """Real rows of a video: one per segment, without the padding."""
        first = int(self._videos["first_row"][video])
        return slice(first, first + self.num_segments(video))

    def done_videos(self) -> list[int]:
        """Positions of the finished videos, ascending."""
        return [int(video) for video in np.flatnonzero(self._videos["status"] == DONE)]

    def real_rows(self) -> np.ndarray:
        """Numbers of all finished videos' rows, ascending: (segment,) int64."""
        slices = [self.video_rows(video) for video in self.done_videos()]
        return np.concatenate([np.arange(0), *(np.arange(s.start, s.stop) for s in slices)])

    def committed(self, video: int) -> int:
        """Number of a video's committed blocks; blocks are written in order: the first ones."""
        return len(self._committed.get(video, ()))

    def is_committed(self, video: int, block: int) -> bool:
        """Whether a journal says that this block of a video is on the disk."""
        return block in self._committed.get(video, ())

    def commit(self, video: int, block: int) -> None:
        """Apply a journal's ``block`` entry."""
        self._committed[video].add(block)

    def finish(self, video: int, entry: Mapping[str, Any]) -> None:
        """Apply a journal's ``video`` entry: the video is done, has failed, or is set aside."""
        # Applied whenever a store is opened, and again when the writer of this process commits, so
        # doing it twice must give the same.
        for name in ("status", "error", "num_frames", "fps"):
            self._videos[name][video] = entry[name]
        rows, num_frames = self.video_rows(video), entry["num_frames"]
        if entry["status"] != DONE:
            # It may have been done before, and is set aside now.
            self._rows["valid"][rows] = False
            return
        stop_frame = self._rows["stop_frame"][rows]
        np.minimum(stop_frame, num_frames, out=stop_frame)
        # Fewer frames decoded than the container promised: rows without a frame stay invalid.
        num_segments = int(np.count_nonzero(self._rows["start_frame"][rows] < num_frames))
        self._rows["valid"][rows] = np.arange(rows.stop - rows.start) < num_segments
        self._videos["num_segments"][video] = num_segments

    def video_table(self) -> pd.DataFrame:
        """One row a video that is not replaced, indexed by ``video_id``; see `FeatureStore`."""
        table = pd.DataFrame(
            {name: self._videos[name] for name in (*TEXT_COLUMNS, *OUTCOME_COLUMNS)},
            index=pd.Index(self._videos["video_id"], name="video_id"),
        )
        table["annotations"] = [*map(parse_annotations, self._videos["annotations"])]
        return table[table["status"] != REPLACED]

    def segment_table(self) -> pd.DataFrame:
        """One row a segment of a finished video, in row order; see `FeatureStore`."""
        rows = self.real_rows()
        columns = {"video_id": self._videos["video_id"][self._rows["video"][rows]]}
        return pd.DataFrame(columns | {name: self._rows[name][rows] for name in SEGMENT_COLUMNS})

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """The index arrays that the journals change, by name, as they are to be sealed."""
        yield from ((name, self._videos[name]) for name in OUTCOME_COLUMNS)
        yield from ((name, self._rows[name]) for name in ("valid", "stop_frame"))


def read_index(path: Path, group: zarr.Group) -> StoreIndex:
    """Read a store's index arrays and apply its journals.

    Raises
    ------
    StoreError
        An index array is missing or shorter than the store says, or a journal is of another plan.
    """
    index = StoreIndex(
        _read_arrays(path, group, "video", int(group.attrs["num_videos"])),  # type: ignore[arg-type]
        _read_arrays(path, group, "row", int(group.attrs["num_rows"])),  # type: ignore[arg-type]
    )
    for entry in read_journal(path / JOURNAL):
        video = entry["video"]
        if not 0 <= video < index.num_videos:
            raise StoreError(
                f"{path}: damaged: the journal names video {video}, the store has "
                f"{index.num_videos}. If it is a copy of a store that was being written, copy it "
                "again; else restore it from a copy."
            )
        if entry["event"] == "block":
            index.commit(video, entry["block"])
        else:
            index.finish(video, entry)
    return index


def _read_arrays(path: Path, group: zarr.Group, dim: str, length: int) -> dict[str, np.ndarray]:
    """Read the first `length` entries of index arrays; what lies beyond is no part of the store."""
    arrays = {}
    for array in INDEX_ARRAYS:
        if array.dim != dim:
            continue
        if array.name not in group:
            if not array.is_optional:
                raise StoreError(f"{path}: damaged: the array {array.name!r} is missing")
            dtype = object if array.dtype == "string" else array.dtype
            arrays[array.name] = np.full(length, array.fill_value, dtype=dtype)
            continue
        values = np.asarray(group[array.name][:length])  # type: ignore[index]
        if len(values) != length:
            raise StoreError(
                f"{path}: damaged: {array.name!r} has {len(values)} entries, expected {length}"
            )
        # Python's own strings, for tables and for keys; copies, as the journal is applied in place.
        arrays[array.name] = values.astype(object) if values.dtype.kind == "T" else values.copy()
    return arrays
