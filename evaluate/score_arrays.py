"""Scores as the field's scripts save them: NumPy arrays, one value a frame, or one for 16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from hiprobe.evaluate.convention import AS_SCORED, LENGTHS, Convention
from hiprobe.store import HiProbeError
from hiprobe.store.errors import listing
from hiprobe.store.fields import MAX_FRAMES
from hiprobe.store.single_files import check_file

ONE_ARRAY = (
    "one array has no names: its frames were given to the videos in the manifest's order. Where "
    "the scores are in another order, all figures are wrong"
)


def is_array(path: Path) -> bool:
    """Whether it is one array of all videos."""
    return path.suffix == ".npy" and not path.is_dir()


def is_arrays(path: Path) -> bool:
    """Whether it is a folder, of an array a video."""
    return path.is_dir()


def array_files(folder: Path) -> dict[str, Path]:
    """Find a folder's arrays by video id: the path below the folder, without ``.npy``."""
    found = {
        str(path.relative_to(folder))[: -len(".npy")]: path
        for path in sorted(folder.rglob("*.npy"))
        # macOS lays "._x.npy" beside "x.npy".
        if not path.name.startswith(".")
    }
    if not found:
        raise HiProbeError(f"{folder}: no .npy file in it. Expected VIDEO_ID.npy for each video.")
    return found


def read_arrays(folder: Path, repeat: int, merge: bool) -> pd.DataFrame:
    """Read a folder of arrays; see `read_array`.

    Raises
    ------
    HiProbeError
        There is no array, or some are none of one finite number a frame; all are listed.
    """
    values, problems = {}, []
    for video_id, path in array_files(folder).items():
        try:
            values[video_id] = _load(path, repeat)
        except HiProbeError as error:
            problems.append(str(error))
    if problems:
        raise HiProbeError(f"{folder}: {len(problems)} wrong file(s):\n{listing(problems)}")
    return _table(values, repeat, merge)


def read_array(
    path: Path,
    repeat: int,
    merge: bool,
    true_lengths: Mapping[str, int],
    convention: Convention,
) -> pd.DataFrame:
    """Read one array of all videos, one after the other.

    Parameters
    ----------
    path : Path
        ``.npy`` of one dimension, or of others of length 1 beside it.
    repeat : int
        Frames that each value stands for, as where scripts say ``np.repeat(scores, 16)``.
    merge : bool
        Make one row of neighbours of the same value.
    true_lengths : mapping of str to int
        Frames of each video, in the order of the array.
    convention : Convention
        How many of them there are values of.

    Returns
    -------
    DataFrame
        ``video_id, start_frame, stop_frame, score``.

    Raises
    ------
    HiProbeError
        The file is no such array, or of another length than the videos have together.
    """
    if convention.length == AS_SCORED:
        raise HiProbeError(
            f"{path}: one array does not say where a video ends, so there is no --length as-scored "
            "for it. Give a folder of one .npy a video."
        )
    values = _load(path, repeat)
    lengths = {name: convention.num_frames(true) for name, true in true_lengths.items()}
    if not _fits(values, repeat, lengths):
        raise HiProbeError(f"{path}: {_misfit(values, repeat, true_lengths)}")
    stops = np.cumsum([length // repeat for length in lengths.values()])
    parts = np.split(values, stops[:-1])
    return _table(dict(zip(lengths, parts, strict=True)), repeat, merge)


def _fits(values: np.ndarray, repeat: int, lengths: Mapping[str, int]) -> bool:
    """Whether there is a whole number of values for each video, and no other."""
    is_whole = all(length % repeat == 0 for length in lengths.values())
    return is_whole and len(values) * repeat == sum(lengths.values())


def _misfit(values: np.ndarray, repeat: int, true_lengths: Mapping[str, int]) -> str:
    """What the array's length should have been, by each convention, and which one fits."""
    totals, options = [], []
    for name in LENGTHS:
        lengths = {video: Convention(name).num_frames(n) for video, n in true_lengths.items()}
        totals.append(f"  {name}: {sum(lengths.values())} frames")
        options += [
            f"--repeat {each} --length {name}"
            for each in sorted({1, 16, repeat})
            if _fits(values, each, lengths)
        ]
    advice = (
        f"It fits with {' or '.join(options)}."
        if options
        else "None fits. A folder of one .npy a video says which videos differ."
    )
    return (
        f"has {len(values)} values, which with --repeat {repeat} are {len(values) * repeat} "
        f"frames. The {len(true_lengths)} videos have, by --length:\n"
        + "\n".join(totals)
        + (f"\nEach video has to have a multiple of {repeat}." if repeat > 1 else "")
        + f"\n{advice}"
    )


def _load(path: Path, repeat: int) -> np.ndarray:
    """Read one array: (value,) float64, finite."""
    try:
        check_file(path)
        # Mapped: a header that lies about the size is refused before any memory is taken.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise HiProbeError(f"{path}: no such file. Expected a .npy of one value a frame.") from None
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise HiProbeError(f"{path}: cannot read it as .npy: {error}") from error
    if not isinstance(array, np.ndarray):
        raise HiProbeError(f"{path}: is an archive of arrays (.npz), expected one array.")
    if array.dtype.kind not in "fiub" or not array.size or max(array.shape) != array.size:
        raise HiProbeError(
            f"{path}: holds {array.dtype} of shape {array.shape}, expected one number a frame."
        )
    if array.size * repeat > MAX_FRAMES:
        raise HiProbeError(
            f"{path}: {array.size} × {repeat} frames, expected at most {MAX_FRAMES}."
        )
    values = np.array(array, dtype=np.float64).reshape(-1)
    is_wrong = ~np.isfinite(values)
    if is_wrong.any():
        raise HiProbeError(
            f"{path}: {is_wrong.sum()} of {len(values)} scores are not finite, the first is number "
            f"{np.argmax(is_wrong)}, counted from 0."
        )
    return values


def _table(values: Mapping[str, np.ndarray], repeat: int, merge: bool) -> pd.DataFrame:
    """Lay the values out as rows of frames."""
    parts = []
    for video_id, own in values.items():
        if not len(own):  # a video that the convention leaves nothing of is refused elsewhere
            continue
        changes = np.flatnonzero(np.diff(own)) + 1 if merge else np.arange(1, len(own))
        edges = np.concatenate([[0], changes, [len(own)]])
        ranges = {"start_frame": edges[:-1] * repeat, "stop_frame": edges[1:] * repeat}
        parts.append(pd.DataFrame({"video_id": video_id, **ranges, "score": own[edges[:-1]]}))
    return pd.concat(parts, ignore_index=True)
