"""The owner of a store: creates it, plans videos, and seals what was committed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock

from hiprobe.store import answer_rows, schema
from hiprobe.store.answer_rows import Answers, write_answers
from hiprobe.store.block_writer import BlockWriter
from hiprobe.store.errors import StoreError, write_errors
from hiprobe.store.journal import JournalWriter, last_counter
from hiprobe.store.journal_log import Block
from hiprobe.store.opened import OpenedStore
from hiprobe.store.ownership import clear, lock_store, sweep
from hiprobe.store.pending_labels import PENDING_LABELS
from hiprobe.store.row_plan import PlannedVideo, plan_rows
from hiprobe.store.small_files import ROOT_METADATA, SmallFiles
from hiprobe.store.store_folder import is_half_created
from hiprobe.store.taps import ATTRIBUTE, Tap


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
        lock = lock_store(Path(path))
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
            sweep(path, self.index, self._opened.states)
            # What a killed owner left half done is as it is from now on.
            self._commit()
            # But labels go on.
            self._finish_relabelling()

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
        taps: Sequence[Tap] = (),
        answers: Answers | None = None,
        has_windows: bool = False,
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
        lock = lock_store(path)
        try:
            if (path / ROOT_METADATA).exists():
                raise StoreError(
                    f"{path}: another process has made this store meanwhile. "
                    "The same command goes on with it."
                )
            with write_errors(path):
                clear(path)
                files = SmallFiles(path)
                schema.create(
                    files, layers, num_features, row_block, provenance, thumbnail_size, taps,
                    answers, has_windows,
                )  # fmt: skip
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
        if not store.has_windows and any(video.windows is not None for video in videos):
            raise ValueError("the store keeps no windows, and a video has some")
        columns, num_rows = plan_rows(videos, first_video, first_row, self.row_block)
        lengths = {"video": first_video + len(videos), "row": num_rows}
        with write_errors(self.path):
            for array in store.index_arrays():
                # The store is older than this array: it knows nothing of its videos so far.
                if store.files.checked(f"{array.name}/zarr.json") is None:
                    schema.create_index_array(store.group, array, first_video)
                zarr_array = store.array(array.name)
                start = first_video if array.dim == "video" else first_row
                zarr_array.resize((lengths[array.dim],))
                # Over what an interrupted call may have left beyond `num_videos` and `num_rows`.
                if lengths[array.dim] > start:
                    zarr_array[start:] = columns[array.name]
            for name in store.states:
                states = store.array(name)
                states.resize((states.shape[0], num_rows, states.shape[2]))
            if (size := self.thumbnail_size) is not None:
                store.array(schema.THUMBNAIL).resize((num_rows, *size, 3))
            # What belongs together changes at once, after the arrays: it makes them count.
            store.group.update_attributes({"num_videos": lengths["video"], "num_rows": num_rows})
            self._commit()
        self.refresh()

    def add_taps(self, taps: Iterable[Tap]) -> None:
        """Keep further states from now on; videos that are finished lack them until they are added.

        See `add_taps_of_block`. Those that the store has stay as they are.

        Raises
        ------
        ValueError
            It has one of that name with other layers or features.
        """
        new = {tap.name: tap for tap in taps}
        for name in {*new} & {*self._opened.states}:
            if not self._opened.states[name].tap.fits(new.pop(name)):
                raise ValueError(f"{name}: the store has it otherwise")
        if not new:
            return
        with write_errors(self.path):
            group = self._opened.group
            for tap in new.values():
                schema.create_states_array(group, tap, self.row_block, self.index.num_rows)
            # Last: it makes the arrays count.
            records = {tap.name: tap.as_record() for tap in {**self.taps, **new}.values()}
            group.update_attributes({ATTRIBUTE: records})
            self._commit()
        self.refresh()

    def add_answers(self, answers: Answers, words: Sequence[str] = ()) -> tuple[str, ...]:
        """Keep rows of the LM head: all where the store has none, else those of some more words.

        Rows that the store has stay as they are. Killed half way, it has what it had.

        Returns
        -------
        tuple of str
            Words whose rows it did not have.

        Raises
        ------
        StoreError
            Its rows are those of another LM head.
        """
        kept = self._opened.answers()
        try:
            whole = answers if kept is None else kept.with_more(answers, words)
        except ValueError as error:
            raise StoreError(f"{self.path}: cannot take answers of this model: {error}.") from error
        num_kept = 0 if kept is None else len(kept.words)
        if added := whole.words[num_kept:]:
            with write_errors(self.path):
                group = self._opened.group
                write_answers(group, whole, schema.SMALL_COMPRESSORS, num_kept)
                # Last: it makes them count.
                group.update_attributes({answer_rows.ATTRIBUTE: whole.as_record()})
                self._commit()
            self.refresh()
        return added

    def replace_failed(self, video: int) -> None:
        """Set a failed video aside, so that `add_videos` may plan one of its id again."""
        self.finish_video(video, status=schema.REPLACED, num_frames=0, fps=float("nan"))

    def move_videos(self, paths: dict[int, str]) -> None:
        """Say where videos' files are now, by the videos' positions."""
        if not paths:
            return
        with write_errors(self.path):
            videos = range(self.index.num_videos)
            values = [paths.get(video, self.index.file_path(video)) for video in videos]
            self._opened.array("path")[: len(values)] = np.array(
                values, dtype=np.dtypes.StringDType()
            )
            self._commit()
        self.refresh()

    def record(self, name: str, value: Any) -> None:
        """Keep something more about the store among its attributes, JSON-serialisable."""
        with write_errors(self.path):
            self._opened.group.update_attributes({name: value})
            self._commit()

    def relabel(self, labels: dict[str, list[Any]], history: list[dict[str, Any]]) -> None:
        """Change videos' labels, all at once; see `hiprobe.store.relabel`.

        Parameters
        ----------
        labels : dict of str to list
            ``video``, their positions, and their texts for each of `LABEL_COLUMNS`.
        history : list of dict
            The attribute ``relabelled``.
        """
        with write_errors(self.path):
            self._opened.group.update_attributes({PENDING_LABELS: labels, "relabelled": history})
            self._commit()
            self.refresh()
            self._finish_relabelling()

    def _finish_relabelling(self) -> None:
        """Write labels that an attribute says into the arrays, then drop the attribute."""
        store = self._opened
        if PENDING_LABELS not in store.attributes:
            return
        for name, values in store.index.labels():
            store.array(name)[: len(values)] = values
        self._commit()
        del store.group.attrs[PENDING_LABELS]
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
                self._journal.append(line.as_entry())
            self._commit(is_complete=True)

    def _commit(self, *, is_complete: bool = False) -> None:
        """Write the small files that changed."""
        store = self._opened
        store.files.commit(self._journal.append, store.log.promise(), is_complete=is_complete)

    def _use_journal(self, counter: int) -> None:
        """One journal for all the time that the lock is held, after all that there were."""
        if not hasattr(self, "_journal"):
            super()._use_journal(counter + 1)
