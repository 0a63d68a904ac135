"""What benchmarks' original files have in common: lines of names and frame numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from hiprobe.manifest.draft import video_id
from hiprobe.store import ManifestError, VideoRecord, merge_ranges
from hiprobe.store.fields import MAX_FRAMES
from hiprobe.store.single_files import read_text


def test_record(
    name: str, is_normal: bool, category: str, pairs: Iterable[tuple[int, int]]
) -> VideoRecord:
    """A test video; its file is looked for by its name."""
    return VideoRecord(
        video_id=video_id(name),
        path=video_id(name) + ".mp4",
        split="test",
        label="normal" if is_normal else "anomalous",
        category=category,
        annotations=merge_ranges(pairs),
    )


def train_record(name: str, is_normal: bool, category: str) -> VideoRecord:
    """A training video."""
    record = test_record(name, is_normal, "" if is_normal else category, ())
    return replace(record, split="train", path=name)


def pairs_of(numbers: list[int]) -> list[tuple[int, int]]:
    """Take numbers two by two: start and end."""
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def check_pairs(path: Path, line: int, pairs: Iterable[tuple[int, int]]) -> None:
    """Refuse intervals that cannot be."""
    for start, stop in pairs:
        if not 0 <= start < stop:
            raise ManifestError(
                f"{path}: line {line}: the interval {start} {stop} is empty or reversed."
            )
        if stop > MAX_FRAMES:
            raise ManifestError(f"{path}: line {line}: {stop} is beyond frame {MAX_FRAMES}.")


def lines(path: Path | None) -> Iterator[tuple[int, list[str]]]:
    """Go through a text file's lines that are not empty: number from 1 and fields."""
    if path is None:
        return
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot read it: {error}") from error
    split = [line.split() for line in text.splitlines()]
    if not any(split):
        raise ManifestError(f"{path}: nothing in it, expected a line a video.")
    yield from ((line, fields) for line, fields in enumerate(split, start=1) if fields)


def integers(path: Path, line: int, fields: list[str]) -> list[int]:
    """Read a line's numbers."""
    try:
        return [int(value) for value in fields]
    except ValueError:
        raise ManifestError(
            f"{path}: line {line}: expected frame numbers, got {' '.join(fields)[:60]!r}"
        ) from None
