"""The distance to the normal class (the paper's Table 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hiprobe.store import fields
from hiprobe.store.scorers.base import Scorer, vector
from hiprobe.store.scorers.linear import CONSTANT_SHARE


@dataclass(frozen=True)
class DistanceScorer(Scorer):
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

    kind: ClassVar[str] = "distance"
    takes_penalty: ClassVar[bool] = False
    needs_anomalies: ClassVar[bool] = False

    @classmethod
    def fit(cls, states: np.ndarray, is_anomalous: np.ndarray, l2: float = 0.0) -> Self:
        """Measure the normal class; there is no penalty, so `l2` does not count."""
        states = np.asarray(states, dtype=np.float64)
        normal = states[~is_anomalous]
        mean, scale = normal.mean(axis=0), normal.std(axis=0)
        # Infinite: a dimension that does not vary among normal samples has no deviations to count.
        scale = np.where(scale > CONSTANT_SHARE * np.abs(mean), scale, np.inf)
        unscaled = cls(mean, scale, 0.0, 1.0).distances(states)
        return cls(mean, scale, float(unscaled.mean()), float(unscaled.std() or 1.0))

    def distances(self, states: np.ndarray) -> np.ndarray:
        """Distances of (sample, feature) states: (sample,) float64 >= 0."""
        deviations = (np.asarray(states, dtype=np.float64) - self.mean) / self.scale
        return np.sqrt(np.mean(deviations**2, axis=1))

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of (sample, feature) states: (sample,) float64."""
        return (self.distances(states) - self.centre) / self.spread

    @property
    def num_features(self) -> int:
        """Width of the hidden states."""
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """The object `scorer` of `probe.json`; null stands for an infinite scale."""
        return {
            "kind": self.kind,
            "mean": self.mean.tolist(),
            "scale": [value if np.isfinite(value) else None for value in self.scale.tolist()],
            "centre": self.centre,
            "spread": self.spread,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        scale = np.array(
            [
                np.inf if value is None else fields.number(value, "scale")
                for value in fields.items(content["scale"], "scale")
            ]
        )
        mean = vector(content, "mean")
        if scale.shape != mean.shape:
            raise ValueError(f"mean has {len(mean)} numbers, scale {len(scale)}")
        centre, spread = (fields.number(content[name], name) for name in ("centre", "spread"))
        if not (scale > 0).all() or not spread > 0:
            raise ValueError("scale and spread have to be above 0")
        return cls(mean, scale, centre, spread)
