"""Writing a store so that nothing committed is ever lost.

The order is what makes it safe: plan the rows, write a whole shard of one video, bring it to
the disk, and only then append the journal's line that says so. A shard is never read, modified
and written again, and never shared by two videos.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout

from hiprobe.store import schema
from hiprobe.store.durable_files import PARTIAL, sync_file, sync_folder
from hiprobe.store.errors import StoreError, write_errors
from hiprobe.store.index import StoreIndex
from hiprobe.store.journal import JournalWriter, last_counter
from hiprobe.store.journal_log import Block
from hiprobe.store.opened import OpenedStore, is_half_created
from hiprobe.store.row_plan import PlannedVideo, plan_rows
from hiprobe.store.shards import can_read, chunk_checksums, shard_digest
from hiprobe.store.small_files import ROOT_METADATA, SmallFiles


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
            self._opened = OpenedStore(self.path, writable=True)
        # That of the store's owner: it has raised it.
        self._use_journal(last_counter(self._journals))

    def refresh(self) -> None:
        """Catch up with what other writers have committed and planned since."""
        with write_errors(self.path):
            self._opened.refresh()
        self._use_journal(last_counter(self._journals))

    @property
    def provenance(self) -> dict[str, Any]:
        """The store's attributes: how its states are made."""
        return self._opened.attributes

    @property
    def row_block(self) -> int:
        """Rows of a block, R."""
        return self._opened.row_block

    @property
    def index(self) -> StoreIndex:
        """The plan and the progress so far; kept up to date by the writer."""
        return self._opened.index

    @property
    def thumbnail_size(self) -> tuple[int, int] | None:
        """Height and width of the thumbnails that each block needs; None: it takes none."""
        return self._opened.thumbnail_size

    @property
    def _journals(self) -> Path:
        return self.path / schema.JOURNAL

    def _use_journal(self, counter: int) -> None:
        """Append from now on to a journal that counts after all of earlier owners."""
        self._journal = JournalWriter(self._journals, counter)

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
        array = self._opened.states
        num_layers, num_segments, num_features = states.shape
        planned = self.index.num_segments(video) - block * self.row_block
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
        start = self.index.video_rows(video).start + block * self.row_block
        number = start // self.row_block
        line: dict[str, Any] = {
            "event": "block",
            "video": video,
            "block": block,
            "rows": num_segments,
        }
        with write_errors(self.path):
            # The journal's line comes last, after everything that it vouches for is on the disk.
            if thumbnails is not None:
                self._write_thumbnails(start, thumbnails)
                file = self._sync_shard(schema.THUMBNAIL, f"{number}/0/0/0")
                line["thumbnail"] = shard_digest(file)
            array[:, start : start + self.row_block, :] = shard
            file = self._sync_shard("hidden_states", f"0/{number}/0")
            if can_read(array):
                line["crc"] = chunk_checksums(file, num_layers)
            self._journal.append(line)
        self.index.commit(Block(video, block, line.get("crc", ""), line.get("thumbnail", "")))

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
            # A file's name may have bytes that are no text.
            "error": error.encode(errors="backslashreplace").decode(),
        }
        with write_errors(self.path):
            self._journal.append(entry)
        self.index.finish(video, entry)

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
        assert self._opened.thumbnails is not None
        self._opened.thumbnails[start : start + self.row_block] = shard

    def _sync_shard(self, name: str, shard: str) -> Path:
        """Bring a shard to the disk, with its folders up to the array's: they may be new too."""
        file = self.path / name / "c" / shard
        sync_file(file)
        for folder in file.parents[1 : 1 + len(Path(shard).parts)]:
            sync_folder(folder)
        return file


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
        # What is no store stays as it is.
        OpenedStore(Path(path))
        # An owner of the lock first, so that the plan is read when nobody changes it.
        lock = _lock(Path(path))
        try:
            self._own(Path(path), lock)
        except BaseException:
            lock.release()
            raise

    def _own(self, path: Path, lock: FileLock) -> None:
        """Open a store whose lock is ours."""
        self._lock = lock
        super().__init__(path)
        with write_errors(path):
            self._sweep()
            # What a killed owner left half done is as it is from now on.
            self._commit()

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
        """Create an empty store and open it for writing; see `hiprobe.store.schema.create`.

        What a killed call left goes on.

        Raises
        ------
        StoreError
            There is something else at `path`, or another process is writing there.
        """
        path = Path(path)
        is_new = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        if not is_new and not (path.is_dir() and is_half_created(path)):
            raise StoreError(
                f"{path}: exists and is no feature store that can be gone on with. "
                "Choose another path."
                if not (path / ROOT_METADATA).exists()
                else f"{path}: exists: it is a store already. Choose another path."
            )
        with write_errors(path):
            (path / schema.JOURNAL).mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            if (path / ROOT_METADATA).exists():
                raise StoreError(
                    f"{path}: another process has made this store meanwhile. "
                    "The same command goes on with it."
                )
            with write_errors(path):
                _clear(path)
                files = SmallFiles(path)
                schema.create(files, layers, num_features, row_block, provenance, thumbnail_size)
                journal = JournalWriter(path / schema.JOURNAL, last_counter(path / "journal") + 1)
                files.commit(journal.append, {}, is_complete=True)
            writer = cls.__new__(cls)
            writer._journal = journal
            writer._own(path, lock)
        except BaseException:
            lock.release()
            raise
        return writer

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
        first_video, first_row = self.index.num_videos, self.index.num_rows
        store = self._opened
        columns, num_rows = plan_rows(videos, first_video, first_row, self.row_block)
        lengths = {"video": first_video + len(videos), "row": num_rows}
        with write_errors(self.path):
            for array in schema.INDEX_ARRAYS:
                # The store is older than this array: it knows nothing of its videos so far.
                if store.files.checked(f"{array.name}/zarr.json") is None:
                    schema.create_index_array(store.group, array, first_video)
                zarr_array = store.array(array.name)
                start = first_video if array.dim == "video" else first_row
                zarr_array.resize((lengths[array.dim],))
                # Over what an interrupted call may have left beyond `num_videos` and `num_rows`.
                if lengths[array.dim] > start:
                    zarr_array[start:] = columns[array.name]
            states = store.array("hidden_states")
            states.resize((states.shape[0], num_rows, states.shape[2]))
            if (size := self.thumbnail_size) is not None:
                store.array(schema.THUMBNAIL).resize((num_rows, *size, 3))
            # What belongs together changes at once, after the arrays: it makes them count.
            store.group.update_attributes({"num_videos": lengths["video"], "num_rows": num_rows})
            self._commit()
        self.refresh()

    def replace_failed(self, video: int) -> None:
        """Set a failed video aside, so that `add_videos` may plan one of its id again."""
        self.finish_video(video, status=schema.REPLACED, num_frames=0, fps=float("nan"))

    def record(self, name: str, value: Any) -> None:
        """Keep something more about the store among its attributes, JSON-serialisable."""
        with write_errors(self.path):
            self._opened.group.update_attributes({name: value})
            self._commit()

    def seal(self) -> None:
        """Write the status arrays, so that any Zarr reader sees them without the journal."""
        with write_errors(self.path):
            for name, values in self.index.arrays():
                if len(values):
                    self._opened.array(name)[: len(values)] = values
            self._commit()

    def vouch(self, lines: Iterable[Block]) -> None:
        """Journal what committed blocks hold, and every small file, as they are now."""
        with write_errors(self.path):
            for line in lines:
                entry = {"event": "block", **asdict(line)}
                self._journal.append({name: value for name, value in entry.items() if value != ""})
            self._commit(is_complete=True)

    def _commit(self, *, is_complete: bool = False) -> None:
        """Write the small files that changed."""
        store = self._opened
        store.files.commit(self._journal.append, store.log.promise(), is_complete=is_complete)

    def _use_journal(self, counter: int) -> None:
        """One journal for all the time that the lock is held, after all that there were."""
        if not hasattr(self, "_journal"):
            super()._use_journal(counter + 1)

    def _sweep(self) -> None:
        """Delete what a killed writer had not renamed yet; committed blocks need no look."""
        leftovers = [*self.path.glob(f"*{PARTIAL}"), *self.path.glob(f"*/*{PARTIAL}")]
        for name in (array.name for array in schema.INDEX_ARRAYS):
            leftovers += (self.path / name / "c").glob(f"*{PARTIAL}")
        leftovers += (self.path / "layer/c").glob(f"*{PARTIAL}")
        for folder in (self.path / "hidden_states/c/0", self.path / schema.THUMBNAIL / "c"):
            for number in folder.glob("*"):
                if not (
                    number.name.isdecimal() and self.index.is_committed_shard(int(number.name))
                ):
                    leftovers += number.glob(f"**/*{PARTIAL}")
        for leftover in leftovers:
            leftover.unlink()


def _clear(path: Path) -> None:
    """Delete what a killed `create` left; the lock is held."""
    for entry in [*path.iterdir(), *(path / schema.JOURNAL).iterdir()]:
        if entry.name in (schema.JOURNAL, "lock"):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _lock(path: Path) -> FileLock:
    """Become the owner of a store, or say that another process is."""
    file = path / schema.JOURNAL / "lock"
    with write_errors(path):
        if file.exists() and not file.is_file():
            raise StoreError(f"{file}: damaged: it is no regular file. Delete it.")
        lock = FileLock(file)
        # The kernel drops a `flock` with its process: a kill leaves no lock behind.
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise StoreError(
                f"{path}: another process is writing this store. "
                "Wait for it, or stop it; the same command then goes on where it was."
            ) from None
    return lock
