"""Fitted scorers: what `probe.json` holds of them, and how they score hidden states.

`hiprobe.probe.scorers` fits them; everything that scores a store reads them from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiprobe.store.errors import HiProbeError

LINEAR_KINDS = ("logistic", "svm")


@dataclass(frozen=True)
class LinearScorer:
    r"""Linear in the hidden state: log odds :math:`w^T h + b` (eq. 9).

    Attributes
    ----------
    kind : {'logistic', 'svm'}
        For 'svm' the log odds are the margin in units of the support vectors' (the logistic of
        the margin, not Platt's calibration).
    weight : (feature,) float64
        For raw hidden states.
    bias : float
    l2 : float
        The penalty it was fitted with.
    num_iterations : int
    """

    kind: str
    weight: np.ndarray
    bias: float
    l2: float
    num_iterations: int

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of (sample, feature) states: (sample,) float64."""
        return np.asarray(states, dtype=np.float64) @ self.weight + self.bias

    def to_json(self) -> dict[str, Any]:
        """The object `scorer` of `probe.json`."""
        return {
            "kind": self.kind,
            "weight": self.weight.tolist(),
            "bias": self.bias,
            "l2": self.l2,
            "num_iterations": self.num_iterations,
        }


@dataclass(frozen=True)
class DistanceScorer:
    r"""Distance to the normal class, in its own standard deviations.

    Log odds :math:`(d - c) / s` of :math:`d = \sqrt{\mathrm{mean}_j ((h_j - \mu_j)/\sigma_j)^2}`,
    the Mahalanobis distance for a diagonal covariance, over the root of the number of features.

    Attributes
    ----------
    mean, scale : (feature,) float64
        μ and σ of the normal samples; a dimension that does not vary has infinite scale.
    centre, spread : float
        c and s: the mean and the standard deviation of all training samples' distances.
    """

    mean: np.ndarray
    scale: np.ndarray
    centre: float
    spread: float

    kind = "distance"

    def distances(self, states: np.ndarray) -> np.ndarray:
        """Distances of (sample, feature) states: (sample,) float64 >= 0."""
        deviations = (np.asarray(states, dtype=np.float64) - self.mean) / self.scale
        return np.sqrt(np.mean(deviations**2, axis=1))

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of (sample, feature) states: (sample,) float64."""
        return (self.distances(states) - self.centre) / self.spread

    def to_json(self) -> dict[str, Any]:
        """The object `scorer` of `probe.json`; null stands for an infinite scale."""
        return {
            "kind": self.kind,
            "mean": self.mean.tolist(),
            "scale": [value if np.isfinite(value) else None for value in self.scale.tolist()],
            "centre": self.centre,
            "spread": self.spread,
        }


Scorer = LinearScorer | DistanceScorer


def scorer_from_json(content: Mapping[str, Any]) -> Scorer:
    """Read the object `scorer` of `probe.json`.

    Raises
    ------
    HiProbeError
        Unknown kind, or a field is missing.
    """
    kind = content.get("kind")
    try:
        if kind in LINEAR_KINDS:
            weight = np.asarray(content["weight"], dtype=np.float64)
            return LinearScorer(
                str(kind), weight, content["bias"], content["l2"], content["num_iterations"]
            )
        if kind == "distance":
            scale = [np.inf if value is None else value for value in content["scale"]]
            return DistanceScorer(
                np.asarray(content["mean"], dtype=np.float64),
                np.asarray(scale, dtype=np.float64),
                content["centre"],
                content["spread"],
            )
    except KeyError as error:
        raise HiProbeError(f"the probe's {kind} scorer lacks {error}: make it again.") from None
    raise HiProbeError(f"the probe's scorer is of kind {kind!r}, expected logistic, svm, distance.")
