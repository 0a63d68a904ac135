r"""Dynamic Layer Saliency Probing (DLSP): which layer tells normal and anomalous apart best.

Sections 3.1.1 and 4.1.1 of the paper. All of it is plain numpy in float64 on one layer at a
time.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

METRICS = ("kl_divergence", "ldr", "entropy")
DEFAULT_BINS = 50
EPSILON = 1e-6
# Averages of equal float32 values differ by rounding; a range below this share is no range.
CONSTANT_RANGE = 1e-9
# Distance to a bin's edge, in bins, below which rounding may count.
NEAR_EDGE = 1e-6
# Values of a block of features: it stays in the processor's cache.
BLOCK_VALUES = 2**18
# Rows are read in pieces of so many features, which are contiguous.
GATHERED_FEATURES = 64
MIN_PARALLEL_VALUES = 1_000_000


@dataclass(frozen=True)
class LayerStatistics:
    """The three saliency metrics of one layer, each the mean over its dimensions.

    Attributes
    ----------
    kl_divergence : float
        Nats, eq. 2.
    ldr : float
        Local discriminant ratio, eq. 4.
    entropy : float
        Bits, eq. 6 (of section 3.1.1).
    """

    kl_divergence: float
    ldr: float
    entropy: float


@dataclass(frozen=True)
class Saliency:
    """DLSP's result over layers.

    Attributes
    ----------
    z_scores : dict of str to dict of int to float
        Each metric normalised over layers 1 … L, by layer; layer 0 has none.
    saliency : dict of int to float
        Their sum, by layer.
    layer : int
        The most salient layer l*, at least 1; ties go to the lowest.
    """

    z_scores: dict[str, dict[int, float]]
    saliency: dict[int, float]
    layer: int


@dataclass(frozen=True)
class _ClassMoments:
    """Per dimension: both variances, the means' gap, variance over both, is it constant in both."""

    variance_n: np.ndarray
    variance_a: np.ndarray
    gap: np.ndarray
    joint_variance: np.ndarray
    constant: np.ndarray


def layer_statistics(
    states: np.ndarray, is_anomalous: np.ndarray, num_bins: int = DEFAULT_BINS
) -> LayerStatistics:
    """Compute one layer's metrics.

    Parameters
    ----------
    states : (sample, feature) float
    is_anomalous : (sample,) bool
    num_bins : int
        B of the entropy's histogram.
    """
    order = np.argsort(is_anomalous, kind="stable")
    num_normal = int(np.count_nonzero(~is_anomalous))
    width = max(1, BLOCK_VALUES // len(states))
    gathered = max(GATHERED_FEATURES, width)

    def measure(first: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        # A dimension's samples, and of these each class's, lie side by side in memory.
        rows = states[order, first : first + gathered].T
        values = np.ascontiguousarray(rows, dtype=np.float64).T
        parts = []
        for start in range(0, values.shape[1], width):
            block = values[:, start : start + width]
            moments = _class_moments(block[:num_normal], block[num_normal:])
            parts.append(
                (_kl_divergence(moments), _discriminant_ratio(moments), entropy(block, num_bins))
            )
        return parts

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        # A pool costs more than a few-shot subset.
        run = pool.map if states.size > MIN_PARALLEL_VALUES else map
        groups = run(measure, range(0, states.shape[1], gathered))
        parts = list(itertools.chain.from_iterable(groups))
    kl, ldr, bits = (np.concatenate(values) for values in zip(*parts, strict=True))
    return LayerStatistics(float(kl.mean()), float(ldr.mean()), float(bits.mean()))


def kl_divergence(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    r"""Gaussian KL divergence KL(N‖A) of each dimension, eq. 1.

    .. math:: \tfrac12\left[\log\frac{\sigma_A^2}{\sigma_N^2}
              + \frac{\sigma_N^2 + (\mu_N-\mu_A)^2}{\sigma_A^2} - 1\right]

    Parameters
    ----------
    normal, anomalous : (sample, feature) float64

    Returns
    -------
    (feature,) float64 >= 0

    Notes
    -----
    Population variances, floored at `EPSILON` times the dimension's variance over both classes
    together; a dimension that is constant in both classes contributes 0.
    """
    return _kl_divergence(_class_moments(normal, anomalous))


def _kl_divergence(moments: _ClassMoments) -> np.ndarray:
    floor = np.where(moments.constant, 1.0, EPSILON * moments.joint_variance)
    variance_n = np.maximum(moments.variance_n, floor)
    variance_a = np.maximum(moments.variance_a, floor)
    squares = variance_n + moments.gap**2
    divergence = 0.5 * (np.log(variance_a / variance_n) + squares / variance_a - 1.0)
    return np.where(moments.constant, 0.0, divergence)


def local_discriminant_ratio(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    r"""Local discriminant ratio of each dimension, eq. 3.

    .. math:: \frac{(\mu_N-\mu_A)^2}{\sigma_N^2 + \sigma_A^2 + \epsilon}

    Notes
    -----
    :math:`\epsilon` is `EPSILON` times the dimension's variance over both classes together, so
    that the ratio does not depend on the dimension's unit; a dimension that is constant in both
    classes contributes 0.
    """
    return _discriminant_ratio(_class_moments(normal, anomalous))


def _discriminant_ratio(moments: _ClassMoments) -> np.ndarray:
    spread = moments.variance_n + moments.variance_a + EPSILON * moments.joint_variance
    return np.where(moments.constant, 0.0, moments.gap**2 / np.where(moments.constant, 1.0, spread))


def entropy(states: np.ndarray, num_bins: int = DEFAULT_BINS) -> np.ndarray:
    r"""Entropy in bits of each dimension's histogram, eq. 5 (of section 3.1.1).

    .. math:: H = -\sum_{j=1}^{B} p_j \log_2 p_j

    Parameters
    ----------
    states : (sample, feature) float64
    num_bins : int
        B equal-width bins between the dimension's own minimum and maximum; as in
        `numpy.histogram`, the last bin holds its right edge.

    Returns
    -------
    (feature,) float64 in [0, log2(B)]
        0 for a constant dimension.
    """
    values = np.ascontiguousarray(states.T)
    low, high = values.min(axis=1), values.max(axis=1)
    constant = _is_constant(low, high)
    edges = np.linspace(low, np.where(constant, low + 1.0, high), num_bins + 1, axis=1)
    position = (values - low[:, None]) * (num_bins / (edges[:, -1] - edges[:, 0]))[:, None]
    bins = np.minimum(position.astype(np.int64), num_bins - 1)
    # As in numpy.histogram, the edges decide, where rounding may have moved a value over one.
    is_near = np.abs(position - np.rint(position)) < NEAR_EDGE
    feature, sample = np.divmod(np.flatnonzero(is_near), values.shape[1])
    near, value = bins[feature, sample], values[feature, sample]
    near -= value < edges[feature, near]
    near += (value >= edges[feature, near + 1]) & (near != num_bins - 1)
    bins[feature, sample] = near
    num_features, num_samples = values.shape
    flat = (bins + num_bins * np.arange(num_features)[:, None]).ravel()
    counts = np.bincount(flat, minlength=num_bins * num_features)
    share = counts.reshape(num_features, num_bins) / num_samples
    terms = share * np.log2(share, out=np.zeros_like(share), where=share > 0)
    return np.where(constant, 0.0, -terms.sum(axis=1))


def dlsp(statistics: Mapping[int, LayerStatistics]) -> Saliency:
    r"""Combine the metrics over layers, eqs. 5–7 of section 4.1.1.

    .. math:: S(l) = \sum_M \frac{M(l) - \mu_M}{\sigma_M}, \quad l^* = \arg\max_{l \geq 1} S(l)

    Parameters
    ----------
    statistics : mapping of int to LayerStatistics
        By layer; needs one layer above 0.

    Notes
    -----
    Mean and population standard deviation are taken over the layers above 0. A metric that is
    constant over them contributes 0.
    """
    layers = sorted(layer for layer in statistics if layer >= 1)
    z_scores = {}
    for metric in METRICS:
        values = np.array([getattr(statistics[layer], metric) for layer in layers])
        std = values.std()
        constant = std <= CONSTANT_RANGE * np.abs(values).max()
        z = np.zeros_like(values) if constant else (values - values.mean()) / std
        z_scores[metric] = dict(zip(layers, z.tolist(), strict=True))
    saliency = {layer: sum(z_scores[metric][layer] for metric in METRICS) for layer in layers}
    return Saliency(z_scores, saliency, max(layers, key=lambda layer: saliency[layer]))


def _class_moments(normal: np.ndarray, anomalous: np.ndarray) -> _ClassMoments:
    """Moments of each dimension, shared by both divergences."""
    gap = normal.mean(axis=0) - anomalous.mean(axis=0)
    variance_n, variance_a = normal.var(axis=0), anomalous.var(axis=0)
    num_n, num_a = len(normal), len(anomalous)
    total = num_n + num_a
    # The law of total variance: no third pass over the samples.
    joint = (num_n * variance_n + num_a * variance_a) / total + num_n * num_a * (gap / total) ** 2
    constant = _is_constant(normal.min(axis=0), normal.max(axis=0)) & _is_constant(
        anomalous.min(axis=0), anomalous.max(axis=0)
    )
    return _ClassMoments(variance_n, variance_a, gap, joint, constant)


def _is_constant(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Is a dimension's range nothing but rounding."""
    return high - low <= CONSTANT_RANGE * np.maximum(np.abs(low), np.abs(high))
