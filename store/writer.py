"""Writing a store so that nothing committed is ever lost.

The order is what makes it safe: plan the rows, write a whole shard of one video, bring it to
the disk, and only then append the journal's line that says so. A shard is never read, modified
and written again, and never shared by two videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from filelock import FileLock, Timeout

from hiprobe.store import schema
from hiprobe.store.errors import StoreError, write_errors
from hiprobe.store.index import StoreIndex, read_index
from hiprobe.store.journal import JournalWriter, sync_file, sync_folder
from hiprobe.store.row_plan import PlannedVideo, plan_rows


class BlockWriter:
    """Writes and commits blocks of a store whose plan is made, with a journal of its own.

    Any number of processes may each have one, as long as no two write the same video at a time.

    Parameters
    ----------
    path : path-like
        The store's folder.

    Raises
    ------
    StoreError
        The store cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with write_errors(self.path):
            self._group = schema.open_group(self.path, mode="r+")
        self.refresh()
        self._journal = JournalWriter(self.path / schema.JOURNAL)

    def refresh(self) -> None:
        """Read plan and journals again: what other writers have committed since."""
        self._index = read_index(self.path, self._group)

    @property
    def provenance(self) -> dict[str, Any]:
        """The store's attributes: how its states are made."""
        return dict(self._group.attrs)

    @property
    def row_block(self) -> int:
        """Rows of a block, R."""
        return int(self._group.attrs["row_block"])  # type: ignore[arg-type]

    @property
    def index(self) -> StoreIndex:
        """The plan and the progress so far; kept up to date by the writer."""
        return self._index

    @property
    def thumbnail_size(self) -> tuple[int, int] | None:
        """Height and width of the thumbnails that each block needs; None: it takes none."""
        return schema.thumbnail_size(self._group)

    def write_block(
        self, video: int, block: int, states: np.ndarray, thumbnails: np.ndarray | None = None
    ) -> None:
        """Write and commit one block of a video's states, and of its thumbnails.

        Parameters
        ----------
        video : int
            Index of the video in the plan.
        block : int
            0 for the video's first `row_block` segments, 1 for the next ones, and so on.
        states : (layer, segment, feature) float32
            At most `row_block` segments; the rest of the block becomes padding.
        thumbnails : (segment, y, x, 3) uint8, optional
            RGB, of `thumbnail_size`; needed where the store keeps them, and only there.

        Raises
        ------
        ValueError
            The states do not fit: they would reach into another video's block. Or the thumbnails
            are not what the store keeps.
        StoreError
            The disk is full, or refuses.
        """
        array = self._array("hidden_states")
        num_layers, num_segments, num_features = states.shape
        planned = self._index.num_segments(video) - block * self.row_block
        fits = 0 < num_segments <= min(planned, self.row_block)
        if not fits or (num_layers, num_features) != (array.shape[0], array.shape[2]):
            raise ValueError(
                f"block {block} of video {video} has room for {array.shape[0]} layers, "
                f"{min(planned, self.row_block)} segments and {array.shape[2]} features; "
                f"got {states.shape = }"
            )
        self._check_thumbnails(thumbnails, num_segments)
        # Always a whole shard, padding and all: a part of one would have to be read, changed and
        # written again, and a kill in between would damage what was committed before.
        shard = np.full((num_layers, self.row_block, num_features), np.nan, dtype=np.float32)
        shard[:, :num_segments] = states
        start = self._index.video_rows(video).start + block * self.row_block
        number = start // self.row_block
        with write_errors(self.path):
            # The journal's line comes last, after everything that it vouches for is on the disk.
            if thumbnails is not None:
                self._write_thumbnails(start, thumbnails)
                self._sync_shard(schema.THUMBNAIL, f"{number}/0/0/0")
            array[:, start : start + self.row_block, :] = shard
            self._sync_shard("hidden_states", f"0/{number}/0")
            self._journal.append(
                {"event": "block", "video": video, "block": block, "rows": num_segments}
            )
        self._index.commit(video, block)

    def finish_video(
        self, video: int, *, status: str, num_frames: int, fps: float, error: str = ""
    ) -> None:
        """Commit a video's outcome: done (`error` may hold a note), or failed with its reason."""
        entry = {
            "event": "video",
            "video": video,
            "status": status,
            "num_frames": num_frames,
            "fps": fps,
            "error": error,
        }
        with write_errors(self.path):
            self._journal.append(entry)
        self._index.finish(video, entry)

    def _check_thumbnails(self, thumbnails: np.ndarray | None, num_segments: int) -> None:
        """Refuse thumbnails that are too few, of another size, or of a store that keeps none."""
        size = self.thumbnail_size
        expected = None if size is None else (num_segments, *size, 3)
        got = None if thumbnails is None else thumbnails.shape
        if got != expected:
            raise ValueError(
                f"expected thumbnails of shape {expected}, got thumbnails.shape = {got}"
            )

    def _write_thumbnails(self, start: int, thumbnails: np.ndarray) -> None:
        """Write the shard of thumbnails that begins at row `start`."""
        shard = np.zeros((self.row_block, *thumbnails.shape[1:]), dtype=np.uint8)
        shard[: len(thumbnails)] = thumbnails
        # Else Zarr leaves out what is all black, and a missing shard would mean nothing.
        with zarr.config.set({"array.write_empty_chunks": True}):
            array = self._array(schema.THUMBNAIL)
        array[start : start + self.row_block] = shard

    def _sync_shard(self, name: str, shard: str) -> None:
        """Bring a shard to the disk, with its folders up to the array's: they may be new too."""
        file = self.path / name / "c" / shard
        sync_file(file)
        for folder in file.parents[1 : 1 + len(Path(shard).parts)]:
            sync_folder(folder)

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array


class StoreWriter(BlockWriter):
    """The one owner of a store: plans videos, and seals what it and other writers committed.

    Parameters
    ----------
    path : path-like
        The store's folder.

    Raises
    ------
    StoreError
        The store cannot be opened, or another process is writing it.

    Notes
    -----
    A context manager: leaving it seals the store (writes the status arrays) and unlocks it.
    """

    def __init__(self, path: str | Path) -> None:
        # An owner of the lock first, so that the plan is read when nobody changes it.
        with write_errors(Path(path)):
            schema.open_group(Path(path), mode="r+")
            self._lock = FileLock(Path(path) / schema.JOURNAL / "lock")
            # The kernel drops a `flock` with its process: a kill leaves no lock behind.
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                raise StoreError(
                    f"{path}: another process is writing this store. "
                    "Wait for it, or stop it; the same command then goes on where it was."
                ) from None
            # What a killed writer had not renamed yet.
            for leftover in Path(path).glob("**/*.partial"):
                leftover.unlink()
        super().__init__(path)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        layers: Sequence[int],
        num_features: int,
        provenance: dict[str, Any],
        row_block: int = schema.DEFAULT_ROW_BLOCK,
        thumbnail_size: tuple[int, int] | None = None,
    ) -> Self:
        """Create an empty store and open it for writing; see `hiprobe.store.schema.create`."""
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StoreError(f"{path}: exists and is no feature store. Choose another path.")
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            schema.create(path, layers, num_features, row_block, provenance, thumbnail_size)
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            # Worker processes have committed too, in journals of their own.
            self.refresh()
            self.seal()
        finally:
            self.close()

    def close(self) -> None:
        """Unlock the store, without sealing it."""
        self._lock.release()

    def add_videos(self, videos: Iterable[PlannedVideo]) -> None:
        """Give each new video its rows, at the end of the store.

        Each video starts at a multiple of `row_block`; the rest of its last block is padding.
        """
        videos = list(videos)
        if not videos:
            return
        first_video, first_row = self._index.num_videos, self._index.num_rows
        columns, num_rows = plan_rows(videos, first_video, first_row, self.row_block)
        lengths = {"video": first_video + len(videos), "row": num_rows}
        with write_errors(self.path):
            for array in schema.INDEX_ARRAYS:
                # The store is older than this array: it knows nothing of its videos so far.
                if array.name not in self._group:
                    schema.create_index_array(self._group, array, first_video)
                zarr_array = self._array(array.name)
                start = first_video if array.dim == "video" else first_row
                zarr_array.resize((lengths[array.dim],))
                # Over what an interrupted call may have left beyond `num_videos` and `num_rows`.
                if lengths[array.dim] > start:
                    zarr_array[start:] = columns[array.name]
            states = self._array("hidden_states")
            states.resize((states.shape[0], num_rows, states.shape[2]))
            if (size := self.thumbnail_size) is not None:
                self._array(schema.THUMBNAIL).resize((num_rows, *size, 3))
            # The journal's lines mean nothing without the plan: it must be on the disk first.
            self._sync_index()
            self._group.attrs.update(num_videos=lengths["video"], num_rows=num_rows)
            sync_file(self.path / "zarr.json")
        self.refresh()

    def replace_failed(self, video: int) -> None:
        """Set a video that failed, or has changed, aside: its id may be planned again."""
        self.finish_video(video, status=schema.REPLACED, num_frames=0, fps=float("nan"))

    def record(self, name: str, value: Any) -> None:
        """Keep something more about the store among its attributes, JSON-serialisable."""
        with write_errors(self.path):
            self._group.attrs[name] = value
            sync_file(self.path / "zarr.json")

    def seal(self) -> None:
        """Write the status arrays, so that any Zarr reader sees them without the journal."""
        with write_errors(self.path):
            for name, values in self._index.arrays():
                if len(values):
                    self._array(name)[: len(values)] = values
            self._sync_index()

    def _sync_index(self) -> None:
        """Bring metadata and index arrays to the disk; `write_block` does it for the shards."""
        # A store of an earlier version lacks some of them.
        own = [array.name for array in schema.INDEX_ARRAYS if array.name in self._group]
        names = ["hidden_states", "layer", *own]
        names += [schema.THUMBNAIL] * (self.thumbnail_size is not None)
        for name in names:
            for file in (*(self.path / name).glob("c/*"), self.path / name / "zarr.json"):
                sync_file(file)
        for file in (self.path / schema.JOURNAL / "zarr.json", self.path / "zarr.json", self.path):
            sync_file(file)
