"""A draft: the videos that a manifest will list, and what did not fit.

What all sources share: refusals, known lengths, clipping at them, and finding the files.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from hiprobe.store import ManifestError, VideoRecord
from hiprobe.store.csv_rows import read_csv
from hiprobe.store.errors import listing
from hiprobe.store.fields import MAX_FRAMES
from hiprobe.store.ground_truth import clip_annotations
from hiprobe.store.official import OfficialTotals

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"]
)
# What Python makes of bytes in a file's name that are no UTF-8.
_SURROGATE = re.compile("[\ud800-\udfff]")


class HasLength(Protocol):
    """What is asked of a video: its frames, and how many of them a second."""

    @property
    def num_frames(self) -> int:
        """Frames in decode order."""

    @property
    def fps(self) -> float:
        """Frames per second."""


class VideoLength(NamedTuple):
    """A video's length as a table gives it."""

    num_frames: int
    fps: float | None


# Reads a video file's length; raises `VideoError`. Handed in, so that this stage needs no decoder;
# `hiprobe.extract.video.inspect_video` is one.
Inspect = Callable[[Path], HasLength]


@dataclass(frozen=True)
class FolderCount:
    """How a folder was read, and how many videos of it there are.

    Attributes
    ----------
    folder : str
        Its path below the collection's.
    label, category : str
    told_by : str
        The name that says so; with a question mark if it is no name that is known.
    is_drawn : bool
        Whether its videos were split at random, as no name tells the split.
    num_train, num_test : int
    """

    folder: str
    label: str
    category: str
    told_by: str
    is_drawn: bool
    num_train: int
    num_test: int


@dataclass(frozen=True)
class Draft:
    """The videos of a manifest to be written, and what did not fit.

    Attributes
    ----------
    records : list of VideoRecord
    warnings : list of str
        Clipped ends, unmatched names, videos that cannot be read.
    folders : tuple of FolderCount
        How folders' names were read, where labels come from these.
    """

    records: list[VideoRecord]
    warnings: list[str] = field(default_factory=list)
    folders: tuple[FolderCount, ...] = ()

    def with_lengths(self, path: Path) -> Draft:
        """Add lengths from a CSV ``video_id,num_frames,fps``, and clip annotations at them."""
        known, warnings = read_lengths(path), list(self.warnings)
        records = []
        for record in self.records:
            if record.video_id in known:
                length = known[record.video_id]
                measured = replace(record, num_frames=length.num_frames, fps=length.fps)
                record, said = clipped(measured)  # noqa: PLW2901
                warnings += said
            # Only test videos are measured by their frames; masks may have told the length.
            elif record.split == "test" and record.num_frames is None:
                warnings.append(f"{record.video_id}: no length known")
            records.append(record)
        if strangers := sorted(set(known) - {record.video_id for record in records}):
            warnings.append(
                f"{len(strangers)} videos of {path} are in none of the other files, for example "
                f"{strangers[0]}"
            )
        return Draft(records, warnings)

    def found_under(self, root: Path) -> Draft:
        """Give each video the file of its name under `root`; those without one are left out."""
        files, repeated = files_by_id(root)
        found = [
            replace(record, path=str(files[record.video_id].absolute()))
            for record in self.records
            if record.video_id in files
        ]
        warnings = [*self.warnings, *repeated]
        missing = [record.video_id for record in self.records if record.video_id not in files]
        if missing:
            warnings.append(
                f"{len(missing)} of {len(self.records)} videos are not under {root} and were left "
                f"out, for example {missing[0]}"
            )
        return Draft(found, warnings)


def draft_benchmark(
    source: Path,
    records: list[VideoRecord],
    *,
    root: Path | None = None,
    lengths: Path | None = None,
    official: OfficialTotals | None = None,
) -> Draft:
    """Make a draft of a benchmark's videos, with all that is known beside its own files.

    Parameters
    ----------
    source : Path
        Where the records come from, for messages.
    records : list of VideoRecord
    root : Path, optional
        Folder of the videos; those not found are left out with a warning.
    lengths : Path, optional
        CSV ``video_id,num_frames,fps``.
    official : OfficialTotals, optional
        Another number of test videos is worth a warning.

    Raises
    ------
    ManifestError
        A video is listed twice, or `lengths` cannot be right.
    """
    counts = Counter(record.video_id for record in records)
    repeated = [f"{name}: {count} times" for name, count in counts.items() if count > 1]
    refuse(source, repeated, "videos, listed more than once")
    draft = Draft(records)
    num_test = sum(record.split == "test" for record in records)
    if official is not None and num_test != official.num_test_videos:
        draft.warnings.append(
            f"{num_test} test videos, {official.name} has {official.num_test_videos}"
        )
    # Lengths first: a video without a file is left out, but its wrong annotation is told.
    if lengths is not None:
        draft = draft.with_lengths(lengths)
    return draft if root is None else draft.found_under(root)


def refuse(source: Path, problems: Sequence[str], what: str) -> None:
    """Raise `ManifestError` with a list, if there are problems."""
    if problems:
        raise ManifestError(f"{source}: {len(problems)} wrong {what}:\n{listing(problems)}")


def read_lengths(path: Path | None) -> dict[str, VideoLength]:
    """Read a CSV ``video_id,num_frames[,fps]``; no file, no lengths."""
    if path is None:
        return {}
    lengths: dict[str, VideoLength] = {}
    for line, row in read_csv(path, ("video_id", "num_frames"), optional=("fps",)):
        try:
            fps = float(row["fps"]) if "fps" in row else None
            length = VideoLength(int(row["num_frames"]), fps)
        except ValueError as error:
            raise ManifestError(
                f"{path}: line {line}: expected CSV video_id,num_frames,fps: {error}"
            ) from error
        if row["video_id"] in lengths:
            raise ManifestError(f"{path}: line {line}: {row['video_id']!r} stands there twice.")
        lengths[row["video_id"]] = length
    wrong = [
        f"{name}: {length.num_frames} frames at {length.fps} per second"
        for name, length in lengths.items()
        if not 0 < length.num_frames <= MAX_FRAMES
        or not (length.fps is None or 0 < length.fps < math.inf)
    ]
    refuse(path, wrong, "lengths")
    return lengths


def clipped(record: VideoRecord) -> tuple[VideoRecord, list[str]]:
    """Clip annotations at the video's end; return the record and what is to be said about it."""
    assert record.num_frames is not None
    ranges, num_clipped = clip_annotations(record.annotations, record.num_frames)
    warnings = [
        f"{record.video_id}: annotation {start}:{stop} lies beyond its "
        f"{record.num_frames} frames and was left out"
        for start, stop in record.annotations
        if start >= record.num_frames
    ]
    # Those left out count as clipped too; one more means that the last that stayed was shortened.
    if num_clipped > len(warnings):
        warnings.append(
            f"{record.video_id}: annotation ended at {record.annotations[len(ranges) - 1][1]}, "
            f"clipped to its {record.num_frames} frames"
        )
    return replace(record, annotations=ranges), warnings


def unannotated(records: Sequence[VideoRecord], what_to_do: str) -> list[str]:
    """Say which test videos no frame-level figure can be had of."""
    without = [
        record.video_id
        for record in records
        if record.split == "test" and record.label == "anomalous" and not record.annotations
    ]
    if not without:
        return []
    return [
        f"{len(without)} anomalous test videos have no annotations, for example {without[0]}: "
        f"frame-level evaluation will refuse them: {what_to_do}"
    ]


def video_id(name: str) -> str:
    """Strip folder and ending; names hold dots, so only a video's ending is one."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name


def video_files(root: Path) -> tuple[list[Path], list[str]]:
    """List the videos under a folder, in order of their paths, and say what was left out.

    Hidden files are none, nor what macOS leaves beside files (``._x.mp4``, ``__MACOSX``).
    """
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder.")
    paths, warnings, hidden = [], [], []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        if any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts):
            hidden.append(path)
            continue
        # A manifest is UTF-8: a name that is not could be listed, but never be found again.
        if _SURROGATE.search(str(path.relative_to(root))):
            warnings.append(f"{path}: left out, its name is no UTF-8. Rename it.")
        elif path.exists() and not path.is_file():
            warnings.append(f"{path}: left out, it is no regular file")
        else:
            paths.append(path)
    if hidden:
        warnings.append(f"{len(hidden)} hidden files were left out, for example {hidden[0]}")
    return paths, warnings


def files_by_id(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Find the videos under a folder by their names; return them and what was left out."""
    files: dict[str, Path] = {}
    paths, warnings = video_files(root)
    warnings += [
        f"{path}: left out, {files[path.stem]} has the same name"
        for path in paths
        if files.setdefault(path.stem, path) != path
    ]
    return files, warnings
