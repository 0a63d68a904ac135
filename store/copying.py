"""Giving a new store what another one holds: what merging, shrinking and importing share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hiprobe.store.block_writer import NOTHING
from hiprobe.store.manifest import VideoRecord
from hiprobe.store.reader import FeatureStore
from hiprobe.store.row_plan import PlannedVideo
from hiprobe.store.schema import DONE, STRUCTURE
from hiprobe.store.windows import COLUMNS
from hiprobe.store.writer import StoreWriter


def provenance_of_copy(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the attributes that a new store gets of its own."""
    return {name: value for name, value in attributes.items() if name not in STRUCTURE}


def plan_as_decoded(store: FeatureStore, video_ids: Sequence[str]) -> list[PlannedVideo]:
    """Plan a store's finished videos as they were decoded there, not as they were announced."""
    # Grouped once: looking through all segments for each video takes their product.
    rows = store.segments.groupby("video_id").indices
    ranges = store.segments[["start_frame", "stop_frame"]].to_numpy()
    seen = store.segments[[*COLUMNS]].to_numpy() if store.has_windows else None
    planned = []
    for video_id in video_ids:
        video = store.videos.loc[video_id]
        record = VideoRecord(
            video_id=video_id,
            **{name: video[name] for name in ("path", "split", "label", "category", "annotations")},
        )
        own = rows.get(video_id, np.arange(0))
        length, fps = int(video["num_frames"]), float(video["fps"])
        planned.append(
            PlannedVideo(
                record, length, fps, _pairs(ranges[own]), store.file(video_id),
                None if seen is None else _pairs(seen[own]),
            )
        )  # fmt: skip
    return planned


def _pairs(ranges: np.ndarray) -> list[tuple[int, int]]:
    return [(start, stop) for start, stop in ranges.tolist()]


def write_video(
    writer: StoreWriter,
    position: int,
    states: np.ndarray,
    outcome: Mapping[str, Any],
    thumbnails: np.ndarray | None = None,
    taps: Mapping[str, np.ndarray] = NOTHING,
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
    taps : mapping of str to (layer, segment, feature) float32
        See `BlockWriter.write_block`.
    """
    starts = range(0, states.shape[1], writer.row_block)
    own = [slice(start, start + writer.row_block) for start in starts]
    blocks = (
        (
            states[:, rows],
            None if thumbnails is None else thumbnails[rows],
            {name: values[:, rows] for name, values in taps.items()},
        )
        for rows in own
    )
    write_blocks(writer, position, blocks, outcome)


def copy_video(
    store: FeatureStore, video_id: str, writer: StoreWriter, layers: Sequence[int] | None = None
) -> None:
    """Write a finished video of another store, with the writer's taps, into its planned place.

    Parameters
    ----------
    store : FeatureStore
    video_id : str
    writer : StoreWriter
    layers : sequence of int, optional
        Of ``hidden_states``. Default: all.
    """
    write_video(
        writer,
        writer.index.positions()[video_id],
        store.video(video_id, layers),
        store.videos.loc[video_id],
        None if store.thumbnail_size is None else store.thumbnails(video_id),
        {
            name: store.video(video_id, tap.layers, tap=tap.tap, prompt=tap.prompt)
            for name, tap in writer.taps.items()
        },
    )


def write_blocks(
    writer: StoreWriter,
    position: int,
    blocks: Iterable[tuple[np.ndarray, np.ndarray | None, Mapping[str, np.ndarray]]],
    outcome: Mapping[str, Any],
) -> None:
    """Write a finished video from blocks of its states, thumbnails and taps; see `write_video`.

    An error that `blocks` raises, also after the last one, leaves the video unfinished.
    """
    for block, (states, thumbnails, taps) in enumerate(blocks):
        writer.write_block(position, block, states, thumbnails, taps)
    writer.finish_video(
        position,
        status=DONE,
        num_frames=int(outcome["num_frames"]),
        fps=float(outcome["fps"]),
        error=str(outcome["error"]),
    )
