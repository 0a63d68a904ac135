"""Reading a whole store back: everything is there, whole, right and finite, or said to be not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from hiprobe.store import schema
from hiprobe.store.checked_arrays import CheckedArrays
from hiprobe.store.errors import StoreError
from hiprobe.store.index import StoreIndex
from hiprobe.store.journal import journal_files
from hiprobe.store.journal_log import Block
from hiprobe.store.opened import OpenedStore
from hiprobe.store.shards import chunk_checksums, shard_digest
from hiprobe.store.taps import HIDDEN_STATES
from hiprobe.store.writer import StoreWriter

OnVideo = Callable[[int, int], None]


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    num_videos, num_blocks, num_bytes : int
        Finished videos, the blocks of these and of unfinished ones, and their bytes on the disk.
    problems : list of str
        One line each; empty for a store that is whole.
    notes : list of str
        What could not be checked, and what is worth knowing: no problems.
    """

    num_videos: int
    num_blocks: int
    num_bytes: int
    problems: list[str]
    notes: list[str] = field(default_factory=list)


def verify(path: Path, on_video: OnVideo = lambda done, total: None) -> Verification:
    """Read every committed block and every small file, checking checksums, digests and values.

    Parameters
    ----------
    path : Path
    on_video : callable
        Called with (videos done, videos).

    Raises
    ------
    StoreError
        It is no store, or its index is damaged.
    """
    opened = OpenedStore(path)
    index, arrays = opened.index, opened.checked_arrays()
    problems = _check_small_files(opened)
    problems += [one for one in _check_answers(opened) if one not in problems]
    index.video_table()  # parses the annotations
    num_blocks, num_bytes, num_unknown = 0, 0, 0
    wanted = [*_blocks(index, opened.row_block)]
    for count, (video, blocks) in enumerate(wanted):
        on_video(count, len(wanted))
        for block, rows in blocks:
            num_blocks += 1
            where = f"{index.video_id(video)}, segments {block * opened.row_block} on"
            if not index.is_committed(video, block):
                problems.append(f"{where}: no journal says that this block was committed")
            num_unknown += any(not line.crc for line in index.lines(video, block))
            for file, check in _checks(arrays, opened, video, block, rows):
                # Zarr would read a missing shard as the fill value, without a word.
                if not file.exists():
                    problems.append(f"{where}: {file} is missing")
                    continue
                num_bytes += file.stat().st_size
                if problem := check():
                    problems.append(f"{where}: {problem} in {file}")
    on_video(len(wanted), len(wanted))
    notes = _notes(opened, num_unknown, num_blocks)
    return Verification(len(index.done_videos()), num_blocks, num_bytes, problems, notes)


def seal_digests(path: Path, on_video: OnVideo = lambda done, total: None) -> int:
    """Give an older store the digests that it lacks, if it is whole.

    From then on it is checked as one that was made with them; what was wrong before, and is whole,
    stays unnoticed.

    Parameters
    ----------
    path : Path
    on_video : callable
        Called with (videos done, videos).

    Returns
    -------
    int
        Blocks whose checksums are new in the journal.

    Raises
    ------
    StoreError
        It is damaged, or another process is writing it.
    """
    with StoreWriter(path) as writer:
        found = verify(path, on_video)
        if found.problems:
            raise StoreError(
                f"{path}: damaged ({len(found.problems)} problems, the first: {found.problems[0]}):"
                " not sealed. Restore it from a copy, or extract the named videos again."
            )
        opened = OpenedStore(path)
        new = [
            _described(opened, video, block)
            for video, blocks in _blocks(opened.index, opened.row_block)
            for block, _ in blocks
            if any(not line.crc for line in opened.index.lines(video, block))
        ]
        writer.vouch([line for line in new if line.crc])
    return len(new)


def _blocks(index: StoreIndex, row_block: int) -> Iterator[tuple[int, list[tuple[int, slice]]]]:
    """Finished videos with the real rows of each block, unfinished ones with the committed ones."""
    done = {*index.done_videos()}
    for video in range(index.num_videos):
        rows = index.video_rows(video)
        blocks = [
            (block, slice(start, min(start + row_block, rows.stop)))
            for block, start in enumerate(range(rows.start, rows.stop, row_block))
            if video in done
            or (index.status(video) == schema.PENDING and index.is_committed(video, block))
        ]
        if blocks or video in done:
            yield video, blocks


def _checks(
    arrays: CheckedArrays, opened: OpenedStore, video: int, block: int, rows: slice
) -> Iterator[tuple[Path, Callable[[], str]]]:
    """The files of a block, each with what tells what is wrong with it."""
    for name in opened.states:
        # A tap that came later has its states block by block.
        if name == HIDDEN_STATES or opened.index.block_checksums(video, block, name):
            yield (
                arrays.states_shard(rows.start, name),
                partial(_check_values, arrays, opened, video, block, rows, name),
            )
    if opened.thumbnails is not None:
        file = arrays.thumbnail_shard(video, block)
        yield file, lambda: _check_pictures(arrays, opened, video, block, rows)


def _check_values(
    arrays: CheckedArrays, opened: OpenedStore, video: int, block: int, rows: slice, name: str
) -> str:
    """Say what is wrong with a block's states in an array; nothing for none."""
    known = opened.index.block_checksums(video, block, name)
    try:
        layers = range(len(opened.states[name].tap.layers))
        values = arrays.read_rows(layers, [rows], [known], name)
    except StoreError as error:
        return f"cannot be decoded ({error.__cause__})"
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        return f"{bad} values are not finite"
    return ""


def _check_pictures(
    arrays: CheckedArrays, opened: OpenedStore, video: int, block: int, rows: slice
) -> str:
    """Say what is wrong with a block's thumbnails; any picture is a right one."""
    assert opened.thumbnails is not None
    try:
        opened.thumbnails[rows]
        arrays.check_thumbnail_shard(video, block)
    except (ValueError, RuntimeError, TypeError, OSError, MemoryError, StoreError) as error:
        return f"cannot be decoded ({error})"
    return ""


def _check_small_files(opened: OpenedStore) -> list[str]:
    problems = []
    for name in opened.log.digests.names():
        try:
            opened.files.checked(name)
        except StoreError as error:
            problems.append(str(error))
    return problems


def _check_answers(opened: OpenedStore) -> list[str]:
    try:
        opened.answers()
    except StoreError as error:
        return [str(error)]
    return []


def _notes(opened: OpenedStore, num_unknown: int, num_blocks: int) -> list[str]:
    """Say what could not be checked."""
    notes = []
    if not opened.log.digests.is_complete:
        notes.append(
            "not checked: whether the index (labels, frames, …) is as it was written: it is older "
            "than its digests in the journal. `--seal` adds them"
        )
    if num_unknown:
        notes.append(
            f"not checked: whether {num_unknown} of {num_blocks} whole blocks are the right ones: "
            "they are older than their checksums in the journal. `--seal` adds them"
        )
    for file in journal_files(opened.path / schema.JOURNAL):
        if file.stat().st_size > opened.log.ends.get(file.name, 0):
            notes.append(f"{file}: ends in a torn line, a killed writer's: it counts for nothing")
    return notes


def _described(opened: OpenedStore, video: int, block: int) -> Block:
    """A committed block as a journal of today describes it."""
    arrays = opened.checked_arrays()
    if not arrays.is_own_layout(HIDDEN_STATES):
        return Block(video, block)
    start = opened.index.video_rows(video).start + block * opened.row_block
    crc = chunk_checksums(arrays.states_shard(start), len(opened.layers))
    pictures = None if opened.thumbnails is None else arrays.thumbnail_shard(video, block)
    # Taps are younger than checksums: theirs are known.
    lines = opened.index.lines(video, block)
    return Block(
        video, block, crc, "" if pictures is None else shard_digest(pictures),
        lines[-1].taps if lines else {},
    )  # fmt: skip
