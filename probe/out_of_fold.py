"""Thresholds and calibration by scores of segments whose videos were held out.

The scores of what a scorer was fitted on say little of others: with a few videos and thousands of
features the training samples lie apart however the labels are drawn. So the training videos are
held out by folds, and their segments, which is what will be scored, are scored by scorers that know
nothing of them. The layers stay those chosen on all training videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from hiprobe.probe.fit import Fit
from hiprobe.probe.folds import folds_by_video
from hiprobe.probe.multiple_instance import top_segments
from hiprobe.probe.samples import Samples
from hiprobe.store import FeatureStore, HiProbeError
from hiprobe.store.probe_inputs import ReadKeywords, places, read_places, side_by_side

CALIBRATIONS = ("platt",)
# For scorers that learn the normal class only, where the paper's rule has no second class.
DEFAULT_FALSE_ALARM_RATE = 0.05


@dataclass(frozen=True)
class HeldOutSegments:
    """Segments of the training videos, scored by scorers that were fitted on others.

    Attributes
    ----------
    logits : (segment,) float64
    is_anomalous : (segment,) bool
        What the scorer took for anomalous: segments of anomalous videos; of each the top ones, if
        that is what it was fitted on; with ``labels='segment'`` by annotation.
    of_normal_video : (segment,) bool
    """

    logits: np.ndarray
    is_anomalous: np.ndarray
    of_normal_video: np.ndarray


def held_out_segments(
    store: FeatureStore,
    samples: Samples,
    fit: Callable[[Sequence[np.ndarray]], list[Fit]],
    seed: int = 0,
    *,
    only_top: bool = False,
) -> HeldOutSegments:
    """Score the training videos' segments, each by a fit on the other folds' videos.

    Parameters
    ----------
    store : FeatureStore
    samples : Samples
    fit : callable
        Fits on each of some subsets of `samples`, (sample,) bool, as the probe was fitted.
    seed : int
        Of the folds.
    only_top : bool
        Call only those segments of an anomalous video anomalous that `top_segments` takes: with
        multiple-instance relabelling.

    Raises
    ------
    HiProbeError
        Too few videos for folds.
    """
    folds = folds_by_video(samples.owner, samples.is_anomalous, seed)
    fits = fit([~held_out for held_out in folds])
    fold_of = {
        video_id: index
        for index, held_out in enumerate(folds)
        for video_id in samples.owner[held_out]
    }
    members = fits[0].members
    counts = store.videos.loc[samples.video_ids, "num_segments"].to_numpy(int)
    fold_of_segment = np.repeat([fold_of[video_id] for video_id in samples.video_ids], counts)
    total = np.zeros(len(fold_of_segment))
    read = partial(_states, store, samples.video_ids)
    for position, member in enumerate(members):
        first = 0
        for parts in read_places(read, places(member.inputs)):
            states = side_by_side(member.inputs, parts)
            rows = slice(first, first + len(states))
            for index, one in enumerate(fits):
                own = fold_of_segment[rows] == index
                if own.any():
                    total[rows][own] += one.members[position].logits(states[own])
            first += len(states)
    is_normal = np.repeat((samples.labels == "normal").to_numpy(), counts)
    logits = total / len(members)
    labels = samples.is_anomalous if samples.by_segment else ~is_normal
    if only_top:
        labels = np.zeros(len(logits), dtype=bool)
        first_of = np.cumsum([0, *counts])
        for video in np.flatnonzero((samples.labels == "anomalous").to_numpy()):
            in_video = np.arange(first_of[video], first_of[video + 1])
            labels[in_video[top_segments(logits[in_video])]] = True
    return HeldOutSegments(logits, labels, is_normal)


def _states(
    store: FeatureStore, video_ids: list[str], layer: int, **keywords: Unpack[ReadKeywords]
) -> Iterator[np.ndarray]:
    """Read a layer of some videos, some of them at a time."""
    for _, states in store.iter_layer(layer, video_ids, **keywords):
        yield states


def far_threshold(scores: np.ndarray, target_far: float) -> dict[str, Any]:
    r"""Set the threshold so that a share of the normal segments scores above it.

    Parameters
    ----------
    scores : (segment,) float64
        Of normal videos' segments, held out.
    target_far : float in (0, 1)

    Returns
    -------
    dict
        ``kind``, ``target_far``, ``num_segments``, and as ``value`` the
        :math:`\lceil (n + 1)(1 - \mathrm{far}) \rceil`-th smallest of the n scores, as conformal
        prediction has it: of exchangeable segments, at most that share is expected above. The
        largest, where n is too small for the rate; see `coarse_target`.
    """
    rank = math.ceil((len(scores) + 1) * (1 - target_far))
    return {
        "kind": "target-far",
        "target_far": target_far,
        "num_segments": len(scores),
        "value": float(np.sort(scores)[min(rank, len(scores)) - 1]),
    }


def coarse_target(num_segments: int, target_far: float) -> list[str]:
    """Say that a rate is finer than the segments can show."""
    if (num_segments + 1) * target_far >= 1:
        return []
    return [
        f"a false-alarm rate of {target_far:g} is finer than {num_segments} normal segments can "
        "show: the threshold is the largest of their scores. Train on more videos."
    ]


def platt(logits: np.ndarray, is_anomalous: np.ndarray) -> dict[str, float]:
    r"""Fit the probability :math:`\sigma(a\,t + b)` of log odds t (Platt 1999).

    Parameters
    ----------
    logits : (segment,) float64
        Held out: those fitted on are too sure.
    is_anomalous : (segment,) bool

    Returns
    -------
    dict
        ``slope`` a > 0 and ``intercept`` b, which minimise the cross-entropy with Platt's targets,
        :math:`(N_+ + 1)/(N_+ + 2)` and :math:`1/(N_- + 2)`, which keep both finite.

    Raises
    ------
    HiProbeError
        Segments of one class, or log odds that do not rise with the labels.
    """
    num_anomalous = int(is_anomalous.sum())
    num_normal = len(is_anomalous) - num_anomalous
    if not num_anomalous or not num_normal:
        raise HiProbeError(
            f"cannot calibrate on {num_normal} normal and {num_anomalous} anomalous segments, "
            "expected some of both. Leave --calibrate out, or train on videos of both classes."
        )
    target = np.where(is_anomalous, (num_anomalous + 1) / (num_anomalous + 2), 1 / (num_normal + 2))
    centre, spread = float(logits.mean()), float(logits.std()) or 1.0
    units = (logits - centre) / spread

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, intercept = parameters
        values = slope * units + intercept
        gaps = expit(values) - target
        entropy = np.logaddexp(0.0, values) - target * values
        return float(entropy.mean()), np.array([(gaps * units).mean(), gaps.mean()])

    slope, intercept = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    if not slope > 0:
        raise HiProbeError(
            f"cannot calibrate: the scores of {len(logits)} held-out segments do not rise with "
            "their labels. Leave --calibrate out, train on more videos, or choose other layers."
        )
    return {"slope": float(slope / spread), "intercept": float(intercept - slope * centre / spread)}
