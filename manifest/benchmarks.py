"""Manifests of UCF-Crime, XD-Violence and ShanghaiTech from their original files.

Frames count from 0 and ranges are half-open ``[start, end)`` of the numbers in the files; videos
have their true length. What was clipped or could not be matched is reported, what cannot be right
is refused, all of it at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from hiprobe.manifest.draft import (
    Draft,
    VideoLength,
    draft_benchmark,
    files_by_id,
    read_lengths,
    refuse,
    video_id,
)
from hiprobe.store import ManifestError, VideoRecord, merge_ranges
from hiprobe.store.fields import MAX_FRAMES
from hiprobe.store.official import OFFICIAL_TOTALS
from hiprobe.store.single_files import check_file, read_text

XD_NORMAL = "A"
MAX_MASK_BYTES = 2**28


def ucf_crime(
    annotations: Path,
    *,
    root: Path | None = None,
    train_list: Path | None = None,
    lengths: Path | None = None,
) -> Draft:
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
    records = [_ucf_test_record(annotations, *each) for each in _lines(annotations)]
    for line, fields in _lines(train_list):
        name = " ".join(fields)
        category = PurePosixPath(name).parent.name
        if not category:
            raise ManifestError(f"{train_list}: line {line}: expected Category/name.mp4")
        # The folder of the normal videos is called Training_Normal_Videos_Anomaly.
        records.append(_train_record(name, "normal" in category.lower(), category))
    official = OFFICIAL_TOTALS["ucf-crime"]
    return draft_benchmark(annotations, records, root=root, lengths=lengths, official=official)


def xd_violence(
    annotations: Path,
    *,
    root: Path | None = None,
    train_list: Path | None = None,
    lengths: Path | None = None,
) -> Draft:
    """Build XD-Violence's manifest; see `ucf_crime` for the parameters.

    Notes
    -----
    The annotation file holds the 500 anomalous test videos only. The 300 normal ones are taken
    from `lengths` or, without it, from the files under `root` that are not in `train_list`.
    Labels are encoded in the names: ``label_A`` is normal.
    """
    records = [_xd_test_record(annotations, *each) for each in _lines(annotations)]
    train = [
        _train_record(name, not xd_category(name), xd_category(name))
        for name in (" ".join(fields) for _, fields in _lines(train_list))
    ]
    listed = {record.video_id for record in [*records, *train]}
    others: Iterable[str] = ()
    if lengths is not None:
        others = read_lengths(lengths)
    elif root is not None:
        others, _ = files_by_id(root)
    records += [
        _test_record(name, True, "", [])
        for name in others
        if name not in listed and "label_" in name and not xd_category(name)
    ]
    records += train
    official = OFFICIAL_TOTALS["xd-violence"]
    return draft_benchmark(annotations, records, root=root, lengths=lengths, official=official)


def shanghaitech(
    masks: Path,
    *,
    root: Path | None = None,
    train_list: Path | None = None,
    lengths: Path | None = None,
) -> Draft:
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
    known = read_lengths(lengths)
    records, problems = [], []
    for path in paths:
        try:
            records.append(_mask_record(path, known.get(path.stem), lengths))
        except ValueError as error:
            problems.append(f"{path.name}: {error}")
    refuse(masks, problems, "masks")
    records += [_train_record(" ".join(fields), True, "") for _, fields in _lines(train_list)]
    return draft_benchmark(masks, records, root=root, lengths=lengths)


def xd_category(name: str) -> str:
    """Read the anomaly types in an XD-Violence file name, for example ``'B1-B2'``; '' if normal."""
    encoded = video_id(name).rpartition("label_")[2]
    types = [part for part in encoded.split("-") if part not in ("0", XD_NORMAL)]
    return "-".join(types)


def _ucf_test_record(path: Path, line: int, fields: list[str]) -> VideoRecord:
    numbers = _integers(path, line, fields[2:])
    if len(fields) != 6:
        raise ManifestError(
            f"{path}: line {line} has {len(fields)} fields, expected 6: name category s1 e1 s2 e2"
        )
    category = fields[1]
    is_normal = category.lower().startswith("normal")
    # Two pairs always stand there; those of no event begin with -1.
    pairs = [pair for pair in _pairs(numbers) if pair[0] >= 0]
    _check_pairs(path, line, pairs)
    return _test_record(fields[0], is_normal, "" if is_normal else category, pairs)


def _xd_test_record(path: Path, line: int, fields: list[str]) -> VideoRecord:
    numbers = _integers(path, line, fields[1:])
    if not numbers or len(numbers) % 2:
        raise ManifestError(
            f"{path}: line {line}: expected name s e s e …, got {len(numbers)} numbers"
        )
    pairs = _pairs(numbers)
    _check_pairs(path, line, pairs)
    return _test_record(fields[0], False, xd_category(fields[0]), pairs)


def _mask_record(path: Path, length: VideoLength | None, lengths: Path | None) -> VideoRecord:
    """Turn a mask into a test video with its ranges; a mask that cannot be is a `ValueError`."""
    try:
        check_file(path, MAX_MASK_BYTES)
        # A header may claim any size: mapped, nothing is read before the shape is seen.
        mask = np.load(path, allow_pickle=False, mmap_mode="r")
    # A header is Python text, which numpy has Python parse.
    except (OSError, ValueError, EOFError, SyntaxError, RecursionError) as error:
        raise ValueError(f"cannot be read: {error}") from error
    if mask.ndim != 1 or not len(mask) or not np.isin(mask, (0, 1)).all():
        raise ValueError(f"expected one 0 or 1 a frame, got {mask.dtype} {mask.shape}")
    if length is not None and length.num_frames != len(mask):
        raise ValueError(f"has {len(mask)} frames, the video {length.num_frames} by {lengths}")
    # With a 0 at both ends, each range has a rising and a falling edge, in turn.
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]]).astype(np.int8)))
    pairs = _pairs(edges.tolist())
    return replace(_test_record(path.stem, not pairs, "", pairs), num_frames=len(mask))


def _test_record(
    name: str, is_normal: bool, category: str, pairs: Iterable[tuple[int, int]]
) -> VideoRecord:
    return VideoRecord(
        video_id=video_id(name),
        path=video_id(name) + ".mp4",
        split="test",
        label="normal" if is_normal else "anomalous",
        category=category,
        annotations=merge_ranges(pairs),
    )


def _train_record(name: str, is_normal: bool, category: str) -> VideoRecord:
    record = _test_record(name, is_normal, "" if is_normal else category, ())
    return replace(record, split="train", path=name)


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    """Take numbers two by two: start and end."""
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _check_pairs(path: Path, line: int, pairs: Iterable[tuple[int, int]]) -> None:
    for start, stop in pairs:
        if not 0 <= start < stop:
            raise ManifestError(
                f"{path}: line {line}: the interval {start} {stop} is empty or reversed."
            )
        if stop > MAX_FRAMES:
            raise ManifestError(f"{path}: line {line}: {stop} is beyond frame {MAX_FRAMES}.")


def _lines(path: Path | None) -> Iterator[tuple[int, list[str]]]:
    """Go through a text file's lines that are not empty: number from 1 and fields."""
    if path is None:
        return
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot read it: {error}") from error
    lines = [line.split() for line in text.splitlines()]
    if not any(lines):
        raise ManifestError(f"{path}: nothing in it, expected a line a video.")
    yield from ((line, fields) for line, fields in enumerate(lines, start=1) if fields)


def _integers(path: Path, line: int, fields: list[str]) -> list[int]:
    try:
        return [int(value) for value in fields]
    except ValueError:
        raise ManifestError(
            f"{path}: line {line}: expected frame numbers, got {' '.join(fields)[:60]!r}"
        ) from None
