"""The Mahalanobis distance to the normal class, its covariance shrunk by Ledoit and Wolf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hiprobe.store import fields
from hiprobe.store.scorers.base import vector
from hiprobe.store.scorers.one_class import OneClassScorer
from hiprobe.store.scorers.packed import packed, rounded, unpacked

# Of 3,584 features these take 2.4 MB a layer.
MAX_DIRECTIONS = 128
# Two samples show no error of their covariance: nothing would be shrunk, and it has no inverse.
MIN_SHRINKAGE = 1e-3


@dataclass(frozen=True)
class MahalanobisScorer(OneClassScorer):
    r"""Distance :math:`d = \sqrt{z^T \Sigma^{-1} z / D}` of standardised states z of D features.

    :math:`\Sigma = (1 - \rho) S + \rho\,\mathrm{tr}(S)/D \cdot I`, S the normal samples'
    covariance, ρ by Ledoit and Wolf (2004), but at least `MIN_SHRINKAGE`: with fewer samples than
    features S has no inverse. Σ is kept as its first `MAX_DIRECTIONS` eigenvectors, and one
    variance for all other directions: exact up to 129 normal samples, beyond that the mean of what
    is left.

    Attributes
    ----------
    directions : (direction, feature) float64
        Orthonormal eigenvectors of Σ.
    variances : (direction,) float64 > 0
    other_variance : float > 0
        Of every direction at right angles to them.
    """

    directions: np.ndarray
    variances: np.ndarray
    other_variance: float

    kind: ClassVar[str] = "mahalanobis"

    @classmethod
    def learn(cls, normal: np.ndarray) -> dict[str, Any]:
        """Estimate Σ; `normal` is centred already."""
        from sklearn.covariance import ledoit_wolf_shrinkage

        num_samples, num_features = normal.shape
        total = float((normal**2).sum()) / num_samples
        if total == 0:  # one sample, or identical ones: every deviation counts alike
            nothing = np.empty((0, num_features))
            return {"directions": nothing, "variances": np.empty(0), "other_variance": 1.0}
        estimated = float(ledoit_wolf_shrinkage(normal, assume_centered=True))
        shrinkage = max(estimated, MIN_SHRINKAGE)
        directions, variances = _principal(normal)
        num_others = max(1, num_features - len(variances))
        others = max(0.0, total - float(variances.sum())) / num_others
        target = shrinkage * total / num_features
        return {
            "directions": rounded(directions),
            "variances": (1 - shrinkage) * variances + target,
            "other_variance": (1 - shrinkage) * others + target,
        }

    def distances(self, standardised: np.ndarray) -> np.ndarray:
        """Distances of standardised (sample, feature) states: (sample,) float64 >= 0."""
        along = standardised @ self.directions.T
        rest = np.maximum(0.0, (standardised**2).sum(axis=1) - (along**2).sum(axis=1))
        squares = (along**2 / self.variances).sum(axis=1) + rest / self.other_variance
        return np.sqrt(squares / standardised.shape[1])

    def to_json(self) -> dict[str, Any]:
        """The object `scorer` of `probe.json`."""
        return super().to_json() | {
            "directions": packed(self.directions),
            "variances": self.variances.tolist(),
            "other_variance": self.other_variance,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        common = cls.common_of_json(content)
        directions = unpacked(content, "directions", len(common["mean"]))
        variances = vector(content, "variances") if len(directions) else np.empty(0)
        other = fields.number(content["other_variance"], "other_variance")
        if len(variances) != len(directions):
            raise ValueError(f"{len(directions)} directions have {len(variances)} variances")
        if not (variances > 0).all() or not other > 0:
            raise ValueError("variances have to be above 0")
        return cls(**common, directions=directions, variances=variances, other_variance=other)


def _principal(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal directions of centred samples, and the variances along them, by the smaller Gram.

    Returns
    -------
    directions : (direction, feature) float64
    variances : (direction,) float64 > 0
    """
    from scipy.linalg import eigh

    num_samples, num_features = centred.shape
    wide = num_samples < num_features
    gram = (centred @ centred.T if wide else centred.T @ centred) / num_samples
    size = len(gram)
    values, vectors = eigh(gram, subset_by_index=[max(0, size - MAX_DIRECTIONS), size - 1])
    # Rounding leaves tiny values where the rank ends; they have no direction of their own.
    is_real = values > 1e-10 * values[-1]
    values, vectors = values[is_real], vectors[:, is_real]
    if not wide:
        return vectors.T, values
    return (centred.T @ (vectors / np.sqrt(num_samples * values))).T, values
