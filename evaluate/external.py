"""Scores of any method, evaluated as our own are: from a CSV file and a manifest, no videos needed.

Run by ``hiprobe evaluate-scores``.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiprobe.evaluate.measure import few_videos, measure
from hiprobe.evaluate.report import publish
from hiprobe.evaluate.test_set import (
    DEFAULT_CONVENTION,
    DEFAULT_THRESHOLD,
    LENGTHS,
    Convention,
    TestSet,
)
from hiprobe.store import HiProbeError, file_digest, read_manifest
from hiprobe.store.csv_rows import check_header
from hiprobe.store.errors import listing
from hiprobe.store.fields import MAX_FRAMES
from hiprobe.store.single_files import check_file

COLUMNS = ("video_id", "start_frame", "stop_frame", "score")


@dataclass(frozen=True)
class ScoresConfig:
    """One evaluation of given scores.

    Attributes
    ----------
    scores : Path
        CSV ``video_id,start_frame,stop_frame,score``, ranges half-open; where two overlap the
        later row counts. Per-frame scores are rows of one frame.
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
        How annotations become labels of frames.
    """

    scores: Path
    manifest: Path
    results: Path
    split: str = "test"
    sigma: float = 0.0
    threshold: float = DEFAULT_THRESHOLD
    num_resamples: int = 1000
    seed: int = 0
    convention: Convention = DEFAULT_CONVENTION


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
    test = TestSet.of_manifest(config.manifest, config.split, config.convention)
    on_step("reading the scores")
    table = segments_of(read_scores(config.scores), test.videos, config)
    scored = test.with_segments(table).score(
        table["score"].to_numpy(), config.sigma, config.threshold
    )
    metrics = measure(scored, config.num_resamples, config.seed, on_step)
    metrics |= {
        "ground_truth": config.convention.to_json(),
        "warnings": [*test.warnings, *few_videos(metrics)],
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


def _provenance(config: ScoresConfig) -> dict[str, Any]:
    """How the results were made."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "scores": {"path": str(config.scores.absolute()), "digest": file_digest(config.scores)},
        "manifest": {
            "path": str(config.manifest.absolute()),
            "digest": file_digest(config.manifest),
        },
        "options": {
            "split": config.split,
            "sigma_rows": config.sigma,
            "threshold": config.threshold,
        },
        "libraries": {name: version(name) for name in ("hiprobe", "numpy", "scipy")},
    }


def read_scores(path: Path) -> pd.DataFrame:
    """Read a scores' file, in its order.

    Returns
    -------
    DataFrame
        ``video_id`` (str), ``start_frame``, ``stop_frame`` (int64), ``score`` (float64).

    Raises
    ------
    HiProbeError
        No such file, a column is missing, or lines are wrong (they are listed).
    """
    table = _read_csv(path)
    try:
        numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in COLUMNS[1:]}
    except OverflowError:
        raise HiProbeError(f"{path}: wrong line(s): a number of more than 300 digits.") from None
    start, stop, score = numbers.values()
    wrong = {
        f"start_frame and stop_frame are not whole numbers, 0 <= start < stop <= {MAX_FRAMES}": ~(
            (start >= 0)
            & (stop > start)
            & (stop <= MAX_FRAMES)
            & (start % 1 == 0)
            & (stop % 1 == 0)
        ),
        "score is not a finite number": ~np.isfinite(score),
        "video_id is empty": table["video_id"].isna(),
    }
    # The header is line 1.
    problems = [
        f"line {line + 2}: {what}: {','.join(map(str, table.loc[line, list(COLUMNS)]))[:200]}"
        for what, lines in wrong.items()
        for line in table.index[lines]
    ]
    if problems:
        raise HiProbeError(f"{path}: {len(problems)} wrong line(s):\n{listing(problems)}")
    return pd.DataFrame(
        {
            "video_id": table["video_id"],
            "start_frame": start.astype(np.int64),
            "stop_frame": stop.astype(np.int64),
            "score": score.astype(np.float64),
        }
    )


def _read_csv(path: Path) -> pd.DataFrame:
    """Read the file as text and numbers, unchecked but for its header."""
    try:
        check_file(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
        with warnings.catch_warnings():
            # pandas only warns of lines with too many fields, and drops the rest of them.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                dtype={"video_id": str},
                index_col=False,
                # A video may be called NA.
                keep_default_na=False,
                na_values=[""],
            )
    except FileNotFoundError:
        raise HiProbeError(
            f"{path}: no such file. Expected CSV with the columns {', '.join(COLUMNS)}."
        ) from None
    except (OSError, ValueError, csv.Error, pd.errors.ParserWarning) as error:
        raise HiProbeError(f"{path}: cannot read it as CSV: {error}") from error
    # pandas would read a second `score` under the name `score.1`.
    check_header(path, header, COLUMNS, COLUMNS)
    return table


def segments_of(scores: pd.DataFrame, videos: pd.DataFrame, config: ScoresConfig) -> pd.DataFrame:
    """Cut the scores into ranges that do not overlap, in the order of `videos`.

    Parameters
    ----------
    scores : DataFrame
        From `read_scores`.
    videos : DataFrame
        ``num_frames``, by video id.
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
            f"{config.manifest}:\n{listing(problems)}\n{_advice(ends, config)}"
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


def _advice(ends: dict[str, int], config: ScoresConfig) -> str:
    """Say whether another convention of lengths would fit."""
    true_lengths = {
        record.video_id: record.num_frames
        for record in read_manifest(config.manifest)
        if record.split == config.split and record.num_frames is not None
    }
    for length in LENGTHS:
        convention = Convention(length)
        fits = [
            convention.num_frames(true_lengths[video_id]) == end for video_id, end in ends.items()
        ]
        if length != config.convention.length and fits and all(fits):
            return f"All lengths fit with --length {length}."
    return (
        "Scores must cover every frame of every video. Correct the scores, or the manifest's "
        "num_frames; --length tells how lengths are counted."
    )
