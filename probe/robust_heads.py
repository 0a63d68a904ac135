"""Which attention heads tell anomalies from the normal, whatever the prompt (HeadHunt-VAD).

After "HeadHunt-VAD: Hunting Robust Anomaly-Sensitive Heads in MLLM for Tuning-Free Video Anomaly
Detection" (AAAI 2026). All heads of a layer are judged at once; from a loop over heads with
scikit-learn's and SciPy's functions the numbers differ by rounding only (``tests/probe``), but for
the 2-means, which begin here where they begin every time: at the two samples that are farthest
from the mean and from each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

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
    if len(prompts) < 2:
        raise ValueError(f"robust heads need at least 2 prompts, got {len(prompts)}")
    counts = np.bincount(is_anomalous.astype(int), minlength=2)
    if counts.min() < 2:
        raise ValueError(
            f"robust heads need at least 2 samples of either class, got {counts[0]} normal and "
            f"{counts[1]} anomalous"
        )
    criteria = np.stack(
        [
            np.stack([head_criteria(read(prompt, layer), is_anomalous) for layer in layers])
            for prompt in prompts
        ]
    )
    saliency = _scaled(criteria).mean(axis=-1)
    robustness = saliency.mean(axis=0) - penalty * saliency.std(axis=0)
    return HeadSaliency(tuple(layers), criteria, saliency, robustness)


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
    by_head = np.ascontiguousarray(states.transpose(1, 0, 2), dtype=np.float64)
    normal, anomalous = by_head[:, ~is_anomalous], by_head[:, is_anomalous]
    difference = anomalous.mean(axis=1) - normal.mean(axis=1)
    squared = _squared_distances(by_head)
    return np.stack(
        [
            _lda(normal, anomalous, difference),
            _kl_divergence(normal, anomalous, difference),
            _mmd(squared, is_anomalous),
            _nmi(_two_means(squared), is_anomalous),
        ],
        axis=-1,
    )


def _scatter(samples: np.ndarray) -> np.ndarray:
    """(head, sample, feature) → (head, feature, feature): sums of products around the mean."""
    centred = samples - samples.mean(axis=1, keepdims=True)
    return centred.transpose(0, 2, 1) @ centred


def _quadratic(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Each head's ``vᵀ M v``."""
    return np.einsum("hi,hij,hj->h", vector, matrix, vector, optimize=True)


def _lda(normal: np.ndarray, anomalous: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Fisher's criterion along ``w = (S_w + 10⁻⁶ I)⁺ Δ``: ``(wᵀΔ)² / (wᵀ S_w w)``."""
    within = _scatter(normal) + _scatter(anomalous)
    ridged = within + RIDGE * np.eye(within.shape[-1])
    direction = np.linalg.solve(ridged, difference[..., None])[..., 0]
    between = np.einsum("hi,hi->h", direction, difference) ** 2
    along = _quadratic(within, direction)
    return np.divide(between, along, out=np.zeros_like(between), where=along > 0)


def _ledoit_wolf(samples: np.ndarray) -> np.ndarray:
    """Covariances shrunk as `sklearn.covariance.ledoit_wolf` does, of all heads at once."""
    _, num_samples, num_features = samples.shape
    centred = samples - samples.mean(axis=1, keepdims=True)
    covariance = centred.transpose(0, 2, 1) @ centred / num_samples
    mean_variance = np.trace(covariance, axis1=1, axis2=2) / num_features
    fourth = ((centred**2).sum(axis=2) ** 2).sum(axis=1)
    total = (covariance**2).sum(axis=(1, 2))
    beta = (fourth / num_samples - total) / (num_features * num_samples)
    delta = total / num_features - mean_variance**2
    shrinkage = np.divide(
        np.minimum(beta, delta), delta, out=np.zeros_like(delta), where=delta > 0
    )[:, None, None]
    target = mean_variance[:, None, None] * np.eye(num_features)
    return (1 - shrinkage) * covariance + shrinkage * target


def _kl_divergence(normal: np.ndarray, anomalous: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """``KL(N‖A) + KL(A‖N)`` of Gaussians with Ledoit–Wolf covariances; 0 of what is constant."""
    first, second = _ledoit_wolf(normal), _ledoit_wolf(anomalous)
    num_features = first.shape[-1]
    # A head that gives one and the same vector has a covariance of 0 and no inverse.
    varies = np.minimum(*(np.trace(one, axis1=1, axis2=2) for one in (first, second))) > 0
    result = np.zeros(len(first))
    first, second, difference = first[varies], second[varies], difference[varies]
    inverses = np.linalg.inv(first), np.linalg.inv(second)
    traces = np.einsum("hij,hji->h", inverses[1], first) + np.einsum(
        "hij,hji->h", inverses[0], second
    )
    distances = _quadratic(inverses[0] + inverses[1], difference)
    result[varies] = 0.5 * (traces - 2 * num_features + distances)
    return result


def _squared_distances(samples: np.ndarray) -> np.ndarray:
    """(head, sample, feature) → (head, sample, sample)."""
    # Around their mean: what is large and alike would cost digits.
    centred = samples - samples.mean(axis=1, keepdims=True)
    products = centred @ centred.transpose(0, 2, 1)
    norms = np.einsum("hii->hi", products)
    squared = norms[:, :, None] + norms[:, None, :] - 2 * products
    np.maximum(squared, 0, out=squared)
    np.einsum("hii->hi", squared)[:] = 0
    return squared


def _mmd(squared: np.ndarray, is_anomalous: np.ndarray) -> np.ndarray:
    """Squared maximum mean discrepancy, RBF kernel with γ = 1 / (2 · median squared distance)."""
    upper = np.triu_indices(squared.shape[1], 1)
    median = np.median(squared[:, *upper], axis=1)
    safe = np.where(median > 0, median, 1.0)
    kernel = np.exp(squared / (-2 * safe[:, None, None]))
    weights = np.where(is_anomalous, 1 / is_anomalous.sum(), -1 / (~is_anomalous).sum())
    found = np.einsum("i,hij,j->h", weights, kernel, weights, optimize=True)
    return np.where(median > 0, found, 0.0)


def _two_means(squared: np.ndarray) -> np.ndarray:
    """Lloyd's algorithm for two clusters, of all heads at once, from distances alone.

    Returns
    -------
    (head, sample) bool
        Whether a sample is in the second cluster.
    """
    heads = np.arange(len(squared))
    # Farthest from the mean, and farthest from that one.
    first = squared.mean(axis=2).argmax(axis=1)
    second = squared[heads, first].argmax(axis=1)
    is_second = squared[heads, second] < squared[heads, first]
    for _ in range(MAX_ROUNDS):
        weights = np.stack([~is_second, is_second], axis=2).astype(float)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1)
        # ‖x − mean‖² = mean of ‖x − y‖² over the cluster − half the mean of ‖y − z‖² within it.
        to_members = squared @ weights
        within = np.einsum("hsc,hsc->hc", weights, to_members) / 2
        distances = to_members - within[:, None, :]
        again = distances[..., 1] < distances[..., 0]
        if (again == is_second).all():
            break
        is_second = again
    return is_second


def _nmi(is_second: np.ndarray, is_anomalous: np.ndarray) -> np.ndarray:
    """Normalised mutual information of clusters and labels, by the entropies' mean."""
    joint = np.stack(
        [
            np.stack([(own & is_class).mean(axis=1) for is_class in (~is_anomalous, is_anomalous)])
            for own in (~is_second, is_second)
        ]
    )
    clusters, labels = joint.sum(axis=1), joint.sum(axis=0)
    mutual = _entropy(clusters) + _entropy(labels) - _entropy(joint.reshape(4, -1))
    mean = (_entropy(clusters) + _entropy(labels)) / 2
    return np.divide(np.maximum(mutual, 0), mean, out=np.zeros_like(mean), where=mutual > 1e-12)


def _entropy(shares: np.ndarray) -> np.ndarray:
    """(outcome, head) → (head,), in nats."""
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logarithms).sum(axis=0)


def side_by_side(
    read: Callable[[str, int], np.ndarray], prompt: str, heads: Iterable[tuple[int, int]]
) -> np.ndarray:
    """Put chosen heads' vectors side by side: (sample, features of all of them) float32."""
    chosen = [*heads]
    by_layer = {layer: read(prompt, layer) for layer in {layer for layer, _ in chosen}}
    return np.concatenate([by_layer[layer][:, head] for layer, head in chosen], axis=1)
