"""What the one-class scorers share: they learn the normal class, and need no anomalous sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hiprobe.store import fields
from hiprobe.store.scorers.base import Scorer, vector
from hiprobe.store.scorers.linear import CONSTANT_SHARE

NUM_FOLDS = 5


@dataclass(frozen=True)
class OneClassScorer(Scorer):
    r"""Log odds :math:`\mathrm{arsinh}((d - c) / s)` of a distance d to the normal samples.

    The arsinh grows as the logarithm does. Single segments spread more than the means over videos
    that were learnt from, so one may lie a hundred s away, and the logistic of 40 is 1 already.

    Features are in the normal samples' standard deviations; otherwise a few massive activations
    are all the distance.

    Attributes
    ----------
    mean, scale : (feature,) float64
        Of the normal samples; a dimension that does not vary among them has scale 1 and is left
        out by `standardised`.
    centre, spread : float
        c and s: mean and standard deviation of the distances of normal samples that were held out.
        With fewer samples than features those of the samples learnt from say nothing: they are far
        smaller than any other's.
    """

    mean: np.ndarray
    scale: np.ndarray
    varies: np.ndarray
    centre: float
    spread: float

    takes_penalty: ClassVar[bool] = False
    needs_anomalies: ClassVar[bool] = False
    has_fair_spread: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def learn(cls, normal: np.ndarray) -> dict[str, Any]:
        """Learn the class's own fields from standardised (sample, feature) normal samples."""

    @abstractmethod
    def distances(self, standardised: np.ndarray) -> np.ndarray:
        """Distances of standardised (sample, feature) states: (sample,) float64 >= 0."""

    @classmethod
    def fit(cls, states: np.ndarray, is_anomalous: np.ndarray, l2: float = 0.0) -> Self:
        """Learn the normal samples; anomalous ones, and a penalty, do not count."""
        normal = np.asarray(states, dtype=np.float64)[~is_anomalous]
        held_out = cls._held_out_distances(normal)
        centre, spread = float(held_out.mean()), float(held_out.std())
        # One sample has no deviation, and two are equally far from each other, but for rounding.
        return cls._of(normal, centre, spread if spread > CONSTANT_SHARE * centre else 1.0)

    @classmethod
    def _of(cls, normal: np.ndarray, centre: float = 0.0, spread: float = 1.0) -> Self:
        mean, scale = normal.mean(axis=0), normal.std(axis=0)
        varies = scale > CONSTANT_SHARE * np.abs(mean)
        scale = np.where(varies, scale, 1.0)
        own = cls.learn(np.where(varies, (normal - mean) / scale, 0.0))
        return cls(mean=mean, scale=scale, varies=varies, centre=centre, spread=spread, **own)

    @classmethod
    def _held_out_distances(cls, normal: np.ndarray) -> np.ndarray:
        """Distances of each fifth to the others: (sample,) float64.

        Samples are held out in their order: those of a video lie side by side, and are alike.
        """
        distances = []
        rows = np.arange(len(normal))
        for held_out in np.array_split(rows, min(NUM_FOLDS, len(rows))):
            kept = np.delete(rows, held_out)
            # A single sample has nothing but itself to be measured by.
            one = cls._of(normal[kept] if len(kept) else normal)
            distances.append(one.distances(one.standardised(normal[held_out])))
        return np.concatenate(distances)

    def standardised(self, states: np.ndarray) -> np.ndarray:
        """Bring raw (sample, feature) states to the normal samples' units."""
        states = np.asarray(states, dtype=np.float64)
        return np.where(self.varies, (states - self.mean) / self.scale, 0.0)

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of (sample, feature) states: (sample,) float64."""
        return np.arcsinh((self.distances(self.standardised(states)) - self.centre) / self.spread)

    @property
    def num_features(self) -> int:
        """Width of the hidden states."""
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """The object `scorer` of `probe.json`; null stands for a dimension that does not vary."""
        scale = [
            value if varies else None
            for value, varies in zip(self.scale.tolist(), self.varies.tolist(), strict=True)
        ]
        return {
            "kind": self.kind,
            "mean": self.mean.tolist(),
            "scale": scale,
            "centre": self.centre,
            "spread": self.spread,
        }

    @classmethod
    def common_of_json(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """Read the fields that all have."""
        mean = vector(content, "mean")
        listed = fields.items(content["scale"], "scale")
        scale = np.array(
            [1.0 if value is None else fields.number(value, "scale") for value in listed]
        )
        if len(scale) != len(mean):
            raise ValueError(f"mean has {len(mean)} numbers, scale {len(scale)}")
        centre, spread = (fields.number(content[name], name) for name in ("centre", "spread"))
        if not (scale > 0).all() or not spread > 0:
            raise ValueError("scale and spread have to be above 0")
        varies = np.array([value is not None for value in listed])
        return {"mean": mean, "scale": scale, "varies": varies, "centre": centre, "spread": spread}
