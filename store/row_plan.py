"""Planning rows: which rows of the store each new video takes, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiprobe.store.manifest import VideoRecord, format_annotations
from hiprobe.store.schema import PENDING
from hiprobe.store.video_file import FileIdentity
from hiprobe.store.windows import COLUMNS

UNKNOWN_FILE = FileIdentity(-1, -1, "")


@dataclass(frozen=True)
class PlannedVideo:
    """A video as the store's plan holds it.

    Attributes
    ----------
    record : VideoRecord
    num_frames : int
        Frames expected, from the container; 0 for a video that cannot be read.
    fps : float
        Frames per second; NaN where unknown.
    segments : sequence of (int, int)
        Frame ranges ``[start_frame, stop_frame)`` of its segments, in order.
    file : FileIdentity or None
        Which file it is; None where unknown.
    windows : sequence of (int, int) or None
        What the model sees of each segment, where the store keeps that; None: the segments.
    """

    record: VideoRecord
    num_frames: int
    fps: float
    segments: Sequence[tuple[int, int]]
    file: FileIdentity | None = None
    windows: Sequence[tuple[int, int]] | None = None


def plan_rows(
    videos: Sequence[PlannedVideo], first_video: int, first_row: int, row_block: int
) -> tuple[dict[str, Any], int]:
    """Columns of the index arrays for new videos, and the number of rows after them."""
    counts = np.array([len(video.segments) for video in videos])
    # A video starts at a block of its own, so that no two ever share a shard.
    blocks = -(-counts // row_block)
    starts = first_row + np.concatenate([[0], np.cumsum(blocks)[:-1]]) * row_block
    num_rows = first_row + int(blocks.sum()) * row_block
    rows: dict[str, Any] = {
        name: np.full(num_rows - first_row, -1, dtype=np.int32)
        for name in ("video", "segment", "start_frame", "stop_frame", *COLUMNS)
    }
    rows["valid"] = np.zeros(num_rows - first_row, dtype=bool)
    # All at once; a video that could not be opened has an entry, and no rows.
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    own = np.repeat(starts - first_row, counts) + within
    rows["video"][own] = np.repeat(np.arange(first_video, first_video + len(videos)), counts)
    rows["segment"][own] = within
    ranges = [frames for video in videos for frames in video.segments]
    seen = [frames for video in videos for frames in video.windows or video.segments]
    for names, both in ((("start_frame", "stop_frame"), ranges), (COLUMNS, seen)):
        for name, values in zip(names, np.array(both).reshape(-1, 2).T, strict=True):
            rows[name][own] = values
    columns = {
        **rows,
        "num_frames": np.array([video.num_frames for video in videos], dtype=np.int32),
        "fps": np.array([video.fps for video in videos], dtype=np.float64),
        "first_row": starts.astype(np.int64),
        "num_segments": counts.astype(np.int32),
        "status": _strings(PENDING for _ in videos),
        "error": _strings("" for _ in videos),
        "annotations": _strings(format_annotations(video.record.annotations) for video in videos),
    }
    files = [video.file or UNKNOWN_FILE for video in videos]
    columns["file_size"] = np.array([file.size for file in files], dtype=np.int64)
    columns["file_mtime_ns"] = np.array([file.mtime_ns for file in files], dtype=np.int64)
    columns["file_digest"] = _strings(file.digest for file in files)
    for name in ("video_id", "path", "split", "label", "category"):
        columns[name] = _strings(getattr(video.record, name) for video in videos)
    return columns, num_rows


def _strings(values: Iterable[str]) -> np.ndarray:
    """Strings of any length, as Zarr's `string` wants them."""
    return np.array(list(values), dtype=np.dtypes.StringDType())
