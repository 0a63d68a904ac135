"""Temporal localization (section 4.2.2): smooth the scores, cut at the threshold."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

DEFAULT_SIGMA = 0.4


def smooth(scores: np.ndarray, sigma: float = DEFAULT_SIGMA) -> np.ndarray:
    """Smooth one video's scores with a Gaussian kernel.

    Parameters
    ----------
    scores : (segment,) float64
    sigma : float
        Width in segments; 0 leaves the scores as they are.
    """
    if sigma == 0:
        return scores.copy()
    return gaussian_filter1d(scores, sigma, mode="nearest")


def intervals(
    is_anomalous: np.ndarray, start_frames: np.ndarray, stop_frames: np.ndarray
) -> list[tuple[int, int]]:
    """Join consecutive anomalous segments into half-open frame ranges.

    Parameters
    ----------
    is_anomalous : (segment,) bool
    start_frames, stop_frames : (segment,) int
    """
    # Padded with "not anomalous", so that an interval at either end of the video has both edges.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_anomalous, [False]])))
    return [
        (int(start_frames[first]), int(stop_frames[last - 1]))
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]
