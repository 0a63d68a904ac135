"""Multiple-instance relabelling: an anomalous video is anomalous in some of its segments only.

Scorers fitted on whole videos rank each anomalous video's segments; they are then fitted again on
the highest of them against all segments of normal videos, some times over (MI-SVM: Andrews et al.
2002, with a share of the segments in place of the one highest).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.sparse import csr_array, vstack

from hiprobe.probe.fit import Fit, fit_members
from hiprobe.probe.samples import Samples, binned_samples
from hiprobe.store import FeatureStore, HiProbeError
from hiprobe.store.probe_inputs import Input
from hiprobe.store.scorers import DEFAULT_L2
from hiprobe.store.taps import HIDDEN_STATES

# Share of an anomalous video's segments that stay.
TOP_SHARE = 0.3
# A longer video's segments are averaged in so many temporal bins, as the field has it since Sultani
# et al. 2018: the segments of a large training set do not fit into memory.
MAX_INSTANCES = 32


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
    tap: str = HIDDEN_STATES,
    prompt: str = "",
) -> list[Fit]:
    """Fit on samples of a store, and again on the top segments of its anomalous videos.

    Parameters
    ----------
    store : FeatureStore
    samples : Samples
    layers, scorer, l2, subsets, baseline
        As of `fit_members`.
    mil : int
        Times to fit again, each on the segments that the scorers before rank highest. The layers
        are read once more each time.
    tap, prompt : str
        Whose layers are read.

    Returns
    -------
    list of Fit
        One a subset. ``logits`` are those of `samples`, whatever it was fitted on last.

    Raises
    ------
    HiProbeError
        Samples are not videos' but segments' with labels of their own, and `mil` is not 0.
    """
    num_samples = len(samples.owner)
    own = _with_instances(store, samples) if mil else samples
    is_instance = np.arange(len(own.owner)) >= num_samples
    drawn = [np.ones(num_samples, dtype=bool)] if subsets is None else list(subsets)
    num_instances = len(own.owner) - num_samples
    rows = [np.concatenate([one, np.zeros(num_instances, dtype=bool)]) for one in drawn]
    fit = partial(
        fit_members, partial(own.states, store, tap=tap, prompt=prompt), layers,
        own.is_anomalous, scorer, l2,
        baseline=baseline, inputs_of=lambda layer: (Input(layer, tap, prompt),),
    )  # fmt: skip
    fits = fit(subsets=rows)
    for _ in range(mil):
        rows = [
            _relabelled(own, is_instance, set(samples.owner[one]), before.logits)
            for one, before in zip(drawn, fits, strict=True)
        ]
        fits = fit(subsets=rows)
    return [replace(one, logits=one.logits[:num_samples]) for one in fits]


def _with_instances(store: FeatureStore, samples: Samples) -> Samples:
    """The samples, and after them every segment of their videos; those of long videos in bins."""
    of_video = samples.labels[samples.owner].to_numpy() == "anomalous"
    if not np.array_equal(of_video, samples.is_anomalous):
        raise HiProbeError(
            "--mil finds out which segments of an anomalous video are anomalous; with --labels "
            "segment the annotations say so. Leave one of them out."
        )
    instances = binned_samples(
        store, samples.video_ids, samples.labels, lambda count: min(count, MAX_INSTANCES)
    )
    return replace(
        samples,
        owner=np.concatenate([samples.owner, instances.owner]),
        is_anomalous=np.concatenate([samples.is_anomalous, instances.is_anomalous]),
        averaging=csr_array(vstack([samples.averaging, instances.averaging], format="csr")),
    )


def _relabelled(
    samples: Samples, is_instance: np.ndarray, video_ids: set[str], logits: np.ndarray
) -> np.ndarray:
    """Which instances to fit on next: all of normal videos, the top ones of anomalous: bool."""
    rows = is_instance & np.isin(samples.owner, np.array(sorted(video_ids), object))
    chosen = rows & ~samples.is_anomalous
    for video_id in sorted(video_ids):
        if samples.labels[video_id] == "anomalous":
            own = np.flatnonzero(rows & (samples.owner == video_id))
            chosen[own[top_segments(logits[own])]] = True
    return chosen


def top_segments(logits: np.ndarray) -> np.ndarray:
    """The segments with the highest log odds, at least one, in the order of time: (top,) int."""
    number = math.ceil(TOP_SHARE * len(logits))
    return np.sort(np.argsort(-logits, kind="stable")[:number])
