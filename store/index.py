"""What a store holds, as plain numpy arrays: the plan from Zarr, the progress from the journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from hiprobe.store.errors import StoreError
from hiprobe.store.journal import read_journal
from hiprobe.store.schema import DONE, JOURNAL, ROW_ARRAYS, VIDEO_ARRAYS


@dataclass
class StoreIndex:
    """The index arrays of a store, with the journal's entries applied.

    Attributes
    ----------
    videos : dict of str to (video,) array
        The arrays along ``video``, by name.
    rows : dict of str to (row,) array
        The arrays along ``row``, by name, padding rows included.
    committed_blocks : dict of int to set of int
        Blocks written so far, by video index.
    """

    videos: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    committed_blocks: dict[int, set[int]] = field(default_factory=dict)

    @property
    def num_videos(self) -> int:
        """Videos in the plan, whatever their status."""
        return len(self.videos["video_id"])

    def positions(self) -> dict[str, int]:
        """Index of each video by its id; of a video that was planned again, the last."""
        return {video_id: i for i, video_id in enumerate(self.videos["video_id"])}

    def video_rows(self, video: int) -> slice:
        """Real rows of a video: one per segment, without the padding."""
        first = int(self.videos["first_row"][video])
        return slice(first, first + int(self.videos["num_segments"][video]))

    def done_videos(self) -> np.ndarray:
        """Indices of the finished videos, ascending."""
        return np.flatnonzero(self.videos["status"] == DONE)

    def finish(self, video: int, entry: dict[str, Any]) -> None:
        """Apply a journal's ``video`` entry: the video is done, or has failed."""
        for name in ("status", "error", "num_frames", "fps"):
            self.videos[name][video] = entry[name]
        if entry["status"] != DONE:
            return
        rows = self.video_rows(video)
        self.rows["valid"][rows] = True
        np.minimum(
            self.rows["stop_frame"][rows],
            entry["num_frames"],
            out=self.rows["stop_frame"][rows],
        )
        # Fewer frames decoded than the container promised: rows without a frame stay invalid.
        num_segments = int(np.count_nonzero(self.rows["start_frame"][rows] < entry["num_frames"]))
        self.rows["valid"][rows.start + num_segments : rows.stop] = False
        self.videos["num_segments"][video] = num_segments


def read_index(path: Path, group: zarr.Group) -> StoreIndex:
    """Read a store's index arrays and apply its journals.

    Raises
    ------
    StoreError
        An index array is missing or shorter than the store says.
    """
    lengths = {"video": group.attrs["num_videos"], "row": group.attrs["num_rows"]}

    def read(names: Sequence[str], dim: str) -> dict[str, np.ndarray]:
        arrays = {}
        for name in names:
            if name not in group:
                raise StoreError(f"{path}: damaged: the array {name!r} is missing")
            array = np.asarray(group[name][: lengths[dim]])  # type: ignore[index]
            if len(array) != lengths[dim]:
                raise StoreError(
                    f"{path}: damaged: {name!r} has {len(array)} entries, expected {lengths[dim]}"
                )
            arrays[name] = array.astype(object) if array.dtype.kind == "T" else array.copy()
        return arrays

    index = StoreIndex(read(VIDEO_ARRAYS, "video"), read(ROW_ARRAYS, "row"))
    for entry in read_journal(path / JOURNAL):
        video = entry["video"]
        if not 0 <= video < index.num_videos:
            raise StoreError(
                f"{path}: damaged: the journal names video {video}, the store has "
                f"{index.num_videos}. If it is a copy of a store that was being written, copy it "
                "again; else restore it from a copy."
            )
        if entry["event"] == "block":
            index.committed_blocks.setdefault(video, set()).add(entry["block"])
        else:
            index.finish(video, entry)
    return index
