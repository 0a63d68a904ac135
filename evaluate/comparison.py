"""Is one result really better than another? A paired bootstrap over videos.

Run by ``hiprobe compare``. Reads two results' folders; each resample draws the same videos for
both, so what is hard for both cancels out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.evaluate.metrics import ConfidenceInterval, Ranking
from hiprobe.evaluate.scored import rank_results
from hiprobe.store import HiProbeError, format_annotations
from hiprobe.store.errors import listing
from hiprobe.store.results import Results

METRICS = ("auc", "ap", "pr_auc_trapezoid")
SCORES = {"raw": "score", "smoothed": "smoothed"}


@dataclass(frozen=True)
class Difference:
    """B minus A of one metric.

    Attributes
    ----------
    a, b, difference : float
    interval : ConfidenceInterval
        95 % percentile interval of the difference.
    p_value : float
        Two-sided: twice the smaller share of resamples on one side of 0, at least one over the
        number of resamples.
    """

    a: float
    b: float
    difference: float
    interval: ConfidenceInterval
    p_value: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.interval.low > 0 or self.interval.high < 0


def compare(
    folder_a: Path,
    folder_b: Path,
    *,
    scores: str = "smoothed",
    common_videos: bool = False,
    num_resamples: int = 2000,
    seed: int = 0,
    on_resample: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Compare two results on the same videos.

    Parameters
    ----------
    folder_a, folder_b : Path
        Results of `hiprobe evaluate` or `hiprobe evaluate-scores`.
    scores : {'smoothed', 'raw'}
    common_videos : bool
        Compare on the videos that both have; otherwise other videos are an error.
    num_resamples, seed : int
    on_resample : callable
        Called with (resamples done, resamples).

    Returns
    -------
    dict
        ``auc``, ``ap``, ``pr_auc_trapezoid``: the fields of `Difference`, and how it was made.

    Raises
    ------
    HiProbeError
        A folder holds no results, the ground truth differs, or the test set has one class only.
    """
    a, b = Results.read(folder_a), Results.read(folder_b)
    videos = _common_videos(a, b, common_videos)
    rankings = [rank_results(results, SCORES[scores], videos) for results in (a, b)]
    point = [_values(ranking, None) for ranking in rankings]
    if point[0] is None or point[1] is None:
        raise HiProbeError(
            f"{folder_a}: AUC and AP are undefined on these {len(videos)} videos: their frames are "
            "of one class only."
        )
    rng = np.random.default_rng(seed)
    draws = []
    for done in range(num_resamples):
        drawn = rng.integers(len(videos), size=len(videos))
        weights = np.bincount(drawn, minlength=len(videos)).astype(np.float64)
        of_a, of_b = (_values(ranking, weights) for ranking in rankings)
        if of_a is not None and of_b is not None:
            draws.append(of_b - of_a)
        on_resample(done + 1, num_resamples)
    differences = np.array(draws)
    content: dict[str, Any] = {
        metric: _difference(point[0][i], point[1][i], differences[:, i])
        for i, metric in enumerate(METRICS)
    }
    return {name: asdict(one) | {"is_clear": one.is_clear} for name, one in content.items()} | {
        "results": [str(folder_a.absolute()), str(folder_b.absolute())],
        "scores": scores,
        "num_videos": len(videos),
        "num_videos_left_out": len(a.videos.keys() ^ b.videos.keys()),
        "ground_truth": a.metrics["ground_truth"],
        "bootstrap": {"num_resamples": len(draws), "seed": seed, "unit": "video", "paired": True},
    }


def _common_videos(a: Results, b: Results, common_videos: bool) -> list[str]:
    """Ids of the videos to compare on, in A's order."""
    conventions = [results.metrics["ground_truth"] for results in (a, b)]
    if conventions[0] != conventions[1]:
        raise HiProbeError(
            f"{b.folder}: its ground truth is {conventions[1]}, that of {a.folder} is "
            f"{conventions[0]}. Evaluate both with the same --length and --ends."
        )
    problems = [
        f"{video_id}: {_truth(b, video_id)}, expected {_truth(a, video_id)}"
        for video_id in a.videos
        if video_id in b.videos and _truth(a, video_id) != _truth(b, video_id)
    ]
    if problems:
        raise HiProbeError(
            f"{b.folder}: {len(problems)} video(s) have another ground truth than in {a.folder}:\n"
            f"{listing(problems)}\nEvaluate both with the same manifest."
        )
    only = [
        f"{video_id}: only in {results.folder}"
        for results, other in ((a, b), (b, a))
        for video_id in results.videos
        if video_id not in other.videos
    ]
    common = [video_id for video_id in a.videos if video_id in b.videos]
    if not common or (only and not common_videos):
        raise HiProbeError(
            f"{a.folder} and {b.folder}: {len(only)} video(s) are in one of them only:\n"
            f"{listing(only)}\n"
            + ("--common-videos compares on the others." if common else "They share no video.")
        )
    return common


def _truth(results: Results, video_id: str) -> str:
    """One video's ground truth in words: equal words are equal ground truth."""
    video = results.videos[video_id]
    ranges = format_annotations(video.annotations) or "none"
    return f"{video.num_frames} frames, annotations {ranges}"


def _values(ranking: Ranking, weights: np.ndarray | None) -> np.ndarray | None:
    """The `METRICS` under video weights: (metric,) float64; None where a class is absent."""
    metrics = ranking.metrics(weights)
    return None if metrics is None else np.array([getattr(metrics, name) for name in METRICS])


def _difference(a: float, b: float, draws: np.ndarray) -> Difference:
    """One metric's difference, from the (resample,) differences that were drawn."""
    low, high = np.percentile(draws, [2.5, 97.5])
    # Two-sided; a bootstrap of n resamples cannot show less than 1/n.
    tail = min(np.mean(draws <= 0), np.mean(draws >= 0))
    p_value = min(1.0, max(2 * float(tail), 1 / len(draws)))
    interval = ConfidenceInterval(float(low), float(high))
    return Difference(float(a), float(b), float(b - a), interval, p_value)
