"""Making a store of an HDF5 file; interrupted, the same call goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.store.copying import provenance_of_copy, write_blocks
from hiprobe.store.errors import StoreError, listing
from hiprobe.store.hdf5_content import Hdf5Content
from hiprobe.store.hdf5_datasets import open_untrusted
from hiprobe.store.hdf5_layout import SEGMENT_COLUMNS, WINDOW_COLUMNS
from hiprobe.store.manifest import VideoRecord, format_annotations, parse_annotations
from hiprobe.store.reader import FeatureStore
from hiprobe.store.row_plan import PlannedVideo
from hiprobe.store.schema import DONE, PENDING
from hiprobe.store.writer import StoreWriter

# Of a store, and of a file that it was made of.
SAME = ("layers", "num_features", "row_block", "thumbnail_size", "answers", "has_windows")
OnDone = Callable[[int, int], None]


def import_hdf5(
    path: Path,
    out: Path,
    on_video: OnDone = lambda done, total: None,
    on_warning: Callable[[str], None] = lambda message: None,
) -> None:
    """Make a store of a file that `export_hdf5` wrote.

    Parameters
    ----------
    path : Path
        The file.
    out : Path
        The store to make. Interrupted, the same call goes on where it was.
    on_video : callable
        Called with (videos done, videos).
    on_warning : callable
        Called with what could not be checked, and what is left out.

    Raises
    ------
    StoreError
        It is no such file, it is damaged, or there is another store.
    """
    with open_untrusted(path) as file:
        content = Hdf5Content(file)
        if not content.has_digests:
            on_warning(
                f"{path}: of an earlier version, without digests. That its values are possible "
                "was checked; that they are the exported ones cannot be. `hiprobe store export` "
                "of the store, once more, gives a file that can be checked."
            )
        # A planned video that is not finished has no segments here: a store could never finish it.
        statuses, counts = content.videos["status"], content.videos["num_segments"]
        numbers = range(content.num_videos)
        left_out = [one for one in numbers if statuses[one] == PENDING and counts[one]]
        videos = sorted({*numbers} - {*left_out})
        if left_out:
            names = listing([content.videos["video_id"][video] for video in left_out])
            on_warning(
                f"{path}: videos that were not extracted yet are left out; "
                f"`hiprobe extract` plans them anew:\n{names}"
            )
        _fill_store(content, videos, out, on_video)


def _fill_store(content: Hdf5Content, videos: list[int], out: Path, on_video: OnDone) -> None:
    """Write the videos that the store does not have yet; what it has must be the same."""
    with _open(content, videos, out) as writer:
        if not writer.index.num_videos:
            writer.add_videos([_plan(content, video) for video in videos])
        made = FeatureStore.open(out)
        statuses = [writer.index.status(position) for position in range(len(videos))]
        # Those that are there first: nothing is written to what turns out to be another store.
        order = sorted(range(len(videos)), key=lambda position: statuses[position] == PENDING)
        for num_done, position in enumerate(order):
            on_video(num_done, len(videos))
            video = videos[position]
            outcome = _outcome(content, video)
            if statuses[position] == DONE:
                _check_same_states(content, video, made)
            elif outcome["status"] == DONE:
                write_blocks(writer, position, content.blocks(video), outcome)
            elif outcome["status"] != statuses[position]:
                writer.finish_video(position, **outcome)
        on_video(len(videos), len(videos))


def _open(content: Hdf5Content, videos: list[int], out: Path) -> StoreWriter:
    """Create the store, or go on with the one that an earlier call has begun."""
    try:
        FeatureStore.open(out)
    except StoreError:
        return StoreWriter.create(
            out,
            layers=content.layers,
            num_features=content.num_features,
            provenance=content.provenance,
            row_block=content.row_block,
            thumbnail_size=content.thumbnail_size,
            taps=list(content.taps.values()),
            answers=content.answers,
            has_windows=content.has_windows,
        )
    writer = StoreWriter(out)
    try:
        _check_same_plan(content, videos, writer)
    except BaseException:
        writer.close()
        raise
    return writer


def _check_same_plan(content: Hdf5Content, videos: list[int], writer: StoreWriter) -> None:
    """Refuse a store that no earlier import of this file has begun."""
    store = FeatureStore.open(writer.path)
    for name in SAME:
        _require_same(getattr(store, name) == getattr(content, name), name, content, store)
    own_taps = {tap.name: tap for tap in store.further_taps}
    _require_same(own_taps == content.taps, "taps", content, store)
    one, other = (
        json.dumps(attributes, sort_keys=True)
        for attributes in (provenance_of_copy(store.provenance), content.provenance)
    )
    _require_same(one == other, "provenance", content, store)
    if not writer.index.num_videos:
        return
    table = store.videos.reset_index()
    is_same = writer.index.num_videos == len(table) == len(videos)
    _require_same(is_same, "number of videos", content, store)
    table["annotations"] = [format_annotations(ranges) for ranges in table["annotations"]]
    for name in ("video_id", "path", "split", "label", "category", "annotations"):
        expected = [content.videos[name][video] for video in videos]
        _require_same([*table[name]] == expected, name, content, store)
    for video, row in zip(videos, table.to_dict("records"), strict=True):
        outcome = _outcome(content, video)
        is_same = row["status"] == PENDING or repr(outcome) == repr(
            _plain({name: row[name] for name in outcome})
        )
        _require_same(is_same, f"outcome of {row['video_id']!r}", content, store)


def _check_same_states(content: Hdf5Content, video: int, store: FeatureStore) -> None:
    """Refuse a store whose finished video is not the file's."""
    video_id, own = content.videos["video_id"][video], content.rows[video]
    segments = store.segments[store.segments["video_id"] == video_id]
    states = store.video(video_id)
    thumbnails = store.thumbnails(video_id) if content.thumbnail_size else None
    of_taps = {
        name: store.video(video_id, tap=tap.tap, prompt=tap.prompt)
        for name, tap in content.taps.items()
    }
    is_same = states.shape[1] == own.stop - own.start and all(
        np.array_equal(segments[name], values[own])
        for name, values in content.segments.items()
        if name != "video"
    )
    start = 0
    for block, pictures, taps in content.blocks(video) if is_same else ():
        rows = slice(start, start + block.shape[1])
        is_same = is_same and np.array_equal(states[:, rows], block)
        is_same = is_same and all(
            np.array_equal(of_taps[name][:, rows], values) for name, values in taps.items()
        )
        if thumbnails is not None and pictures is not None:
            is_same = is_same and np.array_equal(thumbnails[rows], pictures)
        start = rows.stop
    _require_same(is_same, f"content of {video_id!r}", content, store)


def _require_same(is_same: bool, name: str, content: Hdf5Content, store: FeatureStore) -> None:
    if not is_same:
        raise StoreError(
            f"{store.path}: exists, and is no unfinished import of {content.file.path}: "
            f"another {name}. Choose another path."
        )


def _plan(content: Hdf5Content, video: int) -> PlannedVideo:
    """Plan one video of the file's tables."""
    names = ("video_id", "path", "split", "label", "category")
    texts: dict[str, Any] = {name: content.videos[name][video] for name in names}
    annotations = parse_annotations(content.videos["annotations"][video])
    record = VideoRecord(**texts, annotations=annotations)
    outcome = _outcome(content, video)
    return PlannedVideo(
        record, outcome["num_frames"], outcome["fps"],
        _ranges(content, video, SEGMENT_COLUMNS[2:]), content.video_file(video),
        _ranges(content, video, [*WINDOW_COLUMNS]) if content.has_windows else None,
    )  # fmt: skip


def _ranges(content: Hdf5Content, video: int, names: Sequence[str]) -> list[tuple[int, int]]:
    """Half-open frame ranges of a video's segments."""
    start, stop = (content.segments[name][content.rows[video]].tolist() for name in names)
    return list(zip(start, stop, strict=True))


def _outcome(content: Hdf5Content, video: int) -> dict[str, Any]:
    names = ("status", "num_frames", "fps", "error")
    return _plain({name: content.videos[name][video] for name in names})


def _plain(outcome: dict[str, Any]) -> dict[str, Any]:
    """An outcome as the journal can have it: Python's own types for numpy's."""
    return {
        "status": str(outcome["status"]),
        "num_frames": int(outcome["num_frames"]),
        "fps": float(outcome["fps"]),
        "error": str(outcome["error"]),
    }
