"""Manifests of UCF-Crime and XD-Violence from their original annotation files.

The ground-truth convention: frames are 0-based, ranges half-open ``[start, end)`` of the numbers
in the files, videos have their true length, ends beyond it are clipped and counted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from hiprobe.store import ManifestError, VideoRecord, merge_ranges

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv"})
XD_NORMAL = "A"


@dataclass(frozen=True)
class ProtocolManifest:
    """A benchmark's videos, and what did not fit.

    Attributes
    ----------
    records : list of VideoRecord
    warnings : list of str
        Clipped ends, unmatched names.
    """

    records: list[VideoRecord]
    warnings: list[str] = field(default_factory=list)


def ucf_crime(
    annotations: Path,
    *,
    root: Path | None = None,
    train_list: Path | None = None,
    lengths: Path | None = None,
) -> ProtocolManifest:
    """Build UCF-Crime's manifest.

    Parameters
    ----------
    annotations : Path
        ``Temporal_Anomaly_Annotation…txt``: ``name.mp4  Category  s1  e1  s2  e2``, -1 for none.
    root : Path, optional
        Folder of the videos, searched recursively; those not found are left out with a warning.
    train_list : Path, optional
        ``Anomaly_Train.txt``: a line ``Category/name.mp4`` a video.
    lengths : Path, optional
        CSV ``video_id,num_frames,fps``.

    Raises
    ------
    ManifestError
        A file is missing or a line is not of its form.
    """
    records = []
    for line, fields in _lines(annotations):
        numbers = _integers(annotations, line, fields[2:])
        if len(fields) != 6:
            raise ManifestError(
                f"{annotations}: line {line} has {len(fields)} fields, expected 6: "
                "name category s1 e1 s2 e2"
            )
        category = fields[1]
        is_normal = category.lower().startswith("normal")
        pairs = [pair for pair in zip(numbers[::2], numbers[1::2], strict=True) if pair[0] >= 0]
        records.append(_test_record(fields[0], is_normal, "" if is_normal else category, pairs))
    for line, fields in _lines(train_list):
        category = PurePosixPath(" ".join(fields)).parent.name
        if not category:
            raise ManifestError(f"{train_list}: line {line}: expected Category/name.mp4")
        is_normal = "normal" in category.lower()
        records.append(_train_record(" ".join(fields), is_normal, category))
    return _finish(records, root, lengths)


def xd_violence(
    annotations: Path,
    *,
    root: Path | None = None,
    train_list: Path | None = None,
    lengths: Path | None = None,
) -> ProtocolManifest:
    """Build XD-Violence's manifest; see `ucf_crime` for the parameters.

    Notes
    -----
    The annotation file holds the 500 anomalous test videos only. The 300 normal ones are taken
    from `lengths` or, without it, from the files under `root` that are not in `train_list`.
    Labels are encoded in the names: ``label_A`` is normal.
    """
    records = []
    for line, fields in _lines(annotations):
        numbers = _integers(annotations, line, fields[1:])
        if not numbers or len(numbers) % 2:
            raise ManifestError(
                f"{annotations}: line {line}: expected name s e s e …, got {len(numbers)} numbers"
            )
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        records.append(_test_record(fields[0], False, xd_category(fields[0]), pairs))
    train = [
        _train_record(" ".join(fields), not (category := xd_category(" ".join(fields))), category)
        for _, fields in _lines(train_list)
    ]
    known = {record.video_id for record in [*records, *train]}
    others = _read_lengths(lengths) if lengths else _files_by_id(root) if root else {}
    records += [
        _test_record(name, True, "", [])
        for name in others
        if name not in known and "label_" in name and not xd_category(name)
    ]
    return _finish(records + train, root, lengths)


def xd_category(name: str) -> str:
    """Read the anomaly types in an XD-Violence file name, for example ``'B1-B2'``; '' if normal."""
    encoded = _video_id(name).rpartition("label_")[2]
    types = [part for part in encoded.split("-") if part not in ("0", XD_NORMAL)]
    return "-".join(types)


def _test_record(
    name: str, is_normal: bool, category: str, pairs: Iterable[tuple[int, int]]
) -> VideoRecord:
    return VideoRecord(
        video_id=_video_id(name),
        path=_video_id(name) + ".mp4",
        split="test",
        label="normal" if is_normal else "anomalous",
        category=category,
        annotations=merge_ranges(pairs),
    )


def _train_record(name: str, is_normal: bool, category: str) -> VideoRecord:
    record = _test_record(name, is_normal, "" if is_normal else category, ())
    return replace(record, split="train", path=name)


def _finish(
    records: list[VideoRecord], root: Path | None, lengths: Path | None
) -> ProtocolManifest:
    """Add lengths, clip at them, and find the files."""
    warnings: list[str] = []
    if lengths is not None:
        known = _read_lengths(lengths)
        records = [_with_length(record, known, warnings) for record in records]
    if root is not None:
        files = _files_by_id(root)
        missing = [record.video_id for record in records if record.video_id not in files]
        if missing:
            warnings.append(
                f"{len(missing)} of {len(records)} videos are not under {root} and were left out, "
                f"for example {missing[0]}"
            )
        records = [
            replace(record, path=str(files[record.video_id].absolute()))
            for record in records
            if record.video_id in files
        ]
    return ProtocolManifest(records, warnings)


def _with_length(
    record: VideoRecord, known: dict[str, tuple[int, float]], warnings: list[str]
) -> VideoRecord:
    if record.video_id not in known:
        if record.split == "test":
            warnings.append(f"{record.video_id}: no length known")
        return record
    num_frames, fps = known[record.video_id]
    ends = [stop for _, stop in record.annotations if stop > num_frames]
    if ends:
        warnings.append(
            f"{record.video_id}: annotation ended at {ends[-1]}, clipped to its {num_frames} frames"
        )
    clipped = tuple((start, min(stop, num_frames)) for start, stop in record.annotations)
    return replace(record, num_frames=num_frames, fps=fps, annotations=clipped)


def _lines(path: Path | None) -> Iterator[tuple[int, list[str]]]:
    if path is None:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"{path}: cannot read it: {error.strerror}") from error
    for line, content in enumerate(text.splitlines(), start=1):
        if content.split():
            yield line, content.split()


def _integers(path: Path, line: int, fields: list[str]) -> list[int]:
    try:
        return [int(value) for value in fields]
    except ValueError:
        raise ManifestError(
            f"{path}: line {line}: expected frame numbers, got {' '.join(fields)!r}"
        ) from None


def _read_lengths(path: Path) -> dict[str, tuple[int, float]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {
                row["video_id"]: (int(row["num_frames"]), float(row["fps"]))
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, ValueError) as error:
        raise ManifestError(f"{path}: expected CSV video_id,num_frames,fps: {error}") from error


def _files_by_id(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder.")
    return {
        path.stem: path for path in sorted(root.rglob("*")) if path.suffix.lower() in VIDEO_SUFFIXES
    }


def _video_id(name: str) -> str:
    """Strip folder and ending; names hold dots, so only a video's ending is one."""
    base = PurePosixPath(name).name
    return base[:-4] if base.lower().endswith((".mp4", ".avi", ".mkv")) else base
