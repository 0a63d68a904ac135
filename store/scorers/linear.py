"""What the linear scorers share: weight and bias, and standardising while they are fitted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hiprobe.store import fields
from hiprobe.store.scorers.base import Scorer, vector

# A standard deviation below this share of the mean is rounding: the dimension does not vary.
CONSTANT_SHARE = 1e-9


@dataclass(frozen=True)
class LinearScorer(Scorer):
    r"""Linear in the hidden state: log odds :math:`w^T h + b` (eq. 9).

    Attributes
    ----------
    weight : (feature,) float64
        For raw hidden states.
    bias : float
    l2 : float
        The penalty it was fitted with.
    num_iterations : int
    """

    weight: np.ndarray
    bias: float
    l2: float
    num_iterations: int

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of (sample, feature) states: (sample,) float64."""
        return np.asarray(states, dtype=np.float64) @ self.weight + self.bias

    @property
    def num_features(self) -> int:
        """Width of the hidden states."""
        return len(self.weight)

    def to_json(self) -> dict[str, Any]:
        """The object `scorer` of `probe.json`."""
        return {
            "kind": self.kind,
            "weight": self.weight.tolist(),
            "bias": self.bias,
            "l2": self.l2,
            "num_iterations": self.num_iterations,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        weight = vector(content, "weight")
        bias, l2 = (fields.number(content[name], name) for name in ("bias", "l2"))
        return cls(weight, bias, l2, content["num_iterations"])

    @classmethod
    def of_standardised(
        cls, model: Any, states: np.ndarray, is_anomalous: np.ndarray, l2: float
    ) -> Self:
        """Fit a linear model of scikit-learn on standardised features, folded back afterwards.

        Standardising is a preconditioner: the result reads raw states. A dimension that does not
        vary gets weight 0.
        """
        from sklearn.exceptions import ConvergenceWarning

        states = np.asarray(states, dtype=np.float64)
        mean, scale = states.mean(axis=0), states.std(axis=0)
        varies = scale > CONSTANT_SHARE * np.abs(mean)
        scale = np.where(varies, scale, 1.0)
        standardised = np.where(varies, (states - mean) / scale, 0.0)
        with warnings.catch_warnings():
            # Reaching the cap is part of the definition; `num_iterations` tells.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(standardised, is_anomalous)
        # w·(h − μ)/σ + b = (w/σ)·h + (b − (w/σ)·μ): the scorer stays eq. 9 on raw states.
        weight = model.coef_[0] / scale
        bias = float(model.intercept_[0] - weight @ mean)
        return cls(weight, bias, l2, int(np.max(model.n_iter_)))
