"""Manifests of folders of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hiprobe.manifest.draft import VIDEO_SUFFIXES, Draft, Inspect, video_files
from hiprobe.store import ManifestError, VideoError, VideoRecord, parse_annotations
from hiprobe.store.csv_rows import read_csv
from hiprobe.store.manifest import Annotations

SPLIT_FOLDERS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
NORMAL_FOLDERS = frozenset({"normal", "nofight", "normal_videos"})


def folder_manifest(
    root: Path,
    *,
    inspect: Inspect,
    annotations: Path | None = None,
    whole_video: bool = False,
    test_fraction: float = 0.3,
    seed: int = 0,
) -> Draft:
    """List a folder's videos; labels and splits come from the folders' names.

    ``[train|test]/normal/*.mp4`` are normal videos, ``[train|test]/CATEGORY/*.mp4`` anomalous
    ones. Videos under neither ``train`` nor ``test`` are split at random, stratified by label.

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

    Returns
    -------
    Draft
        Videos in order of their paths; an id is the path under `root` without its ending. Those
        that cannot be read are listed without a length, and in the warnings.

    Raises
    ------
    ManifestError
        No such folder, no videos in it, or annotations that do not fit.
    """
    paths, warnings = video_files(root)
    if not paths:
        raise ManifestError(f"{root}: no videos in it ({', '.join(sorted(VIDEO_SUFFIXES))}).")
    records = _assign_splits([_record(root, path) for path in paths], test_fraction, seed)
    if annotations is not None:
        records = _annotate(records, annotations)
    measured = []
    for record in records:
        try:
            measured.append(_measure(record, inspect, whole_video))
        except VideoError as error:
            # It stays: `extract` will list it as failed, beside the others.
            warnings.append(str(error))
            measured.append(record)
    return Draft(measured, warnings)


def _measure(record: VideoRecord, inspect: Inspect, whole_video: bool) -> VideoRecord:
    """Add a video's length and, if asked for, an annotation from end to end."""
    length = inspect(Path(record.path))
    annotations = record.annotations
    if whole_video and record.label == "anomalous" and not annotations:
        annotations = ((0, length.num_frames),)
    return replace(record, num_frames=length.num_frames, fps=length.fps, annotations=annotations)


def _record(root: Path, path: Path) -> VideoRecord:
    """Read a video's split and label off the folders that it lies in."""
    folders = path.relative_to(root).parts[:-1]
    splits = [SPLIT_FOLDERS[name.lower()] for name in folders if name.lower() in SPLIT_FOLDERS]
    names = [name for name in folders if name.lower() not in SPLIT_FOLDERS]
    if not names:
        raise ManifestError(
            f"{path}: lies in no folder that names its label. Expected "
            f"{root}/[train|test]/normal/… or {root}/[train|test]/CATEGORY/…"
        )
    is_normal = names[-1].lower() in NORMAL_FOLDERS
    return VideoRecord(
        video_id=path.relative_to(root).with_suffix("").as_posix(),
        path=str(path.absolute()),
        split=splits[0] if splits else "",
        label="normal" if is_normal else "anomalous",
        category="" if is_normal else names[-1],
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


def _annotate(records: Sequence[VideoRecord], path: Path) -> list[VideoRecord]:
    """Add the annotations of a table; one of a video that is not there is refused."""
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
    unknown = sorted(set(ranges) - {record.video_id for record in records})
    if unknown:
        raise ManifestError(
            f"{path}: {len(unknown)} annotated video(s) are not in the folder: "
            + ", ".join(unknown[:10])
        )
    return [replace(r, annotations=ranges.get(r.video_id, r.annotations)) for r in records]
