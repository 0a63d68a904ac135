"""What a store holds: the plan from Zarr, the progress from the journal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiprobe.store import windows
from hiprobe.store.errors import StoreError
from hiprobe.store.journal_log import Block, Gained
from hiprobe.store.manifest import LABEL_COLUMNS, parse_annotations
from hiprobe.store.schema import DONE, REPLACED
from hiprobe.store.taps import HIDDEN_STATES
from hiprobe.store.video_file import FileIdentity

TEXT_COLUMNS = ("path", "split", "label", "category")
OUTCOME_COLUMNS = ("num_frames", "fps", "num_segments", "status", "error")
CRC_DIGITS = 8
SEGMENT_COLUMNS = ("segment", "start_frame", "stop_frame")


class StoreIndex:
    """The plan of a store with the journal's entries applied; videos are known by their position.

    Parameters
    ----------
    videos : dict of str to (video,) array
        The arrays along ``video``, by name; kept and changed.
    rows : dict of str to (row,) array
        The arrays along ``row``, by name, padding rows included; kept and changed.
    row_block : int
    num_layers : dict of str to int
        Of each array of states, by its name.
    path : Path
        The store's, for messages.
    """

    def __init__(
        self,
        videos: dict[str, np.ndarray],
        rows: dict[str, np.ndarray],
        row_block: int,
        num_layers: Mapping[str, int],
        path: Path,
    ) -> None:
        self._videos = videos
        self._rows = rows
        self._row_block = row_block
        self._num_layers = num_layers
        self._path = path
        # By block: a block that was written twice, by two workers that had the video one after the
        # other, has two lines in the journals, and either may be what is there.
        self._committed: defaultdict[int, dict[int, tuple[Block, ...]]] = defaultdict(dict)

    @property
    def num_videos(self) -> int:
        """Videos in the plan, whatever their status."""
        return len(self._videos["video_id"])

    @property
    def num_rows(self) -> int:
        """Rows in the plan, padding included."""
        return len(self._rows["video"])

    def positions(self) -> Mapping[str, int]:
        """Position of each video by its id; of a video that was planned again, the last."""
        return self._positions

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {video_id: i for i, video_id in enumerate(self._videos["video_id"])}

    def video_id(self, video: int) -> str:
        """Id of a video."""
        return str(self._videos["video_id"][video])

    def status(self, video: int) -> str:
        """One of `pending`, `done`, `failed`, `replaced`."""
        return str(self._videos["status"][video])

    def file_path(self, video: int) -> str:
        """Where its file was when it was last looked for."""
        return str(self._videos["path"][video])

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
        done = self._videos["status"] == DONE
        counts = self._videos["num_segments"][done].astype(np.int64)
        first = self._videos["first_row"][done]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(first, counts) + within

    def committed(self, video: int) -> int:
        """Number of a video's committed blocks; blocks are written in order: the first ones."""
        return len(self._committed.get(video, ()))

    def whole_blocks(self, video: int, names: Iterable[str]) -> int:
        """Number of a video's first blocks that all of these arrays have, and the main one."""
        blocks = range(self.committed(video))
        wanted = tuple(names)
        lacking = (
            block for block in blocks
            if not all(self.block_checksums(video, block, name) for name in wanted)
        )  # fmt: skip
        return next(lacking, len(blocks))

    def is_committed(self, video: int, block: int) -> bool:
        """Whether a journal says that this block of a video is on the disk."""
        return block in self._committed.get(video, ())

    def lines(self, video: int, block: int) -> tuple[Block, ...]:
        """What the journals say of a block: any one of it may be what is on the disk."""
        return self._committed.get(video, {}).get(block, ())

    def checksums(self, video: int, name: str) -> list[tuple[str, ...]]:
        """For each block of a video's real rows, what its layers' checksums may be in an array."""
        num_blocks = -(-self.num_segments(video) // self._row_block)
        return [self.block_checksums(video, block, name) for block in range(num_blocks)]

    def block_checksums(self, video: int, block: int, name: str) -> tuple[str, ...]:
        """What the checksums of a block's layers may be in an array; nothing: it is not there."""
        known = (line.checksums(name) for line in self.lines(video, block))
        return tuple(one for one in known if one is not None)

    def has_states(self, video: int, name: str) -> bool:
        """Whether an array has all committed blocks of a video: it may have come later."""
        blocks = range(self.committed(video))
        return all(self.block_checksums(video, block, name) for block in blocks)

    def is_committed_shard(self, number: int, name: str = HIDDEN_STATES) -> bool:
        """Whether the shard of this number in an array of states holds a committed block."""
        row = number * self._row_block
        if not row < self.num_rows or (video := int(self._rows["video"][row])) < 0:
            return False
        block = int(self._rows["segment"][row]) // self._row_block
        return bool(self.block_checksums(video, block, name))

    def commit(self, line: Block) -> None:
        """Apply a journal's ``block`` entry."""
        of_video = self._committed[line.video]
        known = of_video.get(line.block, ())
        if line.crc:
            # One from before there were checksums says no more than this one.
            known = tuple(one for one in known if one.crc and one != line)
        elif known and not line.taps:
            return
        of_video[line.block] = (*known, line)

    def finish(self, video: int, entry: Mapping[str, Any]) -> None:
        """Apply a journal's ``video`` entry: the video is done, has failed, or is set aside."""
        self._finish({video: entry})

    def apply(self, gained: Gained) -> None:
        """Apply what the journals gained.

        Raises
        ------
        StoreError
            They are of another plan.
        """
        named = [*(line.video for line in gained.blocks), *gained.outcomes]
        if named and max(named) >= self.num_videos:
            raise StoreError(
                f"{self._path}: damaged: the journal names video {max(named)}, the store has "
                f"{self.num_videos}. If it is a copy of a store that was being written, copy it "
                "again; else restore it from a copy."
            )
        for line in gained.blocks:
            wrong = [
                crc for name, crc in ((HIDDEN_STATES, line.crc), *line.taps.items())
                if crc and len(crc) != CRC_DIGITS * self._num_layers.get(name, 0)
            ]  # fmt: skip
            if line.block >= self._num_blocks[line.video] or wrong:
                crc = (wrong or [line.crc])[0]
                raise StoreError(
                    f"{self._path}: damaged: the journal has block {line.block} of video "
                    f"{line.video} with checksums {crc[:40]!r}, which the plan does not have. "
                    "Restore the store's folder from a copy."
                )
            self.commit(line)
        self._finish(gained.outcomes)

    @cached_property
    def _num_blocks(self) -> list[int]:
        """Blocks of each video as planned."""
        owners = self._rows["video"]
        segments = np.bincount(owners[owners >= 0], minlength=self.num_videos)
        return (-(-segments // self._row_block)).tolist()

    def _finish(self, outcomes: Mapping[int, Mapping[str, Any]]) -> None:
        """Apply outcomes, all at once: there may be many."""
        # Applied whenever a store is opened, and again when the writer of this process commits, so
        # doing it twice must give the same.
        videos = np.fromiter(outcomes, dtype=np.int64, count=len(outcomes))
        for name in ("status", "error", "num_frames", "fps"):
            column = self._videos[name]
            column[videos] = np.array(
                [entry[name] for entry in outcomes.values()], dtype=column.dtype
            )
        is_done = self._videos["status"][videos] == DONE
        for video in videos[~is_done].tolist():
            # It may have been done before, and be set aside now.
            self._rows["valid"][self.video_rows(video)] = False
        done = videos[is_done]
        counts = self._videos["num_segments"][done].astype(np.int64)
        of = np.repeat(np.arange(len(done)), counts)
        rows = self._videos["first_row"][done][of] + np.arange(len(of))
        rows -= (np.cumsum(counts) - counts)[of]
        limit = self._videos["num_frames"][done][of]
        start_frame = self._rows["start_frame"][rows]
        self._cut("stop_frame", rows, limit)
        if windows.COLUMNS[0] in self._rows:
            # A narrow one may lie behind the end: the last frame is what there is of it.
            self._cut(windows.COLUMNS[0], rows, np.maximum(limit - 1, 0))
            self._cut(windows.COLUMNS[1], rows, limit)
        # Fewer frames decoded than the container promised: rows without a frame stay invalid.
        self._rows["valid"][rows] = start_frame < limit
        self._videos["num_segments"][done] = np.bincount(of[start_frame < limit], None, len(done))

    def _cut(self, name: str, rows: np.ndarray, limit: np.ndarray) -> None:
        """Let no frame of some rows lie beyond a limit."""
        column = self._rows[name]
        column[rows] = np.minimum(column[rows], limit)

    def video_table(self) -> pd.DataFrame:
        """One row a video that is not replaced, indexed by ``video_id``; see `FeatureStore`."""
        table = pd.DataFrame(
            {name: self._videos[name] for name in (*TEXT_COLUMNS, *OUTCOME_COLUMNS)},
            index=pd.Index(self._videos["video_id"], name="video_id"),
        )
        try:
            table["annotations"] = [*map(parse_annotations, self._videos["annotations"])]
        except ValueError as error:
            raise StoreError(
                f"{self._path / 'annotations'}: damaged: {error}. Restore it from a copy."
            ) from error
        return table[table["status"] != REPLACED]

    def segment_table(self) -> pd.DataFrame:
        """One row a segment of a finished video, in row order; see `FeatureStore`."""
        rows = self.real_rows()
        columns = {"video_id": self._videos["video_id"][self._rows["video"][rows]]}
        names = [name for name in (*SEGMENT_COLUMNS, *windows.COLUMNS) if name in self._rows]
        return pd.DataFrame(columns | {name: self._rows[name][rows] for name in names})

    def labels(self) -> Iterator[tuple[str, np.ndarray]]:
        """The index arrays that `hiprobe.store.relabel` changes, by name."""
        yield from ((name, self._videos[name]) for name in LABEL_COLUMNS)

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """The index arrays that the journals change, by name, as they are to be sealed."""
        yield from ((name, self._videos[name]) for name in OUTCOME_COLUMNS)
        names = ("valid", "stop_frame", *windows.COLUMNS)
        yield from ((name, self._rows[name]) for name in names if name in self._rows)
