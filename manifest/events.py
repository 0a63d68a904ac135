"""Manifests of own data: anomalous intervals in seconds, at any mix of frame rates."""

from __future__ import annotations

import math
from pathlib import Path

from hiprobe.manifest.draft import (
    Draft,
    Inspect,
    VideoLength,
    clipped,
    read_lengths,
    refuse,
)
from hiprobe.store import HiProbeError, VideoRecord, merge_ranges
from hiprobe.store.csv_rows import read_csv
from hiprobe.store.fields import MAX_FRAMES
from hiprobe.store.manifest import LABELS, SPLITS

COLUMNS = ("video_id", "path", "split", "label", "category", "start_seconds", "stop_seconds")


def own_data(events: Path, *, lengths: Path | None = None, inspect: Inspect) -> Draft:
    """Build a manifest of own data from intervals in seconds, at any mix of frame rates.

    Parameters
    ----------
    events : Path
        CSV ``video_id,path,split,label,category,start_seconds,stop_seconds``: a line an interval,
        so several a video; none of the two for a video without intervals. Paths are relative to
        the file.
    lengths : Path, optional
        CSV ``video_id,num_frames,fps``; videos that are not in it are inspected.
    inspect : callable
        Gives the ``num_frames`` and ``fps`` of a video file; raises `HiProbeError`.

    Raises
    ------
    ManifestError
        Lines are wrong, or contradict each other; all are listed.

    Notes
    -----
    A frame is anomalous if its middle, (i + 0.5) / fps, lies in [start, stop): so intervals that
    touch in seconds touch in frames, and none counts a frame twice.
    """
    known = read_lengths(lengths)
    rows = _rows_by_video(events)
    records, warnings, problems = [], [], []
    for video_id, own in rows.items():
        path = (events.parent / own[0]["path"]).absolute()
        try:
            num_frames, fps = _length(known.get(video_id), path, inspect)
        except HiProbeError as error:
            problems.append(str(error))
            continue
        record, said = clipped(_record(path, own, num_frames, fps))
        records.append(record)
        warnings += said
    refuse(events, problems, "videos")
    warnings += [
        f"{video_id}: has a length, but no line" for video_id in known if video_id not in rows
    ]
    return Draft(records, warnings)


def _length(known: VideoLength | None, path: Path, inspect: Inspect) -> tuple[int, float]:
    """A video's frames and how many a second: looked up or else inspected."""
    if known is not None and known.fps is not None:
        return known.num_frames, known.fps
    length = inspect(path)
    return length.num_frames, length.fps


def _rows_by_video(events: Path) -> dict[str, list[dict[str, str]]]:
    """Read the lines and check them, all before any video is opened."""
    rows: dict[str, list[dict[str, str]]] = {}
    problems = []
    for line, row in read_csv(events, COLUMNS):
        if problem := _check_event(row, rows.get(row["video_id"], [row])[0]):
            problems.append(f"line {line}: {problem}")
        else:
            rows.setdefault(row["video_id"], []).append(row)
    refuse(events, problems, "lines")
    return rows


def _record(path: Path, rows: list[dict[str, str]], num_frames: int, fps: float) -> VideoRecord:
    """Join a video's lines, its intervals in frames."""
    seconds = [
        (float(row["start_seconds"]), float(row["stop_seconds"]))
        for row in rows
        if row["start_seconds"]
    ]
    # The first frame whose middle is not before an edge: i + 0.5 >= edge * fps.
    frames = merge_ranges(
        [math.ceil(min(edge * fps, MAX_FRAMES) - 0.5) for edge in edges] for edges in seconds
    )
    first = rows[0]
    return VideoRecord(
        video_id=first["video_id"],
        path=str(path),
        split=first["split"],
        label=first["label"],
        category=first["category"],
        # An interval between the middles of two frames holds none.
        annotations=tuple((start, stop) for start, stop in frames if start < stop),
        num_frames=num_frames,
        fps=fps,
    )


def _check_event(row: dict[str, str], first: dict[str, str]) -> str:
    """Say what is wrong with a line; `first` is its video's first one."""
    if not row["video_id"] or not row["path"]:
        return "video_id or path is empty"
    for name, allowed in (("split", SPLITS), ("label", LABELS)):
        if row[name] not in allowed:
            return f"{name} is {row[name]!r}, expected {' or '.join(allowed)}"
    for name in ("path", "split", "label", "category"):
        if row[name] != first[name]:
            return f"{name} is {row[name]!r}, but {first[name]!r} in an earlier line of the video"
    return _check_interval(row) if row["start_seconds"] or row["stop_seconds"] else ""


def _check_interval(row: dict[str, str]) -> str:
    """Say what is wrong with a line's interval; '' if nothing is."""
    try:
        start, stop = float(row["start_seconds"]), float(row["stop_seconds"])
    except ValueError:
        return "start_seconds and stop_seconds must be numbers, or both empty"
    if not 0 <= start < stop < math.inf:
        return f"the interval is {start:g} to {stop:g} s, expected 0 <= start < stop"
    return "" if row["label"] == "anomalous" else "label is 'normal', but the line has an interval"
