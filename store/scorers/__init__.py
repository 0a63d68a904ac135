"""Scorers: how hidden states become scores, from the fit to `probe.json` and back.

One registry; a scorer is one class in one file of this folder: how it is fitted, what it computes,
what `probe.json` holds of it. To add one, write its file and its line in `_CLASSES`;
`hiprobe probe`, `sweep`, `evaluate` and `detect` then know it. ``module:Class`` names any estimator
of scikit-learn's kind. The names cost no import of scikit-learn: the command line lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hiprobe.store.errors import HiProbeError
from hiprobe.store.scorers.named import is_name, trust

if TYPE_CHECKING:
    import numpy as np

    from hiprobe.store.scorers.base import Scorer

_CLASSES = {
    "logistic": "logistic:LogisticScorer",
    "svm": "svm:SvmScorer",
    "distance": "distance:DistanceScorer",
    "mahalanobis": "mahalanobis:MahalanobisScorer",
    "nearest": "nearest:NearestScorer",
    "spherical": "spherical:SphericalScorer",
}
SCORERS = tuple(_CLASSES)
# What a method makes and nobody fits: no choice of `--scorer`.
_CLASSES |= {"answers": "answer_scorer:AnswerScorer"}
__all__ = [
    "DEFAULT_L2",
    "PAPER_L2",
    "SCORERS",
    "fit_scorer",
    "is_name",
    "needs_anomalies",
    "scorer_class",
    "scorer_from_json",
    "trust",
]
# What holds out best, or within 0.006 of it, with 30 and 120 generated clips and on real fights
# (`make bench-l2` on any store); `make bench-demo-model` shows the paper's setting, 0, beside it.
DEFAULT_L2 = 1.0
PAPER_L2 = 0.0


def scorer_class(kind: str) -> type[Scorer]:
    """Look a scorer's class up by its name.

    Raises
    ------
    HiProbeError
        Unknown kind.
    """
    if kind not in _CLASSES and not is_name(kind):
        raise HiProbeError(
            f"the scorer is of kind {kind!r}, expected {', '.join(SCORERS)} or module:Class."
        )
    module, _, name = _CLASSES.get(kind, "estimator:EstimatorScorer").partition(":")
    return getattr(import_module(f"{__name__}.{module}"), name)


def needs_anomalies(kind: str) -> bool:
    """Whether a scorer has to see anomalous samples, or learns the normal class alone.

    Raises
    ------
    HiProbeError
        Unknown kind, or a class that cannot be had.
    """
    if not is_name(kind):
        return scorer_class(kind).needs_anomalies
    from hiprobe.store.scorers import estimator

    return estimator.needs_anomalies(kind)


def fit_scorer(
    kind: str, states: np.ndarray, is_anomalous: np.ndarray, l2: float = DEFAULT_L2
) -> Scorer:
    """Fit a scorer.

    Parameters
    ----------
    kind : str
        One of `SCORERS`, or ``module:Class``.
    states : (sample, feature) float
    is_anomalous : (sample,) bool
    l2 : float
        The penalty; a kind that has none ignores it.

    Raises
    ------
    HiProbeError
        Unknown kind.
    ValueError
        The kind needs a penalty and `l2` is 0.
    """
    if is_name(kind):
        from hiprobe.store.scorers.estimator import EstimatorScorer

        return EstimatorScorer.fit_named(kind, states, is_anomalous)
    return scorer_class(kind).fit(states, is_anomalous, l2)


def scorer_from_json(content: Mapping[str, Any]) -> Scorer:
    """Read the object `scorer` of `probe.json`.

    Raises
    ------
    HiProbeError
        Unknown kind, a field is missing or of another type, or it holds types that nobody trusts.
    """
    kind = content.get("kind")
    try:
        return scorer_class(str(kind)).from_json(content)
    except KeyError as error:
        raise HiProbeError(f"the probe's {kind} scorer lacks {error}: make it again.") from None
    except (TypeError, ValueError) as error:
        raise HiProbeError(
            f"the probe's {kind} scorer is damaged ({error}): make it again."
        ) from error
