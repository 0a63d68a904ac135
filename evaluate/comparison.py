"""Are results really different? A paired bootstrap over videos, of two results or more.

Run by ``hiprobe compare``. Reads results' folders; each resample draws the same videos for all, so
what is hard for all cancels out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.evaluate.metrics import METRICS, ConfidenceInterval, Ranking
from hiprobe.evaluate.protocol import common_videos, ground_truth_digest
from hiprobe.evaluate.scored import rank_results
from hiprobe.store import HiProbeError
from hiprobe.store.results import Results

SCORES = {"raw": "score", "smoothed": "smoothed"}
LEVEL = 0.05
# Standard errors of a difference that a two-sided test at 5 % sees four times of five: 1.96 + 0.84.
VISIBLE_ERRORS = 2.8


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
    standard_error : float
        Of the difference, over videos.
    p_holm : float
        `p_value` with Holm's correction for all pairs that are compared.
    """

    a: float
    b: float
    difference: float
    interval: ConfidenceInterval
    p_value: float
    standard_error: float
    p_holm: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out, and the corrected p is at most 5 %."""
        leaves_0_out = self.interval.low > 0 or self.interval.high < 0
        return leaves_0_out and self.p_holm <= LEVEL

    @property
    def smallest_visible(self) -> float:
        """The true difference that these videos would show four times of five."""
        return VISIBLE_ERRORS * self.standard_error

    def to_json(self) -> dict[str, Any]:
        """The fields, and what follows from them."""
        return asdict(self) | {
            "is_clear": self.is_clear,
            "smallest_visible": self.smallest_visible,
        }


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
    """Compare two results on the same videos; see `compare_all`.

    Returns
    -------
    dict
        ``auc``, ``ap``, ``pr_auc_trapezoid``: the fields of `Difference`, and how it was made.
    """
    content = compare_all(
        [folder_a, folder_b],
        scores=scores,
        only_common=common_videos,
        num_resamples=num_resamples,
        seed=seed,
        on_resample=on_resample,
    )
    (pair,) = content.pop("pairs")
    return {metric: pair[metric] for metric in METRICS} | content


def compare_all(
    folders: Sequence[Path],
    *,
    scores: str = "smoothed",
    only_common: bool = False,
    num_resamples: int = 2000,
    seed: int = 0,
    on_resample: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Compare each two of some results on the same videos.

    Parameters
    ----------
    folders : sequence of Path
        Results of `hiprobe evaluate` or `hiprobe evaluate-scores`, two or more.
    scores : {'smoothed', 'raw'}
    only_common : bool
        Compare on the videos that all have; otherwise other videos are an error.
    num_resamples, seed : int
    on_resample : callable
        Called with (resamples done, resamples).

    Returns
    -------
    dict
        ``pairs``: a list of ``a``, ``b`` (positions in `folders`) and by metric the fields of
        `Difference`; and how it was made.

    Raises
    ------
    HiProbeError
        A folder holds no results, they are of another protocol (ground truth, lengths, smoothing),
        the test set has one class only, or so many pairs need more resamples.
    """
    pairs = list(itertools.combinations(range(len(folders)), 2))
    if not pairs:
        raise HiProbeError(f"{len(folders)} results were given, expected at least two.")
    # A bootstrap shows no p below 1/n, and Holm multiplies the smallest by the number of pairs.
    if len(pairs) > 1 and len(pairs) > LEVEL * num_resamples:
        raise HiProbeError(
            f"{len(pairs)} pairs of {len(folders)} results, and {num_resamples} resamples: no "
            f"difference could be clear after Holm's correction. Give --resamples "
            f"{int(len(pairs) / LEVEL) + 1} or more, or compare fewer."
        )
    results = [Results.read(folder) for folder in folders]
    videos = common_videos(results, scores, only_common)
    rankings = [rank_results(one, SCORES[scores], videos) for one in results]

    def measure(weights: np.ndarray | None) -> np.ndarray | None:
        values = [_values(ranking, weights) for ranking in rankings]
        # One class only, and of all results: their ground truth is the same.
        return None if values[0] is None else np.array(values)

    points = measure(None)
    if points is None:
        raise HiProbeError(
            f"{folders[0]}: AUC and AP are undefined on these {len(videos)} videos: their frames "
            "are of one class only."
        )
    draws = resample_videos(measure, len(videos), num_resamples, seed, on_resample)
    compared = _compared(pairs, points, draws)
    return {
        "pairs": [
            {"a": a, "b": b} | {metric: one.to_json() for metric, one in of_pair.items()}
            for (a, b), of_pair in zip(pairs, compared, strict=True)
        ],
        "results": [str(folder.absolute()) for folder in folders],
        "scores": scores,
        "num_videos": len(videos),
        "num_videos_left_out": len(set().union(*(one.videos for one in results))) - len(videos),
        "ground_truth": results[0].metrics["ground_truth"],
        "ground_truth_digest": ground_truth_digest(results[0], videos),
        "correction": "Holm",
        "bootstrap": {"num_resamples": len(draws), "seed": seed, "unit": "video", "paired": True},
    }


def resample_videos(
    measure: Callable[[np.ndarray], np.ndarray | None],
    num_videos: int,
    num_resamples: int,
    seed: int,
    on_resample: Callable[[int, int], None],
) -> np.ndarray:
    """Measure videos drawn with replacement, all of what is compared on the same ones.

    Parameters
    ----------
    measure : callable
        Of each video's weight, (video,) float64; None where the areas are undefined: such a
        resample is left out.
    num_videos, num_resamples, seed : int
    on_resample : callable
        Called with (resamples done, resamples).

    Returns
    -------
    (resample, …) float64
        What `measure` gave.
    """
    rng = np.random.default_rng(seed)
    draws = []
    for done in range(num_resamples):
        # The same videos for all: what is hard for all cancels out of a difference.
        drawn = rng.integers(num_videos, size=num_videos)
        values = measure(np.bincount(drawn, minlength=num_videos).astype(np.float64))
        if values is not None:
            draws.append(values)
        on_resample(done + 1, num_resamples)
    return np.array(draws)


def _compared(
    pairs: Sequence[tuple[int, int]], points: np.ndarray, draws: np.ndarray
) -> list[dict[str, Difference]]:
    """All pairs' differences by metric, corrected for their number within each metric."""
    found: list[dict[str, Difference]] = [{} for _ in pairs]
    for i, metric in enumerate(METRICS):
        own = [
            _difference(points[a, i], points[b, i], draws[:, b, i] - draws[:, a, i])
            for a, b in pairs
        ]
        corrected = holm([one.p_value for one in own])
        for of_pair, one, p in zip(found, own, corrected, strict=True):
            of_pair[metric] = replace(one, p_holm=p)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979): each is then valid with all others."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    # None may fall below one that is smaller to begin with.
    corrected = np.maximum.accumulate(factors * np.asarray(p_values)[order])
    back = np.empty(len(p_values))
    back[order] = np.minimum(corrected, 1.0)
    return [float(p) for p in back]


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
    return Difference(
        a=float(a),
        b=float(b),
        difference=float(b - a),
        interval=ConfidenceInterval(float(low), float(high)),
        p_value=p_value,
        standard_error=float(draws.std(ddof=1)),
        p_holm=p_value,
    )
