"""The manifest: which videos there are, and what is known of them.

A CSV file (or JSON Lines, by the ending ``.jsonl``) with the columns
``video_id,path,split,label,category,annotations`` and, optionally, ``num_frames,fps``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hiprobe.store.csv_rows import csv_rows, too_many
from hiprobe.store.errors import ManifestError, listing
from hiprobe.store.fields import MAX_FRAMES
from hiprobe.store.single_files import parse_json, read_text, write_text

SPLITS = ("train", "test")
LABELS = ("normal", "anomalous")
REQUIRED_COLUMNS = ("video_id", "path", "split", "label")
# What is known of a video's content, and may be corrected later.
LABEL_COLUMNS = ("split", "label", "category", "annotations")
COLUMNS = (*REQUIRED_COLUMNS, "category", "annotations", "num_frames", "fps")

Annotations = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class VideoRecord:
    """One line of a manifest.

    Attributes
    ----------
    video_id : str
        Unique in the manifest.
    path : str
        The video file; absolute once read from a manifest.
    split : {'train', 'test'}
    label : {'normal', 'anomalous'}
        The video's label.
    category : str
        The kind of anomaly, for example ``Fighting``; may be empty.
    annotations : tuple of (int, int)
        Anomalous frame ranges, 0-based, half-open ``[start_frame, stop_frame)``, ascending.
        Empty: none, or (training videos) unknown.
    num_frames : int or None
        Length in frames, where known.
    fps : float or None
        Frames per second, where known.
    """

    video_id: str
    path: str
    split: str
    label: str
    category: str = ""
    annotations: Annotations = ()
    num_frames: int | None = None
    fps: float | None = None


def parse_annotations(text: str) -> Annotations:
    """Read ``'120:480;900:1010'`` into half-open frame ranges.

    Parameters
    ----------
    text : str
        Ranges ``start_frame:stop_frame``, joined by ``;``. Empty for none.

    Returns
    -------
    tuple of (int, int)
        Ascending, not overlapping.

    Raises
    ------
    ValueError
        A range is malformed, empty, reversed, or overlaps another.
    """
    ranges = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        start_text, _, stop_text = part.partition(":")
        if not (start_text.strip().isdecimal() and stop_text.strip().isdecimal()):
            raise ValueError(
                f"annotation {part[:60]!r} is not start_frame:stop_frame, for example 120:480"
            )
        start, stop = int(start_text), int(stop_text)
        if stop > MAX_FRAMES:
            raise ValueError(f"annotation {part[:60]!r} stops beyond frame {MAX_FRAMES}")
        if stop <= start:
            raise ValueError(f"annotation {part!r} stops at or before its start")
        ranges.append((start, stop))
    ranges.sort()
    for (_, stop), (start, _) in itertools.pairwise(ranges):
        if start < stop:
            raise ValueError(f"annotations overlap at frame {start}: join them into one range")
    return tuple(ranges)


def format_annotations(annotations: Iterable[tuple[int, int]]) -> str:
    """Write frame ranges as ``'120:480;900:1010'``, the inverse of `parse_annotations`."""
    return ";".join(f"{start}:{stop}" for start, stop in annotations)


def merge_ranges(ranges: Iterable[Sequence[int]]) -> Annotations:
    """Sort half-open ranges and join those that overlap or touch."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted((int(start), int(stop)) for start, stop in ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return tuple(merged)


def read_manifest(path: str | Path) -> list[VideoRecord]:
    """Read a manifest; every problem in it is reported at once.

    Parameters
    ----------
    path : path-like
        A CSV file, or JSON Lines when its name ends in ``.jsonl``.

    Returns
    -------
    list of VideoRecord
        In file order, ``path`` resolved against the manifest's folder.

    Raises
    ------
    ManifestError
        The file is missing or empty, a column is missing, or lines are wrong (all are listed).
    """
    path = Path(path)
    records: list[VideoRecord] = []
    problems: list[str] = []
    first_line_of: dict[str, int] = {}
    for line, row in _rows(path):
        try:
            record = _parse_row(row)
            if record.video_id in first_line_of:
                raise ValueError(
                    f"video_id {record.video_id!r} was already used in line "
                    f"{first_line_of[record.video_id]}"
                )
        except ValueError as error:
            problems.append(f"line {line}: {error}")
            continue
        first_line_of[record.video_id] = line
        records.append(replace(record, path=str((path.parent / record.path).absolute())))
    if problems:
        raise ManifestError(
            f"{path}: {len(problems)} bad line(s):\n{listing(problems)}\n"
            "Correct them and run again."
        )
    if not records:
        raise ManifestError(f"{path}: no videos in it. Expected a header line and a line a video.")
    return records


def write_manifest(path: str | Path, records: Iterable[VideoRecord]) -> None:
    """Write a manifest as CSV; paths inside its folder are written relative to it.

    Raises
    ------
    ManifestError
        `read_manifest` would refuse it, for example an annotation of a normal video; all such
        videos are listed, and nothing is written.
    StoreError
        The disk is full, or refuses; an old manifest is as it was.
    """
    path = Path(path)
    folder = path.parent.absolute()
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    problems = []
    for record in records:
        row = _row(record, folder)
        try:
            _parse_row(row)
        except ValueError as error:
            problems.append(f"{record.video_id!r}: {error}")
        writer.writerow(row)
    if problems:
        raise ManifestError(
            f"{path}: not written, {len(problems)} videos cannot stand in a manifest:\n"
            f"{listing(problems)}"
        )
    write_text(path, file.getvalue())


def _row(record: VideoRecord, folder: Path) -> dict[str, Any]:
    """A record as a line of a manifest in `folder`."""
    video = Path(record.path).absolute()
    return {
        **asdict(record),
        "path": str(video.relative_to(folder) if video.is_relative_to(folder) else video),
        "annotations": format_annotations(record.annotations),
        "num_frames": "" if record.num_frames is None else record.num_frames,
        "fps": "" if record.fps is None else record.fps,
    }


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, as ``'sha256:…'``."""
    with Path(path).open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _rows(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Yield each row with the number of its (last) line in the file."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ManifestError(
            f"{path}: no such manifest. Make one with `hiprobe manifest --help`."
        ) from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot read it as UTF-8 text: {error}") from error
    if path.suffix == ".jsonl":
        yield from _json_rows(path, text)
    else:
        yield from csv_rows(path, text, REQUIRED_COLUMNS, COLUMNS[:6])


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = parse_json(content)
        except ValueError as error:
            raise ManifestError(f"{path}: line {line} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{path}: line {line} is not a JSON object, got {content[:60]!r}")
        yield line, row


def _parse_row(row: dict[Any, Any]) -> VideoRecord:
    """Check one line; `ValueError` says what is wrong with it, for `read_manifest` to collect."""
    if None in row:
        raise ValueError(too_many(row))
    cell = {name: "" if (value := row.get(name)) is None else str(value) for name in COLUMNS}
    for name, value in cell.items():
        if problem := _unwritable(value):
            raise ValueError(f"{name} {value[:60]!r} {problem}")
        if isinstance(row.get(name), dict | list | bool):
            raise ValueError(f"{name} is {value[:60]}, expected text or a number")
    for name in ("video_id", "path"):
        if not cell[name]:
            raise ValueError(f"{name} is empty")
    for name, allowed in (("split", SPLITS), ("label", LABELS)):
        if cell[name] not in allowed:
            raise ValueError(f"{name} is {cell[name]!r}, expected {' or '.join(allowed)}")
    num_frames = _number(cell, "num_frames", int)
    annotations = parse_annotations(cell["annotations"])
    if annotations and cell["label"] == "normal":
        raise ValueError("label is 'normal' but the line has annotations")
    if num_frames is not None and annotations and annotations[-1][0] >= num_frames:
        start, stop = annotations[-1]
        raise ValueError(f"annotation {start}:{stop} lies beyond the video's {num_frames} frames")
    return VideoRecord(
        video_id=cell["video_id"],
        path=cell["path"],
        split=cell["split"],
        label=cell["label"],
        category=cell["category"],
        annotations=annotations,
        num_frames=num_frames,
        fps=_number(cell, "fps", float),
    )


def _number(cell: dict[str, str], name: str, kind: type) -> Any:
    """Read an optional number above 0; None for an empty cell."""
    if not cell[name]:
        return None
    try:
        number = kind(cell[name])
    except ValueError:
        number = 0
    if not 0 < number < math.inf:
        raise ValueError(f"{name} is {cell[name][:60]!r}, expected a number above 0")
    if number > MAX_FRAMES:
        raise ValueError(f"{name} is {cell[name][:60]}, expected at most {MAX_FRAMES}")
    return number


def _unwritable(value: str) -> str:
    """Say why a text cannot be stored; '' if it can."""
    if "\0" in value:
        return "holds NUL"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "is no Unicode text (it holds a lone surrogate)"
    return ""
