"""Manifests of UCF-Crime, XD-Violence and MSAD from their original files.

Frames count from 0 and ranges are half-open ``[start, end)`` of the numbers in the files; videos
have their true length. What was clipped or could not be matched is reported, what cannot be right
is refused, all of it at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from hiprobe.manifest.draft import (
    Draft,
    VideoLength,
    draft_benchmark,
    files_by_id,
    read_lengths,
    unannotated,
    video_id,
)
from hiprobe.manifest.original_files import (
    check_pairs,
    integers,
    lines,
    pairs_of,
    test_record,
    train_record,
)
from hiprobe.store import ManifestError, VideoRecord
from hiprobe.store.official import OFFICIAL_TOTALS

XD_NORMAL = "A"


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
    records = [_ucf_test_record(annotations, *each) for each in lines(annotations)]
    for line, fields in lines(train_list):
        name = " ".join(fields)
        category = PurePosixPath(name).parent.name
        if not category:
            raise ManifestError(f"{train_list}: line {line}: expected Category/name.mp4")
        # The folder of the normal videos is called Training_Normal_Videos_Anomaly.
        records.append(train_record(name, "normal" in category.lower(), category))
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
    records = [_xd_test_record(annotations, *each) for each in lines(annotations)]
    train = [
        train_record(name, not xd_category(name), xd_category(name))
        for name in (" ".join(fields) for _, fields in lines(train_list))
    ]
    listed = {record.video_id for record in [*records, *train]}
    others: Iterable[str] = ()
    if lengths is not None:
        others = read_lengths(lengths)
    elif root is not None:
        others, _ = files_by_id(root)
    records += [
        test_record(name, True, "", [])
        for name in others
        if name not in listed and "label_" in name and not xd_category(name)
    ]
    records += train
    official = OFFICIAL_TOTALS["xd-violence"]
    return draft_benchmark(annotations, records, root=root, lengths=lengths, official=official)


def msad(
    annotations: Path,
    *,
    root: Path | None = None,
    train_list: Path | None = None,
    lengths: Path | None = None,
) -> Draft:
    """Build MSAD's manifest.

    Parameters
    ----------
    annotations : Path
        The test split: ``name.mp4  Category  s1  e1  s2  e2``, -1 for none. Unlike the other
        benchmarks' the last frame of an interval belongs to it: the ranges are ``[s, e + 1)``.
    root : Path, optional
        Folder of the videos, searched recursively; those not found are left out with a warning.
    train_list : Path, optional
        A name a line; names of normal videos hold ``normal``, the others begin with the category.
    lengths : Path, optional
        CSV ``video_id,num_frames``, and optionally ``fps``.

    Raises
    ------
    ManifestError
        A file is missing or a line is not of its form.
    """
    records = [_msad_test_record(annotations, *each) for each in lines(annotations)]
    records, num_ended = _end_with_the_video(records, read_lengths(lengths))
    for _, fields in lines(train_list):
        name = " ".join(fields)
        is_normal = "normal" in video_id(name).lower()
        records.append(train_record(name, is_normal, "" if is_normal else _msad_category(name)))
    official = OFFICIAL_TOTALS["msad"]
    draft = draft_benchmark(annotations, records, root=root, lengths=lengths, official=official)
    if num_ended:
        draft.warnings.append(
            f"{num_ended} intervals end one frame beyond their video's last one, clipped: the file "
            "may count from 1"
        )
    draft.warnings.extend(unannotated(draft.records, "the annotation file has no interval of them"))
    return draft


def xd_category(name: str) -> str:
    """Read the anomaly types in an XD-Violence file name, for example ``'B1-B2'``; '' if normal."""
    encoded = video_id(name).rpartition("label_")[2]
    types = [part for part in encoded.split("-") if part not in ("0", XD_NORMAL)]
    return "-".join(types)


def _ucf_test_record(path: Path, line: int, fields: list[str]) -> VideoRecord:
    category, pairs = _two_intervals(path, line, fields)
    is_normal = category.lower().startswith("normal")
    return test_record(fields[0], is_normal, "" if is_normal else category, pairs)


def _msad_test_record(path: Path, line: int, fields: list[str]) -> VideoRecord:
    _, pairs = _two_intervals(path, line, fields)
    # The second column is the name's first word: `Object` for Object_falling, `MSAD` for normal.
    is_normal = "normal" in fields[0].lower()
    if is_normal and pairs:
        raise ManifestError(f"{path}: line {line}: {fields[0]} is normal by its name, but has an "
                            "interval")  # fmt: skip
    category = "" if is_normal else _msad_category(fields[0])
    return test_record(fields[0], is_normal, category, [(start, end + 1) for start, end in pairs])


def _end_with_the_video(
    records: Sequence[VideoRecord], known: Mapping[str, VideoLength]
) -> tuple[list[VideoRecord], int]:
    """Clip last frames that are the video's number of frames, which are many; count them."""
    clipped = []
    for record in records:
        length = known.get(record.video_id)
        if length and record.annotations and record.annotations[-1][1] == length.num_frames + 1:
            *others, (start, _) = record.annotations
            record = replace(record, annotations=(*others, (start, length.num_frames)))  # noqa: PLW2901
        clipped.append(record)
    changed = sum(one is not other for one, other in zip(records, clipped, strict=True))
    return clipped, changed


def _msad_category(name: str) -> str:
    """Read the kind of anomaly in a name: ``Object_falling_3.mp4`` is 'Object_falling'."""
    return video_id(name).rstrip("0123456789").rstrip("_")


def _two_intervals(path: Path, line: int, fields: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """Read the category and the intervals of ``name category s1 e1 s2 e2``."""
    numbers = integers(path, line, fields[2:])
    if len(fields) != 6:
        raise ManifestError(
            f"{path}: line {line} has {len(fields)} fields, expected 6: name category s1 e1 s2 e2"
        )
    # Two pairs always stand there; those of no event begin with -1.
    pairs = [pair for pair in pairs_of(numbers) if pair[0] >= 0]
    check_pairs(path, line, pairs)
    return fields[1], pairs


def _xd_test_record(path: Path, line: int, fields: list[str]) -> VideoRecord:
    numbers = integers(path, line, fields[1:])
    if not numbers or len(numbers) % 2:
        raise ManifestError(
            f"{path}: line {line}: expected name s e s e …, got {len(numbers)} numbers"
        )
    pairs = pairs_of(numbers)
    check_pairs(path, line, pairs)
    return test_record(fields[0], False, xd_category(fields[0]), pairs)
