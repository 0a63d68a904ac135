"""Reading a whole store back: everything is there, whole and finite, or said to be not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import zarr

from hiprobe.store import schema
from hiprobe.store.index import StoreIndex, read_index


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    num_videos, num_blocks, num_bytes : int
        Finished videos, their blocks, and the bytes of these on the disk.
    problems : list of str
        One line each; empty for a store that is whole.
    """

    num_videos: int
    num_blocks: int
    num_bytes: int
    problems: list[str]


def verify(
    path: Path, on_video: Callable[[int, int], None] = lambda done, total: None
) -> Verification:
    """Read every block of every finished video, checking checksums and values.

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
    group = schema.open_group(path)
    index = read_index(path, group)
    states = group["hidden_states"]
    assert isinstance(states, zarr.Array)
    assert states.shards is not None
    thumbnails = group.get(schema.THUMBNAIL)
    row_block, done = states.shards[1], index.done_videos()
    problems, num_blocks, num_bytes = [], 0, 0
    for count, video in enumerate(done):
        on_video(count, len(done))
        for block, rows in enumerate(_blocks(index, video, row_block)):
            num_blocks += 1
            number = rows.start // row_block
            where = f"{index.video_id(video)}, segments {block * row_block} on"
            if not index.is_committed(video, block):
                problems.append(f"{where}: no journal says that this block was committed")
            shards = {path / f"hidden_states/c/0/{number}/0": partial(_check_values, states, rows)}
            if isinstance(thumbnails, zarr.Array):
                file = path / schema.THUMBNAIL / f"c/{number}/0/0/0"
                shards[file] = partial(_check_decodes, thumbnails, rows)
            for file, check in shards.items():
                if not file.exists():
                    problems.append(f"{where}: {file} is missing")
                    continue
                num_bytes += file.stat().st_size
                if problem := check():
                    problems.append(f"{where}: {problem} in {file}")
    on_video(len(done), len(done))
    return Verification(len(done), num_blocks, num_bytes, problems)


def _blocks(index: StoreIndex, video: int, row_block: int) -> list[slice]:
    """Real rows of each block of a video."""
    rows = index.video_rows(video)
    return [
        slice(start, min(start + row_block, rows.stop))
        for start in range(rows.start, rows.stop, row_block)
    ]


def _check_values(states: zarr.Array, rows: slice) -> str:
    try:
        values = np.asarray(states[:, rows])
    except (ValueError, RuntimeError) as error:
        return f"cannot be decoded ({error})"
    if bad := int(np.count_nonzero(~np.isfinite(values))):
        return f"{bad} values are not finite"
    return ""


def _check_decodes(thumbnails: zarr.Array, rows: slice) -> str:
    try:
        thumbnails[rows]
    except (ValueError, RuntimeError) as error:
        return f"cannot be decoded ({error})"
    return ""
