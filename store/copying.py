"""Giving a new store what another one holds: what merging and importing share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hiprobe.store.schema import DONE, STRUCTURE
from hiprobe.store.writer import StoreWriter


def provenance_of_copy(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the attributes that a new store gets of its own."""
    return {name: value for name, value in attributes.items() if name not in STRUCTURE}


def write_video(
    writer: StoreWriter,
    position: int,
    states: np.ndarray,
    outcome: Mapping[str, Any],
    thumbnails: np.ndarray | None = None,
) -> None:
    """Write a finished video from its states in one piece.

    Parameters
    ----------
    writer : StoreWriter
    position : int
        Index of the video in the writer's plan.
    states : (layer, segment, feature) float32
    outcome : mapping
        ``num_frames``, ``fps``, ``error`` (a note).
    thumbnails : (segment, y, x, 3) uint8, optional
    """
    starts = range(0, states.shape[1], writer.row_block)
    own = [slice(start, start + writer.row_block) for start in starts]
    blocks = ((states[:, rows], None if thumbnails is None else thumbnails[rows]) for rows in own)
    write_blocks(writer, position, blocks, outcome)


def write_blocks(
    writer: StoreWriter,
    position: int,
    blocks: Iterable[tuple[np.ndarray, np.ndarray | None]],
    outcome: Mapping[str, Any],
) -> None:
    """Write a finished video from blocks of its states and thumbnails; see `write_video`.

    An error that `blocks` raises, also after the last one, leaves the video unfinished.
    """
    for block, (states, thumbnails) in enumerate(blocks):
        writer.write_block(position, block, states, thumbnails)
    writer.finish_video(
        position,
        status=DONE,
        num_frames=int(outcome["num_frames"]),
        fps=float(outcome["fps"]),
        error=str(outcome["error"]),
    )
