"""Manifests of own data: anomalous intervals in seconds, at any mix of frame rates."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from hiprobe.manifest.benchmarks import ProtocolManifest, clipped, read_lengths, refuse
from hiprobe.store import HiProbeError, ManifestError, VideoRecord, merge_ranges
from hiprobe.store.manifest import LABELS, SPLITS

COLUMNS = ("video_id", "path", "split", "label", "category", "start_seconds", "stop_seconds")

# A video's frames and frames per second, from the file.
Inspect = Callable[[Path], tuple[int, float]]


def own_data(events: Path, *, lengths: Path | None = None, inspect: Inspect) -> ProtocolManifest:
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
        Gives a video's frames and frame rate; raises `HiProbeError`.

    Raises
    ------
    ManifestError
        Lines are wrong, or contradict each other; all are listed.

    Notes
    -----
    A frame is anomalous if its middle, (i + 0.5) / fps, lies in [start, stop): so intervals that
    touch in seconds touch in frames, and none counts a frame twice.
    """
    known = read_lengths(lengths) if lengths else {}
    problems: list[str] = []
    warnings: list[str] = []
    rows: dict[str, list[dict[str, str]]] = {}
    for line, row in _event_rows(events):
        if problem := _check_event(row, rows.get(row["video_id"], [row])[0]):
            problems.append(f"line {line}: {problem}")
        else:
            rows.setdefault(row["video_id"], []).append(row)
    refuse(events, problems, "lines")
    records = []
    for video_id, own in rows.items():
        path = (events.parent / own[0]["path"]).absolute()
        try:
            num_frames, fps = known[video_id] if video_id in known else inspect(path)
        except HiProbeError as error:
            problems.append(str(error))
            continue
        seconds = [
            (float(row["start_seconds"]), float(row["stop_seconds"]))
            for row in own
            if row["start_seconds"]
        ]
        annotations = merge_ranges(
            (math.ceil(start * fps - 0.5), math.ceil(stop * fps - 0.5)) for start, stop in seconds
        )
        record = VideoRecord(
            video_id,
            str(path),
            own[0]["split"],
            own[0]["label"],
            own[0]["category"],
            tuple(one for one in annotations if one[0] < one[1]),
            num_frames,
            fps,
        )
        records.append(clipped(record, warnings))
    refuse(events, problems, "videos")
    warnings += [
        f"{video_id}: has a length, but no line" for video_id in known if video_id not in rows
    ]
    return ProtocolManifest(records, warnings)


def _event_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            if missing := [name for name in COLUMNS if name not in header]:
                raise ManifestError(
                    f"{path}: the header lacks {', '.join(missing)}. Expected {','.join(COLUMNS)}."
                )
            for row in reader:
                yield reader.line_num, {name: (row[name] or "").strip() for name in COLUMNS}
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file. Expected CSV {','.join(COLUMNS)}.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot read it as CSV: {error}") from error


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
    try:
        start, stop = float(row["start_seconds"]), float(row["stop_seconds"])
    except ValueError:
        return "start_seconds and stop_seconds must be numbers, or both empty"
    if not 0 <= start < stop < math.inf:
        return f"the interval is {start:g} to {stop:g} s, expected 0 <= start < stop"
    return "" if row["label"] == "anomalous" else "label is 'normal', but the line has an interval"
