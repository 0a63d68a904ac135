"""Prototypes of both classes on the unit sphere (SphereVAD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import logsumexp

from hiprobe.store.scorers.base import Scorer, vector
from hiprobe.store.scorers.packed import packed, rounded, unpacked

# As its published code has them.
NUM_NORMAL, NUM_ANOMALOUS = 3, 25
KAPPA = 1 / 0.3
MAX_ROUNDS = 100
# Of the Fréchet mean's last step, in radians.
STEP = 1e-12


@dataclass(frozen=True)
class SphericalScorer(Scorer):
    r"""Log odds of von Mises-Fisher mixtures, after "SphereVAD" (Huang et al. 2026).

    A state x becomes a direction: :math:`u = x / \lVert x\rVert`, seen from the training samples'
    Fréchet mean μ on the sphere, :math:`\tilde u = \mathrm{Log}_\mu(u)`, to unit length (eq. 2).
    States of one layer lie in a narrow cone; that opens it. Each class's samples give prototypes p
    by k-means on the sphere, and the log odds are

    .. math:: \log \mathrm{mean}_{p \in A} e^{\kappa\,p\cdot\tilde u}
        - \log \mathrm{mean}_{p \in N} e^{\kappa\,p\cdot\tilde u}

    The mean in place of the sum, so that more prototypes are no prior. Nothing depends on a state's
    length or on the choice of axes. k-means starts where it starts every time: at the sample that
    is farthest from the mean, and at those farthest from the ones before.

    Attributes
    ----------
    pole : (feature,) float64
        μ, of unit length.
    normal, anomalous : (prototype, feature) float64
        Of unit length; a class of fewer samples has them as they are.
    """

    pole: np.ndarray
    normal: np.ndarray
    anomalous: np.ndarray

    kind: ClassVar[str] = "spherical"
    takes_penalty: ClassVar[bool] = False
    # Few samples are their own prototypes.
    has_fair_spread: ClassVar[bool] = False

    @classmethod
    def fit(cls, states: np.ndarray, is_anomalous: np.ndarray, l2: float = 0.0) -> Self:
        """Learn from (sample, feature) states and (sample,) bool labels; a penalty is none."""
        directions = unit(states)
        pole = frechet_mean(directions)
        centred = _seen_from(pole, directions)
        normal = prototypes(centred[~is_anomalous], NUM_NORMAL)
        anomalous = prototypes(centred[is_anomalous], NUM_ANOMALOUS)
        return cls(pole, rounded(normal), rounded(anomalous))

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of (sample, feature) states: (sample,) float64."""
        centred = _seen_from(self.pole, unit(states))
        of_class = [
            logsumexp(KAPPA * (centred @ own.T), axis=1) - np.log(len(own))
            for own in (self.normal, self.anomalous)
        ]
        return np.asarray(of_class[1] - of_class[0])

    @property
    def num_features(self) -> int:
        """Width of the hidden states."""
        return len(self.pole)

    def to_json(self) -> dict[str, Any]:
        """The object `scorer` of `probe.json`."""
        return {
            "kind": self.kind,
            "pole": self.pole.tolist(),
            "normal": packed(self.normal),
            "anomalous": packed(self.anomalous),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        pole = vector(content, "pole")
        both = [unpacked(content, name, len(pole)) for name in ("normal", "anomalous")]
        if not all(map(len, both)):
            raise ValueError("a class has no prototype")
        return cls(pole, *both)


def unit(states: np.ndarray) -> np.ndarray:
    """Bring rows to unit length; a row of zeros stays: (sample, feature) float64."""
    states = np.asarray(states, dtype=np.float64)
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    return states / np.where(lengths > 0, lengths, 1.0)


def frechet_mean(directions: np.ndarray) -> np.ndarray:
    """The point of the sphere with the least sum of squared angles to (sample, feature) ones."""
    mean = unit(directions.mean(axis=0, keepdims=True))[0]
    for _ in range(MAX_ROUNDS):
        along = directions @ mean
        tangents = directions - along[:, None] * mean
        lengths = np.linalg.norm(tangents, axis=1)
        angles = np.arctan2(lengths, along)
        weights = angles / np.where(lengths > 0, lengths, 1.0)
        step = weights @ tangents / len(directions)
        angle = float(np.linalg.norm(step))
        if angle < STEP:
            break
        mean = np.cos(angle) * mean + np.sin(angle) * step / angle
        mean = mean / np.linalg.norm(mean)
    return mean


def _seen_from(pole: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Directions in which unit vectors lie from the pole: its logarithm's, of unit length."""
    return unit(directions - (directions @ pole)[:, None] * pole)


def prototypes(directions: np.ndarray, number: int) -> np.ndarray:
    """k-means on the sphere: (prototype, feature) of (sample, feature) unit vectors."""
    if len(directions) <= number:
        return directions
    chosen = [int(np.argmin(directions @ directions.mean(axis=0)))]
    nearest = directions @ directions[chosen[0]]
    while len(chosen) < number:
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, directions @ directions[chosen[-1]])
    centres, own = directions[chosen], np.full(len(directions), -1)
    for _ in range(MAX_ROUNDS):
        again = np.argmax(directions @ centres.T, axis=1)
        if (again == own).all():
            break
        own = again
        sums = np.zeros_like(centres)
        np.add.at(sums, own, directions)
        has_any = np.linalg.norm(sums, axis=1) > 0  # others stay where they were
        centres = np.where(has_any[:, None], unit(sums), centres)
    return centres
