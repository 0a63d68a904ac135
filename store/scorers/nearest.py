"""The distance to the nearest normal samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hiprobe.store import fields
from hiprobe.store.scorers.one_class import OneClassScorer
from hiprobe.store.scorers.packed import packed, rounded, unpacked

NUM_NEIGHBOURS = 5
# Of 3,584 features these take 10 MB a layer; more normal samples are thinned out evenly.
MAX_KEPT = 512


@dataclass(frozen=True)
class NearestScorer(OneClassScorer):
    """Mean distance to the k nearest normal samples, over the root of the number of features.

    Attributes
    ----------
    kept : (sample, feature) float64
        Standardised normal samples, at most `MAX_KEPT`, evenly spaced in their order.
    num_neighbours : int
        k, 5 or as many as there are.
    """

    kept: np.ndarray
    num_neighbours: int

    kind: ClassVar[str] = "nearest"

    @classmethod
    def learn(cls, normal: np.ndarray) -> dict[str, Any]:
        """Keep the samples."""
        rows = np.linspace(0, len(normal) - 1, min(MAX_KEPT, len(normal))).round().astype(int)
        return {"kept": rounded(normal[rows]), "num_neighbours": min(NUM_NEIGHBOURS, len(rows))}

    def distances(self, standardised: np.ndarray) -> np.ndarray:
        """Distances of standardised (sample, feature) states: (sample,) float64 >= 0."""
        from scipy.spatial.distance import cdist

        all_distances = cdist(standardised, self.kept)
        nearest = np.partition(all_distances, self.num_neighbours - 1, axis=1)
        mean = nearest[:, : self.num_neighbours].mean(axis=1)
        return mean / np.sqrt(standardised.shape[1])

    def to_json(self) -> dict[str, Any]:
        """The object `scorer` of `probe.json`."""
        return super().to_json() | {
            "kept": packed(self.kept),
            "num_neighbours": self.num_neighbours,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        common = cls.common_of_json(content)
        kept = unpacked(content, "kept", len(common["mean"]))
        number = fields.whole(content["num_neighbours"], "num_neighbours")
        if not 1 <= number <= len(kept):
            raise ValueError(f"num_neighbours is {number}, of {len(kept)} samples")
        return cls(**common, kept=kept, num_neighbours=number)
