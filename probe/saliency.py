r"""Dynamic Layer Saliency Probing (DLSP): which layer tells normal and anomalous apart best.

Sections 3.1.1 and 4.1.1 of the paper. All of it is plain numpy in float64 on one layer at a
time.
"""

from __future__ import annotations

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
BLOCK_FEATURES = 16
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
    blocks = [
        states[:, first : first + BLOCK_FEATURES]
        for first in range(0, states.shape[1], BLOCK_FEATURES)
    ]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        # A pool costs more than a few-shot subset.
        run = pool.map if states.size > MIN_PARALLEL_VALUES else map
        parts = list(run(lambda block: _block_metrics(block, is_anomalous, num_bins), blocks))
    kl, ldr, bits = (np.concatenate(values) for values in zip(*parts, strict=True))
    return LayerStatistics(float(kl.mean()), float(ldr.mean()), float(bits.mean()))


def _block_metrics(
    states: np.ndarray, is_anomalous: np.ndarray, num_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the metrics of some features, which fit into the processor's cache."""
    states = np.asarray(states, dtype=np.float64)
    normal, anomalous = states[~is_anomalous], states[is_anomalous]
    return (
        kl_divergence(normal, anomalous),
        local_discriminant_ratio(normal, anomalous),
        entropy(states, num_bins),
    )


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
    variance_n, variance_a, gap, constant, scale = _class_moments(normal, anomalous)
    floor = np.where(constant, 1.0, EPSILON * scale)
    variance_n = np.maximum(variance_n, floor)
    variance_a = np.maximum(variance_a, floor)
    divergence = 0.5 * (np.log(variance_a / variance_n) + (variance_n + gap**2) / variance_a - 1.0)
    return np.where(constant, 0.0, divergence)


def local_discriminant_ratio(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    r"""Local discriminant ratio of each dimension, eq. 3.

    .. math:: \frac{(\mu_N-\mu_A)^2}{\sigma_N^2 + \sigma_A^2 + \epsilon}

    Notes
    -----
    :math:`\epsilon` is `EPSILON` times the dimension's variance over both classes together, so
    that the ratio does not depend on the dimension's unit; a dimension that is constant in both
    classes contributes 0.
    """
    variance_n, variance_a, gap, constant, scale = _class_moments(normal, anomalous)
    denominator = np.where(constant, 1.0, variance_n + variance_a + EPSILON * scale)
    return np.where(constant, 0.0, gap**2 / denominator)


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
    feature, sample = np.nonzero(np.abs(position - np.rint(position)) < NEAR_EDGE)
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


def _class_moments(
    normal: np.ndarray, anomalous: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per dimension: both variances, the means' gap, is it constant in both, joint variance."""
    gap = normal.mean(axis=0) - anomalous.mean(axis=0)
    variance_n, variance_a = normal.var(axis=0), anomalous.var(axis=0)
    num_n, num_a = len(normal), len(anomalous)
    total = num_n + num_a
    joint = (num_n * variance_n + num_a * variance_a) / total + num_n * num_a * (gap / total) ** 2
    constant = _is_constant(normal.min(axis=0), normal.max(axis=0)) & _is_constant(
        anomalous.min(axis=0), anomalous.max(axis=0)
    )
    return variance_n, variance_a, gap, constant, joint


def _is_constant(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return high - low <= CONSTANT_RANGE * np.maximum(np.abs(low), np.abs(high))
