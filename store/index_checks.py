"""Whether a plan can be: what no writer plans is damage, or somebody's craft."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from hiprobe.store import windows
from hiprobe.store.manifest import LABELS, SPLITS
from hiprobe.store.schema import REPLACED, STATUSES


def check_plan(
    videos: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], row_block: int
) -> None:
    """Check the index arrays against each other.

    Parameters
    ----------
    videos, rows : mapping of str to array
        The arrays along ``video`` and along ``row``, by name.
    row_block : int

    Raises
    ------
    ValueError
        They are not what a writer plans; the message names the first video.
    """
    ids, first_row = videos["video_id"], videos["first_row"]
    counts = videos["num_segments"]
    for name, allowed in (("status", STATUSES), ("split", SPLITS), ("label", LABELS)):
        if strange := {*videos[name]} - {*allowed}:
            raise ValueError(f"{name} is {min(strange)!r:.60}, expected one of {allowed}")
    _refuse(ids, (counts < 0) | (videos["num_frames"] < 0), "a negative length")
    _refuse(ids, (first_row < 0) | (first_row % row_block != 0), "rows that begin inside a block")
    planned = _planned_segments(videos, rows)
    _refuse(ids, planned < counts, "more segments than rows")
    _check_frames(ids, counts, rows)


def check_ids(videos: Mapping[str, np.ndarray]) -> None:
    """Refuse two videos of one id; when the journals have said which are replaced."""
    living = videos["video_id"][videos["status"] != REPLACED]
    if len({*living}) != len(living):
        raise ValueError(f"it has the video {Counter(living).most_common(1)[0][0]!r:.60} twice")


def _planned_segments(
    videos: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Rows of each video; refuses rows that are not one after the other from its first on."""
    owner, segment, ids = rows["video"], rows["segment"], videos["video_id"]
    own = np.flatnonzero(owner != -1)
    owners = owner[own]
    if len(own) and (owners.min() < 0 or owners.max() >= len(ids)):
        raise ValueError(f"rows of a video {int(owners.max())}, it has {len(ids)} videos")
    wrong = own != videos["first_row"][owners] + segment[own]
    if wrong.any():
        raise ValueError(f"rows of {ids[owners[wrong][0]]!r:.60} are out of order")
    planned = np.bincount(owners, minlength=len(ids))
    # Ascending from the first on without a gap: as many as the greatest number says.
    last = np.zeros(len(ids), dtype=np.int64)
    np.maximum.at(last, owners, segment[own].astype(np.int64) + 1)
    _refuse(ids, (last != planned), "rows with gaps")
    if len(own) and segment[own].min() < 0:
        raise ValueError("a segment has a negative number")
    return planned


def _check_frames(ids: np.ndarray, counts: np.ndarray, rows: Mapping[str, np.ndarray]) -> None:
    """Real rows have frames."""
    start, stop = rows["start_frame"], rows["stop_frame"]
    own = np.flatnonzero(rows["video"] != -1)
    own = own[rows["segment"][own] < counts[rows["video"][own]]]
    wrong = (start[own] < 0) | (stop[own] <= start[own])
    if wrong.any():
        video = rows["video"][own[wrong][0]]
        raise ValueError(f"segments without frames in {ids[video]!r:.60}")
    if all(name in rows for name in windows.COLUMNS):
        start, stop = (rows[name][own] for name in windows.COLUMNS)
        wrong = (start < 0) | (stop <= start)
        if wrong.any():
            video = rows["video"][own[wrong][0]]
            raise ValueError(f"windows without frames in {ids[video]!r:.60}")


def _refuse(ids: np.ndarray, wrong: np.ndarray, what: str) -> None:
    if wrong.any():
        raise ValueError(f"the video {ids[np.argmax(wrong)]!r:.60} has {what}")
