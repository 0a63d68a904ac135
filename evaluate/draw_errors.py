"""How much a result would differ with other training videos, and with other test videos too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hiprobe.evaluate.scored import ScoredSegments

AREAS = ("auc", "ap")


def draw_errors(
    scored: Sequence[ScoredSegments], seeds: Sequence[int | None], ap_se: float | None
) -> dict[str, Any]:
    r"""Measure the smoothed scores of several few-shot draws of one recipe.

    The test videos and the draw of training videos are chosen independently, so one draw's area
    has the standard error

    .. math:: SE_{total}^2 = s_{draws}^2 + SE_{videos}^2

    with the deviation s over draws on these very test videos.

    Parameters
    ----------
    scored : sequence of ScoredSegments
        The test videos as each draw scores them; the first is the result's own.
    seeds : sequence of int or None
    ap_se : float, optional
        Standard error of the first one's AP over test videos.

    Returns
    -------
    dict
        ``num_draws``, ``seeds``, and of ``auc`` and ``ap`` ``values``, ``mean``, ``std``,
        ``se_videos`` and ``se_total``; None where an area is undefined.
    """
    rankings = [one.ranking(one.smoothed) for one in scored]
    metrics = [ranking.metrics() for ranking in rankings]
    errors = [ranking.auc_standard_error() for ranking in rankings]
    content: dict[str, Any] = {"num_draws": len(scored), "seeds": list(seeds)}
    for name in AREAS:
        known = [getattr(one, name) for one in metrics if one is not None]
        if len(known) < len(scored):  # the test frames are of one class, for every draw alike
            content[name] = None
            continue
        of_videos = _mean_square_root(errors) if name == "auc" else ap_se
        deviation = float(np.std(known, ddof=1))
        content[name] = {
            "values": known,
            "mean": float(np.mean(known)),
            "std": deviation,
            "se_videos": of_videos,
            "se_total": None if of_videos is None else math.hypot(deviation, of_videos),
        }
    return content


def _mean_square_root(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return float(np.sqrt(np.mean(np.square(known)))) if known else None
