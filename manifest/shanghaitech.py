"""Manifests of ShanghaiTech: its own split, and the one for weak supervision.

Its own split trains on normal videos only. The other one (Zhong et al., CVPR 2019) trains on 175
normal and 63 anomalous videos and tests on 155 and 44; its lists are published in several forms:

    SHANGHAI_TRAIN/frames/01_0014 0 265 1        folder, start, stop, label
    SHANGHAI_Test/frames/01_0015 433 1 86 373    folder, frames, label, first and last anomalous one
    01_0014,1        01_001,0,764                name, label, anything

Frame labels come from the masks, which have the gaps between events; a list knows one span at most.
Lengths in the lists differ from each other by up to two frames and are not used.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hiprobe.manifest.draft import (
    Draft,
    VideoLength,
    draft_benchmark,
    read_lengths,
    refuse,
    unannotated,
    video_id,
)
from hiprobe.manifest.original_files import (
    integers,
    lines,
    pairs_of,
    test_record,
    train_record,
)
from hiprobe.store import ManifestError, VideoRecord
from hiprobe.store.single_files import check_file

MAX_MASK_BYTES = 2**28
# A header is Python text, which numpy has Python parse; an archive may be packed in any way.
_UNREADABLE = (
    OSError, ValueError, EOFError, SyntaxError, RecursionError,
    zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError,
)  # fmt: skip
# Normal and anomalous videos of the split for weak supervision.
WEAK_TOTALS = {"train": (175, 63), "test": (155, 44)}


@dataclass(frozen=True)
class _Listed:
    """A line of a list: the video, its label, and its span of anomalous frames, half-open."""

    name: str
    is_normal: bool
    span: tuple[int, int] | None = None


def shanghaitech(
    masks: Path,
    *,
    root: Path | None = None,
    train_list: Path | None = None,
    test_list: Path | None = None,
    lengths: Path | None = None,
) -> Draft:
    """Build ShanghaiTech's manifest.

    Parameters
    ----------
    masks : Path
        Folder of masks ``01_0014.npy``, one 0 or 1 a frame, or one ``.npz`` of all.
    root : Path, optional
        Folder of the videos, searched recursively; those not found are left out with a warning.
        (The test videos are published as folders of pictures: make videos of them first.)
    train_list : Path, optional
        Without `test_list`: a name a line; all training videos are normal.
    test_list : Path, optional
        With it both lists are those of the split for weak supervision, with labels.
    lengths : Path, optional
        CSV ``video_id,num_frames,fps``; a length that is not its mask's is an error.

    Raises
    ------
    ManifestError
        There are no masks, or they are none, or lengths or labels differ.
    """
    of_mask = _mask_records(masks, read_lengths(lengths), lengths)
    if test_list is not None:
        return _weakly_supervised(masks, of_mask, root, train_list, test_list, lengths)
    records = [*of_mask.values()]
    records += [train_record(" ".join(fields), True, "") for _, fields in lines(train_list)]
    return draft_benchmark(masks, records, root=root, lengths=lengths)


def _weakly_supervised(
    masks: Path,
    of_mask: Mapping[str, VideoRecord],
    root: Path | None,
    train_list: Path | None,
    test_list: Path,
    lengths: Path | None,
) -> Draft:
    """Take splits and labels from the lists, frames from the masks."""
    if train_list is None:
        raise ManifestError(f"{test_list}: a split has two lists, expected --train-list too.")
    records, warnings = [], []
    for split, path in (("train", train_list), ("test", test_list)):
        own = [_listed(path, line, fields) for line, fields in lines(path)]
        refuse(path, [*_contradictions(own, of_mask)], "labels")
        counts = Counter(one.is_normal for one in own)
        if (counts[True], counts[False]) != WEAK_TOTALS[split]:
            warnings.append(
                f"{path}: {counts[True]} normal and {counts[False]} anomalous videos, the split "
                "has {} and {}".format(*WEAK_TOTALS[split])
            )
        warnings += _other_spans(path, own, of_mask)
        for one in own:
            record = test_record(one.name, one.is_normal, "", [one.span] if one.span else [])
            if mask := of_mask.get(record.video_id):
                record = replace(record, annotations=mask.annotations, num_frames=mask.num_frames)
            records.append(replace(record, split=split))
    unlisted = sorted({*of_mask} - {record.video_id for record in records})
    if unlisted:
        warnings.append(
            f"{len(unlisted)} masks are of videos in neither list, for example {unlisted[0]}"
        )
    draft = draft_benchmark(test_list, records, root=root, lengths=lengths)
    warnings += unannotated(draft.records, f"neither {masks} nor {test_list} tells their frames")
    return Draft(draft.records, [*warnings, *draft.warnings])


def _listed(path: Path, line: int, fields: list[str]) -> _Listed:
    """Read a line of a list, of any of the forms that are published."""
    name, *texts = [text for field in fields for text in field.split(",") if text]
    numbers = integers(path, line, texts)
    match len(fields), numbers:
        case 4, [_, _, (0 | 1) as label]:
            return _Listed(name, not label)
        case 5, [num_frames, (0 | 1) as label, first, last] if 0 <= first <= last <= num_frames:
            return _Listed(name, not label, (first, last + 1) if label else None)
        case 1, [(0 | 1) as label] | [(0 | 1) as label, _]:
            return _Listed(name, not label)
    raise ManifestError(
        f"{path}: line {line}: expected `FOLDER/NAME start stop label`, `FOLDER/NAME frames label "
        f"first last` or `NAME,label`, got {' '.join(fields)[:60]!r}"
    )


def _contradictions(own: list[_Listed], of_mask: Mapping[str, VideoRecord]) -> Iterator[str]:
    """Name the videos whose label in the list is not their mask's."""
    for one in own:
        mask = of_mask.get(video_id(one.name))
        if mask is not None and (mask.label == "normal") != one.is_normal:
            listed = "normal" if one.is_normal else "anomalous"
            yield f"{one.name}: {listed} here, {mask.label} by its mask"


def _other_spans(
    path: Path, own: list[_Listed], of_mask: Mapping[str, VideoRecord]
) -> Iterator[str]:
    """Say where a list's span does not begin and end as the mask's frames do."""
    for one in own:
        mask = of_mask.get(video_id(one.name))
        if one.span is None or mask is None or not mask.annotations:
            continue
        own_span = (mask.annotations[0][0], mask.annotations[-1][1])
        if one.span != own_span:
            yield (
                f"{path}: {one.name}: frames {one.span[0]}:{one.span[1]} here, "
                f"{own_span[0]}:{own_span[1]} by its mask, which counts"
            )


def _mask_records(
    masks: Path, known: Mapping[str, VideoLength], lengths: Path | None
) -> dict[str, VideoRecord]:
    """Read all masks, as test videos by id."""
    records, problems = {}, []
    for name, load in _mask_files(masks):
        try:
            records[name] = _mask_record(name, load, known.get(name), lengths)
        except ValueError as error:
            problems.append(f"{name}.npy: {error}")
    refuse(masks, problems, "masks")
    return records


def _mask_files(masks: Path) -> list[tuple[str, Path | tuple[Path, str]]]:
    """Where each mask lies: a file, or a member of an archive."""
    if masks.suffix == ".npz":
        try:
            check_file(masks, MAX_MASK_BYTES)
            with zipfile.ZipFile(masks) as archive:
                members = archive.infolist()
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ManifestError(
                f"{masks}: cannot be read as an archive of masks: {error}"
            ) from error
        if sum(member.file_size for member in members) > MAX_MASK_BYTES:
            raise ManifestError(f"{masks}: holds more than {MAX_MASK_BYTES} bytes, no masks.")
        found: list[tuple[str, Path | tuple[Path, str]]] = [
            (name.removesuffix(".npy"), (masks, name))
            for name in sorted(member.filename for member in members)
            if name.endswith(".npy")
        ]
    else:
        found = [(path.stem, path) for path in sorted(masks.glob("*.npy"))]
    if not found:
        raise ManifestError(f"{masks}: no masks in it, expected files such as 01_0014.npy.")
    return found


def _mask_record(
    name: str,
    where: Path | tuple[Path, str],
    length: VideoLength | None,
    lengths: Path | None,
) -> VideoRecord:
    """Turn a mask into a test video with its ranges; a mask that cannot be is a `ValueError`."""
    try:
        mask = _load(where)
    except _UNREADABLE as error:
        raise ValueError(f"cannot be read: {error}") from error
    if mask.ndim != 1 or not len(mask) or not np.isin(mask, (0, 1)).all():
        raise ValueError(f"expected one 0 or 1 a frame, got {mask.dtype} {mask.shape}")
    if length is not None and length.num_frames != len(mask):
        raise ValueError(f"has {len(mask)} frames, the video {length.num_frames} by {lengths}")
    # With a 0 at both ends, each range has a rising and a falling edge, in turn.
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]]).astype(np.int8)))
    pairs = pairs_of(edges.tolist())
    return replace(test_record(name, not pairs, "", pairs), num_frames=len(mask))


def _load(where: Path | tuple[Path, str]) -> np.ndarray:
    if isinstance(where, Path):
        check_file(where, MAX_MASK_BYTES)
        # A header may claim any size: mapped, nothing is read before the shape is seen.
        mask: np.ndarray = np.load(where, allow_pickle=False, mmap_mode="r")
        return mask
    archive, member = where
    with zipfile.ZipFile(archive) as file, file.open(member) as content:
        if (version := np.lib.format.read_magic(content)) != (1, 0):
            raise ValueError(f"of numpy's format {version}, expected (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(content)
        size = int(np.prod([1, *shape], dtype=object)) * dtype.itemsize
        if dtype.hasobject or size > MAX_MASK_BYTES:
            raise ValueError(f"expected one 0 or 1 a frame, got {dtype} {shape}")
        return np.frombuffer(content.read(size), dtype=dtype).reshape(shape)
