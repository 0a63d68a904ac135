"""The results' folder: what `evaluate` writes and reports, comparisons and explanations read.

`scores.csv`, `intervals.json`, `thumbnails.json`, and `metrics.json`, which comes last: its
existence means that the results are whole. The files are the interface, specified in
storage_schema.md; `hiprobe.store.descriptions` and `hiprobe.store.layer_tables` are what other
commands add to the folder.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from hiprobe.store import fields
from hiprobe.store.errors import HiProbeError, write_errors
from hiprobe.store.result_videos import KINDS, Interval, ResultVideo, known_fps
from hiprobe.store.single_files import check_file, make_folder, read_json, write_json, write_text
from hiprobe.store.windows import COLUMNS

__all__ = [
    "KINDS",
    "Interval",
    "ResultVideo",
    "Results",
    "known_fps",
    "read_intervals",
    "write_json",
    "write_results",
]

SEGMENT_COLUMNS = ("video_id", "segment", "start_frame", "stop_frame", "score", "smoothed")
# What `hiprobe report --curves` writes.
CURVES = ("roc", "precision_recall")
# Files of an earlier evaluation that would be wrong beside new scores.
STALE = (
    "metrics.json",
    "thumbnails.json",
    "report.html",
    *(f"{curve}.{kind}" for curve in CURVES for kind in ("csv", "pdf", "svg")),
)


@dataclass(frozen=True)
class Results:
    """What a results' folder holds.

    Attributes
    ----------
    folder : Path
    metrics : dict
        The content of ``metrics.json``.
    threshold : float
    videos : dict of str to ResultVideo
    segments : DataFrame
        ``video_id, segment, start_frame, stop_frame, score, smoothed, anomalous``; where the model
        saw other frames than a segment's, also ``window_start, window_stop``.
    thumbnails : dict of str to list of dict
        By video, ``frame``, ``score`` and ``jpeg`` (base64) of the score's peaks; empty without.
    """

    folder: Path
    metrics: dict[str, Any]
    threshold: float
    videos: dict[str, ResultVideo]
    segments: pd.DataFrame
    thumbnails: dict[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a results' folder.

        Raises
        ------
        HiProbeError
            Results are missing, not whole, or of another hiprobe.
        """
        with _reading(folder / "metrics.json"):
            metrics = _checked_metrics(read_json(folder / "metrics.json"))
        with _reading(folder / "intervals.json"):
            threshold, videos = _read_intervals(folder / "intervals.json")
        with _reading(folder / "scores.csv"):
            segments = _read_scores(folder / "scores.csv", videos)
            expected = metrics.get("num_segments", len(segments))
            if len(segments) != expected:
                raise ValueError(f"it has {len(segments)} rows, metrics.json says {expected}")
        path, thumbnails = folder / "thumbnails.json", {}
        if path.exists():
            with _reading(path):
                thumbnails = _checked_thumbnails(read_json(path))
        return cls(folder, metrics, threshold, videos, segments, thumbnails)


def read_intervals(folder: Path) -> dict[str, ResultVideo]:
    """Read ``intervals.json`` alone: the videos of a results' folder.

    Raises
    ------
    HiProbeError
        There is none, or it is damaged.
    """
    with _reading(folder / "intervals.json"):
        return _read_intervals(folder / "intervals.json")[1]


def write_results(
    folder: Path,
    *,
    metrics: Mapping[str, Any],
    threshold: float,
    videos: Mapping[str, ResultVideo],
    segments: pd.DataFrame,
    thumbnails: Mapping[str, list[dict[str, Any]]] | None = None,
) -> None:
    """Write a results' folder; ``metrics.json`` comes last.

    Parameters
    ----------
    folder : Path
    metrics, threshold, videos, segments
        As `Results` has them.
    thumbnails : mapping, optional
        None where there are no pictures: then there is no such file.
    """
    make_folder(folder)
    # First, so that a folder that is being written is not taken for the whole old one.
    with write_errors(folder):
        for name in STALE:
            (folder / name).unlink(missing_ok=True)
    _write_scores(folder / "scores.csv", segments)
    content = {video_id: video.to_json() for video_id, video in videos.items()}
    write_json(folder / "intervals.json", {"threshold": threshold, "videos": content})
    if thumbnails is not None:
        write_text(folder / "thumbnails.json", json.dumps(thumbnails))
    write_json(folder / "metrics.json", metrics)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with one of the files into one message that names it."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise HiProbeError(
            f"{path}: no such file. Give a folder that `hiprobe evaluate` or "
            "`hiprobe evaluate-scores` wrote."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise HiProbeError(
            f"{path}: damaged, not whole results of this hiprobe ({what}). Evaluate again."
        ) from error


def _checked_metrics(content: Any) -> dict[str, Any]:
    """Take ``metrics.json`` with what every reader of it needs."""
    fields.mapping(content, "metrics.json")
    for name in ("ground_truth", "provenance", "smoothed"):
        fields.mapping(content[name], name)
    fields.number(content["threshold"], "threshold")
    return content


def _checked_thumbnails(content: Any) -> dict[str, list[dict[str, Any]]]:
    """Take ``thumbnails.json``: pictures by video, base64 and nothing else."""
    for pictures in fields.mapping(content, "thumbnails.json").values():
        for picture in fields.items(pictures, "a video's pictures"):
            fields.whole(picture["frame"], "frame")
            fields.number(picture["score"], "score")
            if not re.fullmatch(r"[A-Za-z0-9+/=]*", fields.text(picture["jpeg"], "jpeg")):
                raise ValueError("jpeg is no base64")
    return content


def _read_intervals(path: Path) -> tuple[float, dict[str, ResultVideo]]:
    """Read the threshold and the videos; `_reading` makes an error of what is wrong."""
    content = fields.mapping(read_json(path), "intervals.json")
    videos = {
        video_id: ResultVideo.from_json(video_id, fields.mapping(video, video_id))
        for video_id, video in fields.mapping(content["videos"], "videos").items()
    }
    return fields.number(content["threshold"], "threshold"), videos


def _read_scores(path: Path, videos: Mapping[str, ResultVideo]) -> pd.DataFrame:
    """Read ``scores.csv``: finite scores, each video's rows in the order of time, within it."""
    check_file(path)
    table = pd.read_csv(path, dtype={"video_id": str}, keep_default_na=False)
    for name in (*SEGMENT_COLUMNS, "anomalous"):
        if f"{name}.1" in table:
            raise ValueError(f"the column {name} stands there more than once")
    for name in SEGMENT_COLUMNS[1:4]:
        if not pd.api.types.is_integer_dtype(table[name]):
            raise ValueError(f"{name} holds something else than whole numbers")
    for name in SEGMENT_COLUMNS[4:]:
        if not np.isfinite(table[name].to_numpy(dtype=np.float64)).all():
            raise ValueError(f"{name} holds a score that is not finite")
    start, stop = (table[name].to_numpy() for name in ("start_frame", "stop_frame"))
    is_first = (table["video_id"] != table["video_id"].shift()).to_numpy()
    firsts = np.flatnonzero(is_first)
    lasts = np.append(firsts[1:], len(table)) - 1 if len(table) else firsts
    if (start >= stop).any() or (start[1:] < stop[:-1])[~is_first[1:]].any():
        raise ValueError("a range of frames is empty, or two of a video overlap")
    lengths = {video_id: video.num_frames for video_id, video in videos.items()}
    ids = table["video_id"].iloc[firsts].tolist()
    # Rows of a video that do not lie together would be listed twice, and so be too many.
    if sorted(ids) != sorted(lengths):
        raise ValueError("its videos are not those of intervals.json")
    num_frames = np.array([lengths[video_id] for video_id in ids])
    if (start[firsts] < 0).any() or (stop[lasts] > num_frames).any():
        raise ValueError("frames lie beyond their video, by intervals.json")
    return table


def _write_scores(path: Path, segments: pd.DataFrame) -> None:
    """Write ``scores.csv``, a row a segment."""
    seen = [name for name in COLUMNS if name in segments]
    columns = (*SEGMENT_COLUMNS, "anomalous", *seen)
    segments = segments.astype({"anomalous": int})  # a bool would be written as a word
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(columns)
    # `tolist` gives Python's own numbers, whose text reads back as exactly the same.
    writer.writerows(zip(*(segments[name].tolist() for name in columns), strict=True))
    write_text(path, file.getvalue())
