"""What every scorer can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from hiprobe.store import fields


def vector(content: Mapping[str, Any], name: str) -> np.ndarray:
    """Read a list of finite numbers of `probe.json`: (feature,) float64."""
    values = fields.items(content[name], name)
    if not values:
        raise ValueError(f"{name} is empty")
    return np.array([fields.number(value, name) for value in values], dtype=np.float64)


class Scorer(ABC):
    """A fitted scorer: log odds of hidden states of one layer.

    Attributes
    ----------
    kind : str
        Its name on the command line and in `probe.json`.
    takes_penalty, needs_penalty : bool
        Whether an L2 strength means anything to it, and whether it may be 0.
    needs_anomalies : bool
        Whether it has to see anomalous samples, or learns the normal class alone.
    has_fair_spread : bool
        Whether the samples that it was fitted on score as others do, so that μ + κσ of their
        scores is a threshold, and the deviation of their log odds a unit.
    num_features : int
        Width of the hidden states that it reads.
    """

    kind: ClassVar[str]
    takes_penalty: ClassVar[bool] = True
    needs_penalty: ClassVar[bool] = False
    needs_anomalies: ClassVar[bool] = True
    has_fair_spread: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def fit(cls, states: np.ndarray, is_anomalous: np.ndarray, l2: float) -> Self:
        """Fit on (sample, feature) states and (sample,) bool labels."""

    @abstractmethod
    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of (sample, feature) states: (sample,) float64."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Width of the hidden states."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The object `scorer` of `probe.json`."""

    @classmethod
    @abstractmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
