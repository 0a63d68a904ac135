"""Writing blocks so that nothing committed is ever lost.

The order is what makes it safe: plan the rows, write a whole shard of one video, bring it to
the disk, and only then append the journal's line that says so. A shard is never read, modified
and written again, and never shared by two videos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hiprobe.store import schema
from hiprobe.store.durable_files import sync_file, sync_folder
from hiprobe.store.errors import write_errors
from hiprobe.store.index import StoreIndex
from hiprobe.store.journal import JournalWriter, last_counter
from hiprobe.store.journal_log import Block
from hiprobe.store.opened import OpenedStore
from hiprobe.store.shards import can_read, chunk_checksums, shard_digest
from hiprobe.store.taps import HIDDEN_STATES, Tap

NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})


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

    @property
    def taps(self) -> dict[str, Tap]:
        """What each block needs beside `hidden_states`, by the arrays' names."""
        states = self._opened.states
        return {name: one.tap for name, one in states.items() if name != HIDDEN_STATES}

    def layers_of(self, name: str) -> tuple[int, ...]:
        """Layers of an array of states."""
        return self._opened.states[name].tap.layers

    def block_states(self, video: int, block: int) -> np.ndarray:
        """Read a committed block's `hidden_states`: (layer, segment, feature) float32.

        Raises
        ------
        StoreError
            A checksum does not match.
        """
        rows = self.index.video_rows(video)
        start = rows.start + block * self.row_block
        stop = min(start + self.row_block, rows.stop)
        layers = range(len(self.layers_of(HIDDEN_STATES)))
        known = [self.index.block_checksums(video, block, HIDDEN_STATES)]
        return self._opened.checked_arrays().read_rows(layers, [slice(start, stop)], known)

    def write_block(
        self,
        video: int,
        block: int,
        states: np.ndarray,
        thumbnails: np.ndarray | None = None,
        taps: Mapping[str, np.ndarray] = NOTHING,
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
        taps : mapping of str to (layer, segment, feature) float32
            Those of `taps`, all of them.

        Raises
        ------
        ValueError
            The states do not fit: they would reach into another video's block. Or the thumbnails
            are not what the store keeps.
        StoreError
            The disk is full, or refuses.
        """
        if {*taps} != {*self.taps}:
            raise ValueError(f"expected the taps {sorted(self.taps)}, got {sorted(taps)}")
        self._check_states(video, block, {HIDDEN_STATES: states, **taps})
        num_segments = states.shape[1]
        self._check_thumbnails(thumbnails, num_segments)
        start = self.index.video_rows(video).start + block * self.row_block
        digest = ""
        with write_errors(self.path):
            # The journal's line comes last, after everything that it vouches for is on the disk.
            if thumbnails is not None:
                self._write_thumbnails(start, thumbnails)
                file = self._sync_shard(schema.THUMBNAIL, f"{start // self.row_block}/0/0/0")
                digest = shard_digest(file)
            of_taps = {name: self._write_states(name, start, one) for name, one in taps.items()}
            crc = self._write_states(HIDDEN_STATES, start, states)
            self._commit_block(Block(video, block, crc, digest, of_taps), num_segments)

    def add_taps_of_block(self, video: int, block: int, taps: Mapping[str, np.ndarray]) -> None:
        """Write and commit a block's states of taps that came later than its `hidden_states`.

        Parameters
        ----------
        video, block : int
            A committed block.
        taps : mapping of str to (layer, segment, feature) float32
            Some of `taps`.

        Raises
        ------
        ValueError, StoreError
            As of `write_block`.
        """
        if not self.index.is_committed(video, block):
            raise ValueError(f"block {block} of video {video} is not committed yet")
        self._check_states(video, block, taps)
        start = self.index.video_rows(video).start + block * self.row_block
        known = self.index.lines(video, block)[-1]
        with write_errors(self.path):
            of_taps = {name: self._write_states(name, start, one) for name, one in taps.items()}
            line = replace(known, taps={**known.taps, **of_taps})
            self._commit_block(line, next(iter(taps.values())).shape[1])

    def _check_states(self, video: int, block: int, states: Mapping[str, np.ndarray]) -> None:
        """Refuse states that are too many, or of other layers and features than their arrays'."""
        planned = self.index.num_segments(video) - block * self.row_block
        room = min(planned, self.row_block)
        counts = {one.shape[1] for one in states.values()}
        for name, one in states.items():
            tap = self._opened.states[name].tap
            expected = (len(tap.layers), tap.num_features)
            fits = len(counts) == 1 and 0 < one.shape[1] <= room
            if not fits or (one.shape[0], one.shape[2]) != expected:
                raise ValueError(
                    f"{name}: block {block} of video {video} has room for {expected[0]} layers, "
                    f"{room} segments and {expected[1]} features; got {one.shape}"
                )

    def _write_states(self, name: str, start: int, states: np.ndarray) -> str:
        """Write the shard of an array that begins at row `start`; gives its layers' checksums."""
        array = self._opened.states[name].array
        num_layers, num_segments, num_features = states.shape
        # Always a whole shard, padding and all: a part of one would have to be read, changed and
        # written again, and a kill in between would damage what was committed before.
        shard = np.full((num_layers, self.row_block, num_features), np.nan, dtype=np.float32)
        shard[:, :num_segments] = states
        array[:, start : start + self.row_block, :] = shard
        file = self._sync_shard(name, f"0/{start // self.row_block}/0")
        return chunk_checksums(file, num_layers) if can_read(array) else ""

    def _commit_block(self, line: Block, num_segments: int) -> None:
        """Tell the journal of a block that is on the disk."""
        self._journal.append(line.as_entry() | {"rows": num_segments})
        self.index.commit(line)

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
