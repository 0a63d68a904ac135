"""Which attention heads tell anomalies from the normal, whatever the prompt (HeadHunt-VAD).

After "HeadHunt-VAD: Hunting Robust Anomaly-Sensitive Heads in MLLM for Tuning-Free Video Anomaly
Detection" (AAAI 2026). Each head is judged by itself, in the processor's cache, and what criteria
have in common is computed once; from a loop with scikit-learn's and SciPy's functions the numbers
differ by rounding only (``tests/probe``), but for the 2-means, which begin here where they begin
every time: at the two samples that are farthest from the mean and from each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

CRITERIA = ("lda", "kl_divergence", "mmd", "nmi")
NUM_HEADS, PENALTY = 5, 0.5
RIDGE = 1e-6
MAX_ROUNDS = 100


@dataclass(frozen=True)
class HeadSaliency:
    """How well each head tells the classes apart.

    Attributes
    ----------
    layers : tuple of int
    criteria : (prompt, layer, head, criterion) float64
        In the order of `CRITERIA`, as they are.
    saliency : (prompt, layer, head) float64
        Mean of the criteria, each scaled to 0 … 1 over all heads of the prompt.
    robustness : (layer, head) float64
        Mean over prompts less `PENALTY` standard deviations.
    """

    layers: tuple[int, ...]
    criteria: np.ndarray
    saliency: np.ndarray
    robustness: np.ndarray

    def best(self, num_heads: int = NUM_HEADS) -> list[tuple[int, int]]:
        """(layer, head) of the most robust ones, the best first; of equals the lower."""
        order = np.argsort(-self.robustness, axis=None, kind="stable")[:num_heads]
        rows, heads = np.unravel_index(order, self.robustness.shape)
        return [(self.layers[row], int(head)) for row, head in zip(rows, heads, strict=True)]


def judge_heads(
    read: Callable[[str, int], np.ndarray],
    prompts: Sequence[str],
    layers: Sequence[int],
    is_anomalous: np.ndarray,
    penalty: float = PENALTY,
) -> HeadSaliency:
    """Judge all heads of all layers under all prompts, a layer in memory at a time.

    Parameters
    ----------
    read : callable
        Gives (sample, head, feature) float of a prompt and a layer.
    prompts : sequence of str
        At least two: one says nothing about robustness.
    layers : sequence of int
    is_anomalous : (sample,) bool
        At least two samples of either class.
    penalty : float
        λ: of the standard deviation over prompts.

    Raises
    ------
    ValueError
        Fewer prompts or samples.
    """
    whole = np.ones(len(is_anomalous), dtype=bool)
    (found,) = judge_draws(read, prompts, layers, is_anomalous, [whole], penalty)
    return found


def judge_draws(
    read: Callable[[str, int], np.ndarray],
    prompts: Sequence[str],
    layers: Sequence[int],
    is_anomalous: np.ndarray,
    draws: Sequence[np.ndarray],
    penalty: float = PENALTY,
) -> list[HeadSaliency]:
    """Judge all heads on each of some draws of the samples, (sample,) bool; see `judge_heads`.

    Each layer of each prompt is read once for all draws.
    """
    if len(prompts) < 2:
        raise ValueError(f"robust heads need at least 2 prompts, got {len(prompts)}")
    for own in draws:
        _check_counts(is_anomalous[own])

    def of_draws(states: np.ndarray) -> np.ndarray:
        return np.stack([head_criteria(states[own], is_anomalous[own]) for own in draws])

    criteria = np.stack([[of_draws(read(prompt, layer)) for layer in layers] for prompt in prompts])
    found = []
    for own in np.moveaxis(criteria, 2, 0):
        saliency = _scaled(own).mean(axis=-1)
        robustness = saliency.mean(axis=0) - penalty * saliency.std(axis=0)
        found.append(HeadSaliency(tuple(layers), own, saliency, robustness))
    return found


def _check_counts(is_anomalous: np.ndarray) -> None:
    counts = np.bincount(is_anomalous.astype(int), minlength=2)
    if counts.min() < 2:
        raise ValueError(
            f"robust heads need at least 2 samples of either class, got {counts[0]} normal and "
            f"{counts[1]} anomalous"
        )


def _scaled(criteria: np.ndarray) -> np.ndarray:
    """Scale each criterion to 0 … 1 over all heads of a prompt; one that is constant to 0."""
    least = criteria.min(axis=(1, 2), keepdims=True)
    spread = criteria.max(axis=(1, 2), keepdims=True) - least
    return np.divide(criteria - least, spread, out=np.zeros_like(criteria), where=spread > 0)


def head_criteria(states: np.ndarray, is_anomalous: np.ndarray) -> np.ndarray:
    """Judge the heads of one layer.

    Parameters
    ----------
    states : (sample, head, feature) float
    is_anomalous : (sample,) bool

    Returns
    -------
    (head, criterion) float64
        `CRITERIA`.
    """
    pairs = _Pairs.of(is_anomalous)

    def judge(head: int) -> list[float]:
        return _criteria(states[:, head], is_anomalous, pairs)

    # Matrices as small as a head's gain nothing by BLAS's threads; heads beside each other do.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.array(list(pool.map(judge, range(states.shape[1]))))


@dataclass(frozen=True)
class _Pairs:
    """Pairs of different samples: the same for all heads.

    Attributes
    ----------
    first, second : (pair,) int
    flat : (pair,) int
        Where they are in a flat matrix of samples.
    weights : (pair,) float64
        With which a kernel counts in the mean discrepancy, and `of_same` that of a sample with
        itself.
    """

    first: np.ndarray
    second: np.ndarray
    flat: np.ndarray
    weights: np.ndarray
    of_same: float

    @classmethod
    def of(cls, is_anomalous: np.ndarray) -> _Pairs:
        first, second = np.triu_indices(len(is_anomalous), 1)
        own = np.where(is_anomalous, 1 / is_anomalous.sum(), -1 / (~is_anomalous).sum())
        flat = first * len(own) + second
        return cls(first, second, flat, 2 * own[first] * own[second], float((own**2).sum()))

    def squared_distances(self, gram: np.ndarray) -> np.ndarray:
        """Of all pairs, by (sample, sample) products: (pair,) float64."""
        norms = np.diagonal(gram)
        squared = norms[self.first]
        squared += norms[self.second]
        squared -= 2 * gram.ravel()[self.flat]
        return np.maximum(squared, 0, out=squared)


def _criteria(states: np.ndarray, is_anomalous: np.ndarray, pairs: _Pairs) -> list[float]:
    """Judge one head, by (sample, feature) states: what it takes stays in the processor's cache."""
    own = np.asarray(states, dtype=np.float64)
    # Around their mean: what is large and alike would cost digits.
    own = own - own.mean(axis=0)
    classes = [own[~is_anomalous], own[is_anomalous]]
    means = [one.mean(axis=0) for one in classes]
    centred = [one - mean for one, mean in zip(classes, means, strict=True)]
    scatters = [one.T @ one for one in centred]
    difference = means[1] - means[0]
    gram = own @ own.T
    return [
        _lda(scatters[0] + scatters[1], difference),
        _kl_divergence([*map(_ledoit_wolf, centred, scatters)], difference),
        _mmd(pairs.squared_distances(gram), pairs),
        _nmi(_two_means(gram), is_anomalous),
    ]


def _lda(within: np.ndarray, difference: np.ndarray) -> float:
    """Fisher's criterion along ``w = (S_w + 10⁻⁶ I)⁺ Δ``: ``(wᵀΔ)² / (wᵀ S_w w)``."""
    direction = np.linalg.solve(within + RIDGE * np.eye(len(within)), difference)
    along = float(direction @ within @ direction)
    return float(direction @ difference) ** 2 / along if along > 0 else 0.0


def _ledoit_wolf(centred: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """The covariance, shrunk as `sklearn.covariance.ledoit_wolf` does."""
    num_samples, num_features = centred.shape
    covariance = scatter / num_samples
    mean_variance = float(np.trace(covariance)) / num_features
    total = float(np.vdot(covariance, covariance))
    fourth = float((np.einsum("ij,ij->i", centred, centred) ** 2).sum())
    beta = (fourth / num_samples - total) / (num_features * num_samples)
    delta = total / num_features - mean_variance**2
    shrinkage = min(beta, delta) / delta if delta > 0 else 0.0
    covariance *= 1 - shrinkage
    covariance.flat[:: num_features + 1] += shrinkage * mean_variance
    return covariance


def _kl_divergence(covariances: list[np.ndarray], difference: np.ndarray) -> float:
    """``KL(N‖A) + KL(A‖N)`` of Gaussians with Ledoit–Wolf covariances; 0 of what is constant."""
    # A head that gives one and the same vector has a covariance of 0 and no inverse.
    if min(map(np.trace, covariances)) <= 0:
        return 0.0
    total = -2.0 * len(difference)
    for one, other in (covariances, covariances[::-1]):
        lower = _lower_inverse(one)
        # Both are symmetric: what lies below the diagonal counts twice.
        diagonal = np.diagonal(lower)
        total += 2 * np.vdot(lower.T, other) - diagonal @ np.diagonal(other)
        total += 2 * (difference @ lower @ difference) - diagonal @ difference**2
    return float(0.5 * total)


def _lower_inverse(covariance: np.ndarray) -> np.ndarray:
    """Invert a positive definite matrix, or what rounding has made of it; 0 above the diagonal."""
    factor, failed = lapack.dpotrf(covariance, lower=True)
    if failed:
        return np.tril(np.linalg.pinv(covariance, hermitian=True))
    return lapack.dpotri(factor, lower=True)[0]


def _mmd(squared: np.ndarray, pairs: _Pairs) -> float:
    """Squared maximum mean discrepancy, RBF kernel with γ = 1 / (2 · median squared distance)."""
    median = float(np.median(squared))
    if not median > 0:
        return 0.0
    return float(np.exp(squared / (-2 * median)) @ pairs.weights) + pairs.of_same


def _two_means(gram: np.ndarray) -> np.ndarray:
    """Lloyd's algorithm for two clusters, from products of centred samples alone.

    Returns
    -------
    (sample,) bool
        Whether a sample is in the second cluster.
    """
    norms = np.diagonal(gram)
    # Farthest from the mean, and farthest from that one.
    first = int(norms.argmax())
    second = int((norms - 2 * gram[first]).argmax())
    is_second = norms[second] - 2 * gram[second] < norms[first] - 2 * gram[first]
    for _ in range(MAX_ROUNDS):
        weights = np.stack([~is_second, is_second]).astype(float)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1)
        # ‖x − m‖² = ‖x‖² − 2 x·m + ‖m‖², and ‖x‖² is the same for both means.
        products = weights @ gram
        squares = np.einsum("cs,cs->c", weights, products)
        again = squares[1] - 2 * products[1] < squares[0] - 2 * products[0]
        if (again == is_second).all():
            break
        is_second = again
    return is_second


def _nmi(is_second: np.ndarray, is_anomalous: np.ndarray) -> float:
    """Normalised mutual information of clusters and labels, by the entropies' mean."""
    joint = np.bincount(2 * is_second + is_anomalous, minlength=4).reshape(2, 2) / len(is_second)
    clusters, labels = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
    mutual = clusters + labels - _entropy(joint.ravel())
    return mutual / ((clusters + labels) / 2) if mutual > 1e-12 else 0.0


def _entropy(shares: np.ndarray) -> float:
    """In nats."""
    some = shares[shares > 0]
    return -float(some @ np.log(some))
