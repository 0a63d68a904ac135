"""Multiple-instance relabelling: an anomalous video is anomalous in some of its segments only.

A scorer fitted on whole videos ranks each anomalous video's segments; it is then fitted again on
the highest of them, some times over (MI-SVM: Andrews et al. 2002, with a share of the segments in
place of the one highest).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array, vstack

from hiprobe.probe.fit import Fit, fit_members
from hiprobe.probe.samples import Samples, temporal_bins
from hiprobe.store import FeatureStore, HiProbeError
from hiprobe.store.probe_members import read_logits
from hiprobe.store.scorers import DEFAULT_L2

# Share of an anomalous video's segments that stay.
TOP_SHARE = 0.3


def fit_samples(
    store: FeatureStore,
    samples: Samples,
    layers: Sequence[int],
    scorer: str = "logistic",
    l2: float = DEFAULT_L2,
    *,
    mil: int = 0,
    subsets: Sequence[np.ndarray] | None = None,
    baseline: int | None = None,
) -> list[Fit]:
    """Fit on samples of a store, and again on the top segments of its anomalous videos.

    Parameters
    ----------
    store : FeatureStore
    samples : Samples
    layers, scorer, l2, subsets, baseline
        As of `fit_members`.
    mil : int
        Times to fit again. Each ranks the segments by the scorer before, and reads the layers
        twice.

    Returns
    -------
    list of Fit
        One a subset. ``logits`` are those of `samples`; ``training_logits`` those of the samples
        that it was fitted on last.

    Raises
    ------
    HiProbeError
        Samples are no videos' but segments' with labels of their own, and `mil` is not 0.
    """
    _check_videos(samples, mil)
    num_samples = len(samples.is_anomalous)
    first = [np.ones(num_samples, dtype=bool)] if subsets is None else list(subsets)
    own, rows = samples, first
    fit = partial(fit_members, layers=layers, scorer=scorer, l2=l2, baseline=baseline)
    fits = fit(partial(own.states, store), is_anomalous=own.is_anomalous, subsets=rows)
    for _ in range(mil):
        own, rows = _relabel(store, samples, first, fits)
        fits = fit(partial(own.states, store), is_anomalous=own.is_anomalous, subsets=rows)
    return [replace(one, logits=one.logits[:num_samples]) for one in fits]


def _check_videos(samples: Samples, mil: int) -> None:
    """Refuse labels of segments: they say already where a video is anomalous."""
    of_video = samples.labels[samples.owner].to_numpy() == "anomalous"
    if mil and not np.array_equal(of_video, samples.is_anomalous):
        raise HiProbeError(
            "--mil finds out which segments of an anomalous video are anomalous; with --labels "
            "segment the annotations say so. Leave one of them out."
        )


def _relabel(
    store: FeatureStore, samples: Samples, subsets: Sequence[np.ndarray], fits: Sequence[Fit]
) -> tuple[Samples, list[np.ndarray]]:
    """Add, for each fit, samples of the top segments of its anomalous videos.

    Returns
    -------
    samples : Samples
        Those given, and then the new ones.
    subsets : list of (sample,) bool
        For each fit its normal samples as they were, and the new ones of its anomalous videos.
    """
    anomalous = samples.labels.index[samples.labels == "anomalous"]
    logits = read_logits(
        [fit.members for fit in fits],
        lambda layer: (states for _, states in store.iter_layer(layer, anomalous)),
    )
    counts = store.videos.loc[samples.video_ids, "num_segments"].to_numpy()
    columns = dict(zip(samples.video_ids, pairwise(np.cumsum([0, *counts])), strict=True))
    edges = np.cumsum([0, *(columns[one][1] - columns[one][0] for one in anomalous)])
    averagings, owners, fit_of = [samples.averaging], [samples.owner], []
    for index, (subset, own) in enumerate(zip(subsets, logits, strict=True)):
        drawn = set(samples.owner[subset])
        for video_id, (start, stop) in zip(anomalous, pairwise(edges), strict=True):
            if video_id not in drawn:
                continue
            num_bins = int((samples.owner == video_id).sum())
            rows = _means(top_segments(own[start:stop]), num_bins, columns[video_id][0], samples)
            averagings.append(rows)
            owners.append(np.full(num_bins, video_id, dtype=object))
            fit_of += [index] * num_bins
    num_new = len(fit_of)
    together = replace(
        samples,
        owner=np.concatenate(owners),
        is_anomalous=np.concatenate([samples.is_anomalous, np.ones(num_new, dtype=bool)]),
        averaging=csr_array(vstack(averagings, format="csr")),
    )
    return together, [
        np.concatenate([subset & ~samples.is_anomalous, np.array(fit_of, dtype=int) == index])
        for index, subset in enumerate(subsets)
    ]


def top_segments(logits: np.ndarray) -> np.ndarray:
    """The segments with the highest log odds, at least one, in the order of time: (top,) int."""
    number = math.ceil(TOP_SHARE * len(logits))
    return np.sort(np.argsort(-logits, kind="stable")[:number])


def _means(top: np.ndarray, num_bins: int, start: int, samples: Samples) -> csr_array:
    """Average segments as though the video had no others: (bin, segment of all) weights."""
    bins = temporal_bins(len(top), num_bins)
    lengths = [last - first for first, last in bins]
    columns = np.concatenate([start + top[first:last] for first, last in bins])
    weights = np.repeat(1.0 / np.array(lengths), lengths)
    return csr_array(
        (weights, columns, np.cumsum([0, *lengths])), shape=(num_bins, samples.averaging.shape[1])
    )
