"""Manifests of UCF-Crime, XD-Violence and ShanghaiTech from their original files.

Frames count from 0 and ranges are half-open ``[start, end)`` of the numbers in the files; videos
have their true length. What was clipped or could not be matched is reported, what cannot be right
is refused, all of it at once.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from hiprobe.store import ManifestError, VideoRecord, merge_ranges
from hiprobe.store.ground_truth import clip_annotations

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv"})
XD_NORMAL = "A"
NUM_TEST_VIDEOS = {"UCF-Crime": 290, "XD-Violence": 800}
MAX_LISTED = 20


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
        _check_pairs(annotations, line, pairs)
        records.append(_test_record(fields[0], is_normal, "" if is_normal else category, pairs))
    for line, fields in _lines(train_list):
        category = PurePosixPath(" ".join(fields)).parent.name
        if not category:
            raise ManifestError(f"{train_list}: line {line}: expected Category/name.mp4")
        is_normal = "normal" in category.lower()
        records.append(_train_record(" ".join(fields), is_normal, category))
    return _finish("UCF-Crime", annotations, records, root, lengths)


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
        _check_pairs(annotations, line, pairs)
        records.append(_test_record(fields[0], False, xd_category(fields[0]), pairs))
    train = [
        _train_record(" ".join(fields), not (category := xd_category(" ".join(fields))), category)
        for _, fields in _lines(train_list)
    ]
    known = {record.video_id for record in [*records, *train]}
    others = read_lengths(lengths) if lengths else _files_by_id(root, []) if root else {}
    records += [
        _test_record(name, True, "", [])
        for name in others
        if name not in known and "label_" in name and not xd_category(name)
    ]
    return _finish("XD-Violence", annotations, records + train, root, lengths)


def shanghaitech(
    masks: Path,
    *,
    root: Path | None = None,
    train_list: Path | None = None,
    lengths: Path | None = None,
) -> ProtocolManifest:
    """Build ShanghaiTech's manifest.

    Parameters
    ----------
    masks : Path
        Folder of the test videos' masks: ``01_0014.npy``, one 0 or 1 a frame.
    root : Path, optional
        Folder of the videos, searched recursively; those not found are left out with a warning.
        (The test videos are published as folders of pictures: make videos of them first.)
    train_list : Path, optional
        A name a line; all training videos are normal.
    lengths : Path, optional
        CSV ``video_id,num_frames,fps``; a length that is not its mask's is an error.

    Raises
    ------
    ManifestError
        There are no masks, or they are none, or lengths differ.
    """
    paths = sorted(masks.glob("*.npy"))
    if not paths:
        raise ManifestError(f"{masks}: no masks in it, expected files such as 01_0014.npy.")
    known = read_lengths(lengths) if lengths else {}
    records, problems = [], []
    for path in paths:
        try:
            mask = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            problems.append(f"{path.name}: cannot be read: {error}")
            continue
        if mask.ndim != 1 or not len(mask) or not np.isin(mask, (0, 1)).all():
            problems.append(
                f"{path.name}: expected one 0 or 1 a frame, got {mask.dtype} {mask.shape}"
            )
        elif path.stem in known and known[path.stem][0] != len(mask):
            problems.append(
                f"{path.name}: has {len(mask)} frames, the video {known[path.stem][0]} by {lengths}"
            )
        else:
            edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]]).astype(np.int8)))
            pairs = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
            record = _test_record(path.stem, not pairs, "", pairs)
            records.append(replace(record, num_frames=len(mask)))
    refuse(masks, problems, "masks")
    records += [_train_record(" ".join(fields), True, "") for _, fields in _lines(train_list)]
    return _finish("ShanghaiTech", masks, records, root, lengths)


def _check_pairs(path: Path, line: int, pairs: Iterable[tuple[int, int]]) -> None:
    for start, stop in pairs:
        if not 0 <= start < stop:
            raise ManifestError(
                f"{path}: line {line}: the interval {start} {stop} is empty or reversed."
            )


def refuse(source: Path, problems: list[str], what: str) -> None:
    """Raise `ManifestError` with a list, if there are problems."""
    if problems:
        more = [f"… and {len(problems) - MAX_LISTED} more"] * (len(problems) > MAX_LISTED)
        listing = "\n".join(f"  {problem}" for problem in [*problems[:MAX_LISTED], *more])
        raise ManifestError(f"{source}: {len(problems)} wrong {what}:\n{listing}")


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
    benchmark: str,
    source: Path,
    records: list[VideoRecord],
    root: Path | None,
    lengths: Path | None,
) -> ProtocolManifest:
    """Add lengths, clip at them, find the files, and say what is not as it should be."""
    counts = Counter(record.video_id for record in records)
    repeated = [f"{name}: {count} times" for name, count in counts.items() if count > 1]
    refuse(source, repeated, "videos, listed more than once")
    warnings: list[str] = []
    num_test, official = _num_test(records), NUM_TEST_VIDEOS.get(benchmark)
    if official is not None and num_test != official:
        warnings.append(f"{num_test} test videos, {benchmark} has {official}")
    if lengths is not None:
        known = read_lengths(lengths)
        records = [_with_length(record, known, warnings) for record in records]
        if strangers := sorted(set(known) - set(counts)):
            warnings.append(
                f"{len(strangers)} videos of {lengths} are in none of the other files, for example "
                f"{strangers[0]}"
            )
    if root is not None:
        files = _files_by_id(root, warnings)
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


def _num_test(records: Iterable[VideoRecord]) -> int:
    return sum(record.split == "test" for record in records)


def _with_length(
    record: VideoRecord, known: dict[str, tuple[int, float]], warnings: list[str]
) -> VideoRecord:
    if record.video_id not in known:
        if record.split == "test" and record.num_frames is None:
            warnings.append(f"{record.video_id}: no length known")
        return record
    num_frames, fps = known[record.video_id]
    return clipped(replace(record, num_frames=num_frames, fps=fps), warnings)


def clipped(record: VideoRecord, warnings: list[str]) -> VideoRecord:
    """Clip annotations at the video's end, and say so."""
    assert record.num_frames is not None
    ranges, num_clipped = clip_annotations(record.annotations, record.num_frames)
    for start, stop in record.annotations:
        if start >= record.num_frames:
            warnings.append(
                f"{record.video_id}: annotation {start}:{stop} lies beyond its "
                f"{record.num_frames} frames and was left out"
            )
    if num_clipped > len(record.annotations) - len(ranges):
        warnings.append(
            f"{record.video_id}: annotation ended at {record.annotations[len(ranges) - 1][1]}, "
            f"clipped to its {record.num_frames} frames"
        )
    return replace(record, annotations=ranges)


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


def read_lengths(path: Path) -> dict[str, tuple[int, float]]:
    """Read a CSV ``video_id,num_frames,fps``."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lengths = {
                row["video_id"]: (int(row["num_frames"]), float(row["fps"]))
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{path}: expected CSV video_id,num_frames,fps: {error}") from error
    wrong = [
        f"{name}: {num_frames} frames at {fps} per second"
        for name, (num_frames, fps) in lengths.items()
        if num_frames <= 0 or not 0 < fps < math.inf
    ]
    refuse(path, wrong, "lengths")
    return lengths


def _files_by_id(root: Path, warnings: list[str]) -> dict[str, Path]:
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder.")
    files: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES and files.setdefault(path.stem, path) != path:
            warnings.append(f"{path}: left out, {files[path.stem]} has the same name")
    return files


def _video_id(name: str) -> str:
    """Strip folder and ending; names hold dots, so only a video's ending is one."""
    base = PurePosixPath(name).name
    return base[:-4] if base.lower().endswith((".mp4", ".avi", ".mkv")) else base
