"""Scores of any method, evaluated as our own are: from their files and a manifest, without videos.

Run by ``hiprobe evaluate-scores``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiprobe.evaluate.convention import AS_SCORED, fitting_lengths
from hiprobe.evaluate.measure import few_videos, measure
from hiprobe.evaluate.report import publish
from hiprobe.evaluate.score_arrays import (
    ONE_ARRAY,
    array_files,
    is_array,
    is_arrays,
    read_array,
    read_arrays,
)
from hiprobe.evaluate.score_rows import COLUMNS, read_rows
from hiprobe.evaluate.test_set import DEFAULT_CONVENTION, DEFAULT_THRESHOLD, Convention, TestSet
from hiprobe.evaluate.test_videos import listed_videos
from hiprobe.store import HiProbeError, file_digest
from hiprobe.store.errors import listing
from hiprobe.store.localization import DEFAULT_SIGMA


@dataclass(frozen=True)
class ScoresConfig:
    """One evaluation of given scores.

    Attributes
    ----------
    scores : Path
        CSV ``video_id,start_frame,stop_frame,score``, ranges half-open; where two overlap the
        later row counts. Or ``.npy``, one value a frame: a folder of one file a video, or one file
        with all videos one after the other, in the manifest's order.
    manifest : Path
        The videos, with ``num_frames``, and their annotations.
    results : Path
    split : str
    sigma : float
        Smoothing, in rows of the scores; 0 leaves them as they are.
    threshold : float
        A row above it counts as anomalous.
    num_resamples, seed : int
        Of the bootstrap over videos.
    convention : Convention
        How annotations become labels of frames; 'as-scored' takes the lengths of the scores.
    repeat : int
        Frames that each value of an array stands for.
    """

    scores: Path
    manifest: Path
    results: Path
    split: str = "test"
    sigma: float = DEFAULT_SIGMA
    threshold: float = DEFAULT_THRESHOLD
    num_resamples: int = 1000
    seed: int = 0
    convention: Convention = DEFAULT_CONVENTION
    repeat: int = 1


def run_evaluate_scores(
    config: ScoresConfig, on_step: Callable[[str], None] = lambda step: None
) -> dict[str, Any]:
    """Measure given scores and write the results' folder.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    HiProbeError
        The scores do not cover the test videos exactly, or a line is wrong; all are listed.
    """
    on_step("reading the scores")
    true_lengths = listed_videos(config.manifest, config.split)["num_frames"]
    scores = read_scores(config, true_lengths.to_dict())
    convention, differences = config.convention, {}
    if convention.length == AS_SCORED:
        ends = scores.groupby("video_id")["stop_frame"].max().to_dict()
        convention = replace(convention, scored_lengths=ends)
        differences = _differences(true_lengths.to_dict(), ends)
    test = TestSet.of_manifest(config.manifest, config.split, convention)
    table = segments_of(scores, test.videos, true_lengths.to_dict(), config)
    scored = test.with_segments(table).score(
        table["score"].to_numpy(), config.sigma, config.threshold
    )
    metrics = measure(scored, config.num_resamples, config.seed, on_step)
    metrics |= {
        "ground_truth": convention.to_json(),
        "warnings": [*test.warnings, *_said_of(differences, len(true_lengths))]
        + few_videos(metrics)
        + [ONE_ARRAY] * is_array(config.scores),
        "length_differences": differences,
        "provenance": _provenance(config),
    }
    on_step("writing the report")
    publish(
        config.results,
        metrics=metrics,
        threshold=scored.threshold,
        videos=scored.result_videos(),
        segments=scored.table(),
    )
    return metrics


def read_scores(config: ScoresConfig, true_lengths: Mapping[str, int]) -> pd.DataFrame:
    """Read the scores, of whichever form.

    Returns
    -------
    DataFrame
        ``video_id, start_frame, stop_frame, score``.

    Raises
    ------
    HiProbeError
        No such file, it is wrong, or (one array) it does not fit the videos.
    """
    # Smoothing counts in rows; without it, rows of one score in one are the same and fewer.
    merge = config.sigma == 0
    if is_arrays(config.scores):
        return read_arrays(config.scores, config.repeat, merge)
    if is_array(config.scores):
        return read_array(config.scores, config.repeat, merge, true_lengths, config.convention)
    if config.repeat != 1:
        raise HiProbeError(
            f"{config.scores}: --repeat is for .npy files; the rows of a CSV say their own frames."
        )
    return read_rows(config.scores)


def _differences(true: Mapping[str, int], scored: Mapping[str, int]) -> dict[str, Any]:
    """Videos that are scored over another number of frames than they have."""
    return {
        video_id: {"true": int(frames), "scored": int(scored[video_id])}
        for video_id, frames in true.items()
        if scored.get(video_id, frames) != frames
    }


def _said_of(differences: dict[str, Any], num_videos: int) -> list[str]:
    """Sum up `_differences`: a warning, where there are any."""
    if not differences:
        return []
    gaps = {name: one["scored"] - one["true"] for name, one in differences.items()}
    largest = max(gaps, key=lambda name: abs(gaps[name]))
    fewer, more = (sum(max(sign * gap, 0) for gap in gaps.values()) for sign in (-1, 1))
    return [
        f"{len(gaps)} of {num_videos} videos are scored over another number of frames than they "
        f"have: {fewer} frames too few, {more} too many; most in {largest}, "
        f"{differences[largest]['scored']} of {differences[largest]['true']}. All are listed in "
        "metrics.json"
    ]


def _provenance(config: ScoresConfig) -> dict[str, Any]:
    """How the results were made."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "scores": {"path": str(config.scores.absolute()), "digest": _digest(config.scores)},
        "manifest": {
            "path": str(config.manifest.absolute()),
            "digest": file_digest(config.manifest),
        },
        "options": {
            "split": config.split,
            "sigma_rows": config.sigma,
            "threshold": config.threshold,
            "repeat": config.repeat,
        },
        "libraries": {name: version(name) for name in ("hiprobe", "numpy", "scipy")},
    }


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of a folder's arrays."""
    if path.is_file():
        return file_digest(path)
    content = "".join(f"{name} {file_digest(file)}\n" for name, file in array_files(path).items())
    return "sha256:" + hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def segments_of(
    scores: pd.DataFrame,
    videos: pd.DataFrame,
    true_lengths: Mapping[str, int],
    config: ScoresConfig,
) -> pd.DataFrame:
    """Cut the scores into ranges that do not overlap, in the order of `videos`.

    Parameters
    ----------
    scores : DataFrame
        From `read_scores`.
    videos : DataFrame
        ``num_frames`` that are evaluated, by video id.
    true_lengths : mapping of str to int
        Of all videos, for messages.
    config : ScoresConfig

    Returns
    -------
    DataFrame
        ``video_id, start_frame, stop_frame, score``; of each video from 0 to its ``num_frames``.

    Raises
    ------
    HiProbeError
        Scores of unknown videos, videos without scores, or scores that leave frames out or go
        beyond the end.
    """
    rows_of = scores.groupby("video_id", sort=False).indices
    problems = [
        f"{video_id}: not a {config.split} video of the manifest"
        for video_id in rows_of
        if video_id not in videos.index
    ]
    parts, ends = [], {}
    starts, stops, values = (scores[name].to_numpy() for name in COLUMNS[1:])
    for video_id, num_frames in videos["num_frames"].items():
        if video_id not in rows_of:
            problems.append(f"{video_id}: no scores")
            continue
        rows = rows_of[video_id]
        edges, owner = _paint(starts[rows], stops[rows])
        ends[video_id] = int(edges[-1])
        if problem := _uncovered(edges, owner, num_frames):
            problems.append(f"{video_id}: {problem}")
            continue
        ranges = {"start_frame": edges[:-1], "stop_frame": edges[1:], "score": values[rows][owner]}
        parts.append(pd.DataFrame({"video_id": video_id, **ranges}))
    if problems:
        raise HiProbeError(
            f"{config.scores}: does not fit the {len(videos)} {config.split} videos of "
            f"{config.manifest}:\n{listing(problems)}\n"
            f"{_advice(ends, true_lengths, config)}"
        )
    return pd.concat(parts, ignore_index=True)


def _uncovered(edges: np.ndarray, owner: np.ndarray, num_frames: int) -> str | None:
    """Which of a video's frames have no score, or which scores no frame."""
    if edges[0] != 0:
        return "no score from frame 0 on"
    if (owner < 0).any():
        return f"no score from frame {edges[np.argmax(owner < 0)]} on"
    if edges[-1] != num_frames:
        return f"scores end at frame {edges[-1]}, expected {num_frames}"
    return None


def _paint(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lay ranges over each other: edges, and which range is on top between two; -1 for none."""
    edges = np.unique(np.concatenate([starts, stops]))
    # Nearly every file: rows follow each other, and nothing lies over anything.
    if np.array_equal(starts[1:], stops[:-1]):
        return edges, np.arange(len(starts))
    owner = np.full(len(edges) - 1, -1)
    first, last = np.searchsorted(edges, starts), np.searchsorted(edges, stops)
    for index in range(len(starts)):
        owner[first[index] : last[index]] = index
    return edges, owner


def _advice(ends: dict[str, int], true: Mapping[str, int], config: ScoresConfig) -> str:
    """Say which convention of lengths would fit."""
    # Arrays may be of clips: then the user has only not said so yet.
    for repeat in (1, 16) if is_arrays(config.scores) and config.repeat == 1 else (1,):
        scored = {video_id: end * repeat for video_id, end in ends.items()}
        fits = fitting_lengths(true, scored)
        whole = [f"--length {name}" for name in fits if fits[name] == len(ends) > 0]
        if whole and (repeat > 1 or f"--length {config.convention.length}" not in whole):
            return f"All lengths fit with {'--repeat 16 ' * (repeat > 1)}{' or '.join(whole)}."
    shares = ", ".join(f"{name} {count}" for name, count in fitting_lengths(true, ends).items())
    return (
        "Scores must cover every frame of every video. Correct the scores, or the manifest's "
        f"num_frames; --length tells how lengths are counted, and fits, of {len(ends)} videos with "
        f"scores: {shares}. --length as-scored takes each video's own number of scored frames."
    )
