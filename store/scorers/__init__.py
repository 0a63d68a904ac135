"""Scorers: how hidden states become scores, from the fit to `probe.json` and back.

One registry; a scorer is one class in one file of this folder: how it is fitted, what it computes,
what `probe.json` holds of it. To add one, write its file and its line in `_CLASSES`; `hiprobe probe`,
`sweep`, `evaluate` and `detect` then know it. Names cost no import: the command line lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hiprobe.store.errors import HiProbeError

if TYPE_CHECKING:
    import numpy as np

    from hiprobe.store.scorers.base import Scorer

_CLASSES = {
    "logistic": "logistic:LogisticScorer",
    "svm": "svm:SvmScorer",
    "distance": "distance:DistanceScorer",
}
SCORERS = tuple(_CLASSES)
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
    if kind not in _CLASSES:
        raise HiProbeError(f"the scorer is of kind {kind!r}, expected {', '.join(SCORERS)}.")
    module, _, name = _CLASSES[kind].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), name)


def fit_scorer(
    kind: str, states: np.ndarray, is_anomalous: np.ndarray, l2: float = DEFAULT_L2
) -> Scorer:
    """Fit a scorer.

    Parameters
    ----------
    kind : {'logistic', 'svm', 'distance'}
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
    return scorer_class(kind).fit(states, is_anomalous, l2)


def scorer_from_json(content: Mapping[str, Any]) -> Scorer:
    """Read the object `scorer` of `probe.json`.

    Raises
    ------
    HiProbeError
        Unknown kind, or a field is missing or of another type.
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
