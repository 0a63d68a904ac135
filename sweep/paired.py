"""Is one setting of a sweep better than another, over all of its draws? One paired test.

Run by ``hiprobe compare SWEEP --between layer=12 --and layer=20``, on a sweep that kept its scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from hiprobe.evaluate.comparison import VISIBLE_ERRORS, resample_videos
from hiprobe.evaluate.metrics import METRICS, Ranking
from hiprobe.store import HiProbeError
from hiprobe.sweep.draws import NOTHING_DRAWN
from hiprobe.sweep.kept_scores import KeptScores, folder_of
from hiprobe.sweep.table_file import read_table

# What an experiment is chosen by, beside the draw.
SETTINGS = (
    "store", "test_store", "method", "tap", "prompt", "layer", "rule", "scorer", "l2", "num_videos",
)  # fmt: skip
CHOOSABLE = (*SETTINGS, "fraction", "seed")


def compare_settings(
    path: Path,
    a: Mapping[str, str],
    b: Mapping[str, str],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
    on_resample: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    r"""Compare two settings over the draws that both have: the mean of B − A.

    Its error has two parts that do not depend on each other: the test videos, which are the same
    for all draws (bootstrap, the same videos for both settings and all draws), and the draws of
    training videos (their deviation):

    .. math:: SE^2 = SE_{videos}^2 + s_{draws}^2 / R

    Its interval and p are those of Student's t with the degrees of freedom of Welch and
    Satterthwaite. Draws from one pool share videos; if each holds much of the pool, the error over
    draws is too small. What learns from no video is the same on every draw of the other setting.

    Parameters
    ----------
    path : Path
        The table of a sweep with kept scores.
    a, b : mapping of str to str
        Columns of the table and their values, such as ``{"layer": "12"}``, that leave one
        experiment a draw.
    num_resamples, seed : int
        Of the bootstrap over test videos.
    on_resample : callable
        Called with (resamples done, resamples).

    Returns
    -------
    dict
        By metric ``a``, ``b`` (means over draws), ``difference``, ``interval`` (``low``,
        ``high``), ``p_value``, ``is_clear``, ``standard_error``, ``error_videos``,
        ``error_draws``, ``smallest_visible``; ``num_draws``, ``num_videos``, ``settings``.

    Raises
    ------
    HiProbeError
        No scores are kept, or a setting is none or more than one.
    """
    table = read_table(path)
    if "scores" not in table:
        raise HiProbeError(
            f"{path}: it keeps no scores, and a paired test needs them. Run the sweep with "
            "--keep-scores."
        )
    one, other = (_experiments(table, path, chosen) for chosen in (a, b))
    experiments = [_on_draws_of(other, one), _on_draws_of(one, other)]
    common = experiments[0].index.intersection(experiments[1].index, sort=False)
    if common.empty:
        raise HiProbeError(
            f"{path}: {_said(a)} and {_said(b)} have no draw of training videos in common."
        )
    rankings, num_videos = _rankings(path, [one.loc[common] for one in experiments])
    points = weighted_metrics(rankings, None)
    assert points is not None, "a sweep has frames of both classes"

    def mean_difference(weights: np.ndarray) -> np.ndarray | None:
        values = weighted_metrics(rankings, weights)
        return None if values is None else (values[1] - values[0]).mean(axis=0)

    draws = resample_videos(mean_difference, num_videos, num_resamples, seed, on_resample)
    return {
        metric: paired_difference(points[..., i], draws[:, i], num_videos)
        for i, metric in enumerate(METRICS)
    } | {
        "settings": [dict(a), dict(b)],
        "table": str(path.absolute()),
        "num_draws": len(common),
        "num_videos": num_videos,
        "bootstrap": {"num_resamples": len(draws), "seed": seed, "unit": "video", "paired": True},
    }


def _experiments(table: pd.DataFrame, path: Path, setting: Mapping[str, str]) -> pd.DataFrame:
    """The experiments of a setting, one a draw: ``scores, scores_row``, by the videos drawn."""
    chosen = table
    for name, value in setting.items():
        if name not in CHOOSABLE:
            raise HiProbeError(
                f"{path}: there is nothing called {name!r} to choose by, expected some of "
                f"{', '.join(CHOOSABLE)}."
            )
        chosen = chosen[_equals(chosen[name], value)]
        if chosen.empty:
            has = ", ".join(map(str, table[name].drop_duplicates().tolist()[:20]))
            raise HiProbeError(f"{path}: no experiment with {_said(setting)}; {name} is {has}.")
    # Rows of other thresholds have the same scores.
    own = chosen.drop_duplicates(["scores", "scores_row"])
    for name in SETTINGS:
        values = own[name].drop_duplicates().tolist()
        if len(values) > 1:
            raise HiProbeError(
                f"{path}: {_said(setting)} is more than one setting: {name} is "
                f"{', '.join(map(str, values[:20]))}. Choose one, such as {name}={values[0]}."
            )
    return own.set_index("draw")[["scores", "scores_row"]]


def _on_draws_of(other: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """The experiments of a setting; one that learned from no video stands for every draw."""
    if list(own.index) != [NOTHING_DRAWN]:
        return own
    return own.iloc[[0] * len(other)].set_axis(other.index)


def _equals(column: pd.Series, value: str) -> pd.Series:
    """Which values are the one that was typed: a number where the column has numbers."""
    if pd.api.types.is_numeric_dtype(column):
        try:
            return (column == float(value)).fillna(False).astype(bool)
        except ValueError:
            return pd.Series(False, index=column.index)
    return column == value


def _said(setting: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in setting.items())


def _rankings(path: Path, experiments: list[pd.DataFrame]) -> tuple[list[list[Ranking]], int]:
    """Rankings by setting and draw, all of the same test videos, and the number of these."""
    files: dict[str, KeptScores] = {}
    rankings: list[list[Ranking]] = []
    for own in experiments:
        rankings.append([])
        for name, row in own.itertuples(index=False):
            kept = files.get(name) or KeptScores.read(folder_of(path) / Path(name).name)
            files[name] = kept
            first = next(iter(files.values()))
            if not kept.same_segments(first):
                raise HiProbeError(
                    f"{path}: the settings were tested on other videos, segments or annotations; "
                    "only scores of the same ones can be paired."
                )
            if not 0 <= row < len(kept.scores):
                raise HiProbeError(f"{path}: {name} has no scores in row {row}.")
            rankings[-1].append(kept.ranking(int(row)))
    return rankings, len(next(iter(files.values())).video_ids)


def weighted_metrics(
    rankings: list[list[Ranking]], weights: np.ndarray | None
) -> np.ndarray | None:
    """(setting, draw, metric) float64; None where the videos drawn lack a class."""
    values = []
    for ranking in (one for own in rankings for one in own):
        metrics = ranking.metrics(weights)
        if metrics is None:
            return None
        values.append([getattr(metrics, name) for name in METRICS])
    return np.array(values).reshape(len(rankings), -1, len(METRICS))


def paired_difference(points: np.ndarray, means: np.ndarray, num_videos: int) -> dict[str, Any]:
    """One metric's difference, from (setting, draw) values and (resample,) mean differences."""
    a, b = points
    num_draws = len(a)
    errors = np.array(
        [means.std(ddof=1), (b - a).std(ddof=1) / np.sqrt(num_draws) if num_draws > 1 else 0.0]
    )
    freedom = np.array([num_videos - 1, max(num_draws - 1, 1)])
    difference, error = float((b - a).mean()), float(np.hypot(*errors))
    half, p_value = 0.0, 1.0
    if error:
        together = error**4 / np.sum(errors**4 / freedom)
        half = float(stdtrit(together, 0.975)) * error
        p_value = float(2 * stdtr(together, -abs(difference) / error))
    return {
        "a": float(a.mean()),
        "b": float(b.mean()),
        "difference": difference,
        "interval": {"low": difference - half, "high": difference + half},
        "p_value": p_value,
        "is_clear": abs(difference) > half,
        "standard_error": error,
        "error_videos": float(errors[0]),
        "error_draws": float(errors[1]),
        "smallest_visible": VISIBLE_ERRORS * error,
    }
