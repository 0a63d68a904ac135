"""Manifests of folders of videos, whose names give split, label and category."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hiprobe.manifest.draft import (
    VIDEO_SUFFIXES,
    Draft,
    FolderCount,
    Inspect,
    clipped,
    unannotated,
    video_files,
)
from hiprobe.manifest.folder_names import FolderLabel, fits, read_names
from hiprobe.store import (
    ManifestError,
    VideoError,
    VideoRecord,
    format_annotations,
    parse_annotations,
)
from hiprobe.store.csv_rows import read_csv
from hiprobe.store.errors import listing
from hiprobe.store.manifest import Annotations


@dataclass(frozen=True)
class _Found:
    """A video's file, the folder that it lies in, and what the names say of it."""

    path: Path
    folder: str
    told: FolderLabel


def folder_manifest(
    root: Path,
    *,
    inspect: Inspect,
    annotations: Path | None = None,
    whole_video: bool = False,
    test_fraction: float = 0.3,
    seed: int = 0,
    normal: Sequence[str] = (),
) -> Draft:
    """List a folder's videos; labels and splits come from the folders' names.

    ``[train|test]/normal/*.mp4`` are normal videos, ``[train|test]/CATEGORY/*.mp4`` anomalous
    ones, at any depth; `hiprobe.manifest.folder_names` says which names are known. Videos under
    neither ``train`` nor ``test`` are split at random, stratified by label. Hidden files take no
    part.

    Parameters
    ----------
    root : Path
    inspect : callable
        Gives the ``num_frames`` and ``fps`` of a video file; raises `VideoError`.
    annotations : Path, optional
        CSV with the columns ``video_id,annotations``.
    whole_video : bool
        Annotate each anomalous video that has no annotation from its first to its last frame.
    test_fraction : float
        Share of the videos outside ``train`` and ``test`` that become test videos.
    seed : int
        Of that split.
    normal : sequence of str
        Further folders, by name or by a part of their path, whose videos are normal.

    Returns
    -------
    Draft
        Videos in order of their paths; an id is the path under `root` without its ending. Those
        that cannot be read are listed without a length, and in the warnings. ``folders`` says
        how each folder was read.

    Raises
    ------
    ManifestError
        No such folder, no videos in it, a name in `normal` that no folder has, or annotations
        that do not fit.
    """
    paths, warnings = video_files(root)
    if not paths:
        raise ManifestError(f"{root}: no videos in it ({', '.join(sorted(VIDEO_SUFFIXES))}).")
    _check_told(root, paths, normal)
    found = [_read_path(root, path, normal) for path in paths]
    records = _assign_splits([_record(root, one) for one in found], test_fraction, seed)
    warnings += _doubts(found)
    if annotations is not None:
        records = _annotate(root, records, annotations)
    measured = []
    for record in records:
        try:
            complete, said = _measure(record, inspect, whole_video)
            warnings += said
            measured.append(complete)
        except VideoError as error:
            # It stays: `extract` will list it as failed, beside the others.
            warnings.append(str(error))
            measured.append(record)
    warnings += unannotated(measured, "give --annotations, or --whole-video")
    return Draft(measured, warnings, _folder_counts(found, records))


def _measure(
    record: VideoRecord, inspect: Inspect, whole_video: bool
) -> tuple[VideoRecord, list[str]]:
    """Add a video's length and, if asked for, an annotation from end to end."""
    length = inspect(Path(record.path))
    annotations = record.annotations
    if whole_video and record.label == "anomalous" and not annotations:
        annotations = ((0, length.num_frames),)
    return clipped(
        replace(record, num_frames=length.num_frames, fps=length.fps, annotations=annotations)
    )


def _check_told(root: Path, paths: Sequence[Path], normal: Sequence[str]) -> None:
    """Refuse a name that was told and that no folder has."""
    folders = {path.relative_to(root).parts[:-1] for path in paths}
    names = sorted({name for parts in folders for name in parts})
    for told in normal:
        if not any(fits(told, parts) for parts in folders):
            raise ManifestError(
                f"{root}: --normal {told}: no folder with videos has this name. There are:\n"
                + listing(names)
            )


def _read_path(root: Path, path: Path, normal: Sequence[str]) -> _Found:
    folder = path.relative_to(root).parent
    told = read_names(folder.parts, normal)
    if told is None:
        raise ManifestError(
            f"{path}: lies in no folder that names its label. Expected "
            f"{root}/[train|test]/normal/… or {root}/[train|test]/CATEGORY/…, or --normal NAME"
        )
    return _Found(path, folder.as_posix(), told)


def _record(root: Path, found: _Found) -> VideoRecord:
    return VideoRecord(
        video_id=found.path.relative_to(root).with_suffix("").as_posix(),
        path=str(found.path.absolute()),
        split=found.told.split,
        label=found.told.label,
        category=found.told.category,
    )


def _doubts(found: Sequence[_Found]) -> Iterator[str]:
    """Say which labels are guesses."""
    guessed = Counter(one.told.told_by for one in found if not one.told.is_known)
    if guessed:
        yield (
            f"{guessed.total()} videos count as anomalous because no known name is among their "
            f"folders' ({', '.join(list(guessed)[:10])}{', …' * (len(guessed) > 10)}): "
            "--normal NAME says which of these are normal"
        )
    if all(one.told.label == "anomalous" for one in found):
        yield "no video is normal by its folders' names: --normal NAME says which folders are"
    for folder, told in {one.folder: one.told for one in found if one.told.contradicted_by}.items():
        yield f"{folder}: is {told.label} by {told.told_by!r}, despite {told.contradicted_by!r}"


def _folder_counts(
    found: Sequence[_Found], records: Sequence[VideoRecord]
) -> tuple[FolderCount, ...]:
    """Count the videos of each folder, in order."""
    told = {one.folder: one.told for one in found}
    counts = Counter((one.folder, record.split) for one, record in zip(found, records, strict=True))
    return tuple(
        FolderCount(
            folder=folder,
            label=label.label,
            category=label.category,
            told_by=label.told_by if label.is_known else f"{label.told_by}?",
            is_drawn=not label.split,
            num_train=counts[folder, "train"],
            num_test=counts[folder, "test"],
        )
        for folder, label in told.items()
    )


def _assign_splits(
    records: Sequence[VideoRecord], test_fraction: float, seed: int
) -> list[VideoRecord]:
    """Draw test videos among those whose folders name no split; the rest is for training."""
    seen: dict[str, str] = {}
    for record in records:
        if record.video_id in seen:
            raise ManifestError(
                f"{record.path} and {seen[record.video_id]} differ only in their endings. "
                "Rename one: the path without its ending is the video's id."
            )
        seen[record.video_id] = record.path
    rng = np.random.default_rng(seed)
    test: set[str] = set()
    for label in ("normal", "anomalous"):
        free = [r.video_id for r in records if not r.split and r.label == label]
        test.update(rng.permutation(free)[: round(test_fraction * len(free))])
    return [
        record
        if record.split
        else replace(record, split="test" if record.video_id in test else "train")
        for record in records
    ]


def _annotate(root: Path, records: Sequence[VideoRecord], path: Path) -> list[VideoRecord]:
    """Add the annotations of a table; of a video that is not there, or is normal: refused."""
    ranges = _read_annotations(path)
    known = {record.video_id: record for record in records}
    if unknown := [video_id for video_id in ranges if video_id not in known]:
        raise ManifestError(
            f"{path}: {len(unknown)} of {len(ranges)} annotated videos are not in {root}:\n"
            f"{listing(unknown)}\nIts videos' ids are their paths in it without the ending, for "
            f"example {', '.join(repr(video_id) for video_id in list(known)[:3])}."
        )
    normal = [
        f"{video_id}: {format_annotations(ranges[video_id])}"
        for video_id in ranges
        if ranges[video_id] and known[video_id].label == "normal"
    ]
    if normal:
        raise ManifestError(
            f"{path}: {len(normal)} annotated videos are normal by their folders' names:\n"
            f"{listing(normal)}\nMove these videos to a folder of anomalous ones, or remove their "
            "annotations."
        )
    return [replace(r, annotations=ranges.get(r.video_id, r.annotations)) for r in records]


def _read_annotations(path: Path) -> Mapping[str, Annotations]:
    ranges: dict[str, Annotations] = {}
    for line, row in read_csv(path, ("video_id", "annotations")):
        if row["video_id"] in ranges:
            raise ManifestError(
                f"{path}: line {line}: {row['video_id']!r} stands there twice. Join its ranges in "
                "one line: 120:480;900:1010."
            )
        try:
            ranges[row["video_id"]] = parse_annotations(row["annotations"])
        except ValueError as error:
            raise ManifestError(f"{path}: line {line}: {error}") from error
    return ranges
