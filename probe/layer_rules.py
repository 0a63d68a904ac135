r"""Rules that choose the layers to read: one registry; a rule is one entry.

A rule measures one layer at a time, so that a store is read once for all rules, and then chooses
among all layers' measures. To add one, write its two functions and its line in `LAYER_RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist, squareform

from hiprobe.probe.folds import cross_validated_aucs, folds_by_video
from hiprobe.probe.saliency import DEFAULT_BINS, LayerStatistics, dlsp, layer_statistics
from hiprobe.probe.samples import choose_videos
from hiprobe.store import HiProbeError
from hiprobe.store.scorers import DEFAULT_L2

# In the study of docs/layer-rules.md (`make bench-rules`) it is ahead of the paper's rule, "dlsp",
# in every setting of the trained model. It needs no anomalous samples.
DEFAULT_RULE = "upper-half"
NUM_TOP = 3
FOLD_REPEATS = 4
# Below it, the layer with the best cross-validated AUC is hardly better than one drawn by lot.
FEW_VIDEOS_FOR_CV = 24
# A matrix of all pairs of samples; of more, so many are drawn.
MAX_PAIRED_SAMPLES = 2000
NUM_RESAMPLES, RESAMPLED_SHARE = 20, 0.5
# λ of HeadHunt-VAD's robustness score (AAAI 2026).
STABILITY_PENALTY = 0.5


@dataclass(frozen=True)
class RuleSamples:
    """What rules know of the training samples, whatever the layer.

    Attributes
    ----------
    owner : (sample,) object
        The video id of each sample.
    is_anomalous : (sample,) bool
    scorer : str
    l2 : float
        The scorer that will be trained, for rules that try it.
    num_bins : int
        B of DLSP's entropy.
    seed : int
        Of folds and of samples drawn.
    """

    owner: np.ndarray
    is_anomalous: np.ndarray
    scorer: str = "logistic"
    l2: float = DEFAULT_L2
    num_bins: int = DEFAULT_BINS
    seed: int = 0


# One layer's (sample, feature) states, the samples, DLSP's metrics of this layer → figures.
Measure = Callable[[np.ndarray, RuleSamples, LayerStatistics | None], tuple[float, ...]]
# The figures of the layers above 0, by layer, ascending → the layers chosen, ascending.
Choose = Callable[[Mapping[int, tuple[float, ...]]], tuple[int, ...]]


def _nothing(
    states: np.ndarray, samples: RuleSamples, statistics: LayerStatistics | None
) -> tuple[float, ...]:
    """What a rule measures that goes by the layers' numbers alone."""
    return ()


@dataclass(frozen=True)
class LayerRule:
    """A rule that chooses layers.

    Attributes
    ----------
    choose : callable
    measure : callable
    needs_anomalies : bool
        Whether it needs training samples of both classes.
    uses_scorer : bool
        Whether its figures depend on the scorer that will be trained.
    few_videos : int
        With fewer videos its choice is noise, and `warnings` says so.
    """

    choose: Choose
    measure: Measure = _nothing
    needs_anomalies: bool = True
    uses_scorer: bool = False
    few_videos: int = 0

    def warnings(self, samples: RuleSamples) -> list[str]:
        """What to keep in mind of a choice by these samples."""
        num_videos = len(set(samples.owner))
        if num_videos >= self.few_videos:
            return []
        return [
            f"the layer is chosen by cross-validation on {num_videos} videos: below "
            f"{self.few_videos} that is noise"
        ]


def layer_rule(name: str) -> LayerRule:
    """Look a rule up.

    Raises
    ------
    HiProbeError
        Unknown rule.
    """
    if name not in LAYER_RULES:
        raise HiProbeError(f"the layer rule is {name!r}, expected {', '.join(LAYER_RULES)}.")
    return LAYER_RULES[name]


def _metrics(
    states: np.ndarray, samples: RuleSamples, statistics: LayerStatistics | None
) -> tuple[float, ...]:
    """DLSP's three metrics, those already measured if there are any."""
    known = statistics or layer_statistics(states, samples.is_anomalous, samples.num_bins)
    return astuple(known)


def _saliency(measured: Mapping[int, tuple[float, ...]]) -> dict[int, float]:
    return dlsp({layer: LayerStatistics(*own) for layer, own in measured.items()}).saliency


def _best(figures: Mapping[int, float], number: int = 1) -> tuple[int, ...]:
    """The layers with the largest figures; ties go to the lowest."""
    ranked = sorted(figures, key=lambda layer: (-figures[layer], layer))
    return tuple(sorted(ranked[:number]))


def _largest(measured: Mapping[int, tuple[float, ...]]) -> tuple[int, ...]:
    return _best({layer: figure for layer, (figure,) in measured.items()})


def _cross_validated_auc(
    states: np.ndarray, samples: RuleSamples, statistics: LayerStatistics | None
) -> tuple[float]:
    """Mean AUC over samples of held-out folds, no video in two of them."""
    labels = samples.is_anomalous
    folds = folds_by_video(samples.owner, labels, samples.seed, FOLD_REPEATS)
    aucs = cross_validated_aucs(states, labels, folds, samples.scorer, samples.l2)
    return (float(np.mean(aucs)),)


def standardised(states: np.ndarray) -> np.ndarray:
    """Bring features to one scale; otherwise a few massive activations are all the distance."""
    scale = states.std(axis=0)
    return (states - states.mean(axis=0)) / np.where(scale > 0, scale, 1.0)


def _comparable(states: np.ndarray, samples: RuleSamples) -> tuple[np.ndarray, np.ndarray]:
    """Standardised samples, no more than can be compared in pairs; and their labels."""
    labels = samples.is_anomalous
    if len(states) > MAX_PAIRED_SAMPLES:
        drawn = np.random.default_rng(samples.seed).permutation(len(states))[:MAX_PAIRED_SAMPLES]
        states, labels = states[drawn], labels[drawn]
    return standardised(states), labels


def _mmd(
    states: np.ndarray, samples: RuleSamples, statistics: LayerStatistics | None
) -> tuple[float]:
    r"""Squared maximum mean discrepancy of the classes (Gretton et al. 2012, unbiased).

    With the kernel :math:`\exp(-\gamma d^2)`, :math:`\gamma = 1/(2 \cdot \mathrm{median}\ d^2)`.
    """
    scaled, labels = _comparable(states, samples)
    squares = pdist(scaled, "sqeuclidean")
    kernel = squareform(np.exp(-squares / (2 * (np.median(squares) or 1.0))))

    def mean(one: np.ndarray, other: np.ndarray) -> float:
        # Pairs of a sample with itself are left out; `squareform` gives them 0.
        num_pairs = one.sum() * other.sum() - (one & other).sum()
        return float(kernel[np.ix_(one, other)].sum() / max(num_pairs, 1))

    return (mean(labels, labels) + mean(~labels, ~labels) - 2 * mean(labels, ~labels),)


def _fisher(
    states: np.ndarray, samples: RuleSamples, statistics: LayerStatistics | None
) -> tuple[float]:
    r"""Fisher's criterion :math:`\Delta^T (S_w + r I)^{-1} \Delta` of the best direction.

    Δ is the gap of the classes' means, S_w the pooled covariance within them, r the mean of its
    diagonal: there are fewer samples than features, so S_w alone has no inverse.
    """
    scaled, labels = _comparable(states, samples)
    means = np.stack([scaled[~labels].mean(axis=0), scaled[labels].mean(axis=0)])
    gap = means[1] - means[0]
    within = scaled - means[labels.astype(int)]
    num_samples, num_features = within.shape
    ridge = float((within**2).sum() / (num_samples * num_features)) or 1.0
    # Woodbury's identity: a matrix of samples, not of features.
    projected = within @ gap
    inner = within @ within.T + num_samples * ridge * np.eye(num_samples)
    explained = projected @ np.linalg.solve(inner, projected)
    return (float((gap @ gap - explained) / ridge),)


def _resampled_metrics(
    states: np.ndarray, samples: RuleSamples, statistics: LayerStatistics | None
) -> tuple[float, ...]:
    """DLSP's three metrics of each half of the videos, one after the other."""
    videos, video_of = np.unique(samples.owner.astype(str), return_inverse=True)
    has_anomaly = np.bincount(video_of, samples.is_anomalous) > 0
    labels = pd.Series(np.where(has_anomaly, "anomalous", "normal"), index=videos)
    figures: list[float] = []
    for seed in range(NUM_RESAMPLES):
        chosen = choose_videos(labels, RESAMPLED_SHARE, seed)
        rows = np.isin(videos, chosen)[video_of]
        own = layer_statistics(states[rows], samples.is_anomalous[rows], samples.num_bins)
        figures += astuple(own)
    return tuple(figures)


def _most_stable(measured: Mapping[int, tuple[float, ...]]) -> tuple[int, ...]:
    """The layer of the largest mean − λ · standard deviation of its saliency over resamples."""
    resamples = [
        _saliency({layer: own[first : first + 3] for layer, own in measured.items()})
        for first in range(0, 3 * NUM_RESAMPLES, 3)
    ]
    figures = {layer: np.array([own[layer] for own in resamples]) for layer in measured}
    return _best(
        {layer: float(own.mean() - STABILITY_PENALTY * own.std()) for layer, own in figures.items()}
    )


LAYER_RULES = {
    # The most salient layer, the paper's.
    "dlsp": LayerRule(lambda own: _best(_saliency(own)), _metrics),
    "last": LayerRule(lambda own: (max(own),), needs_anomalies=False),
    # All above half of the last one's number.
    "upper-half": LayerRule(
        lambda own: tuple(layer for layer in own if 2 * layer > max(own)), needs_anomalies=False
    ),
    "all": LayerRule(tuple, needs_anomalies=False),
    "top3": LayerRule(lambda own: _best(_saliency(own), NUM_TOP), _metrics),
    "cv": LayerRule(_largest, _cross_validated_auc, uses_scorer=True, few_videos=FEW_VIDEOS_FOR_CV),
    "mmd": LayerRule(_largest, _mmd),
    "fisher": LayerRule(_largest, _fisher),
    # The most salient layer that is so in halves of the videos too.
    "stable-dlsp": LayerRule(_most_stable, _resampled_metrics),
}
