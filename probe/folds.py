"""Folds of cross-validation that never part a video: its segments are alike, so they would leak."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata
from sklearn.model_selection import RepeatedStratifiedKFold

from hiprobe.store import HiProbeError
from hiprobe.store.scorers import fit_scorer

MAX_FOLDS = 5


def folds_by_video(
    owner: np.ndarray, is_anomalous: np.ndarray, seed: int = 0, num_repeats: int = 1
) -> list[np.ndarray]:
    """Split samples into folds, all samples of a video in one.

    Parameters
    ----------
    owner : (sample,) object
        The video id of each sample.
    is_anomalous : (sample,) bool
    seed : int
    num_repeats : int
        So many partitions, one after the other.

    Returns
    -------
    list of (sample,) bool
        The held-out samples of each fold. Videos with anomalous samples are spread evenly over at
        most five folds, and so are the others: both classes are held out and left in each time,
        where there are two.

    Raises
    ------
    HiProbeError
        Only one video with anomalous samples, or fewer than two without.
    """
    videos, video_of = np.unique(owner.astype(str), return_inverse=True)
    has_anomaly = np.bincount(video_of, is_anomalous) > 0
    # Scorers that learn the normal class have no other to spread.
    classes = (~has_anomaly, has_anomaly) if has_anomaly.any() else (~has_anomaly,)
    fewest = min(int(one.sum()) for one in classes)
    if fewest < 2:
        raise HiProbeError(
            f"cannot cross-validate by video: {int(has_anomaly.sum())} of the {len(videos)} videos "
            "drawn have anomalous samples, expected at least two with and two without. Draw more "
            "videos."
        )
    split = RepeatedStratifiedKFold(
        n_splits=min(MAX_FOLDS, fewest), n_repeats=num_repeats, random_state=seed
    ).split(videos, has_anomaly)
    return [np.isin(video_of, held_out) for _, held_out in split]


def cross_validated_aucs(
    states: np.ndarray,
    is_anomalous: np.ndarray,
    folds: Sequence[np.ndarray],
    scorer: str,
    l2: float,
) -> list[float]:
    """AUC over samples of a scorer, of each fold that is held out in turn.

    Parameters
    ----------
    states : (sample, feature) float
    is_anomalous : (sample,) bool
    folds : sequence of (sample,) bool
        As `folds_by_video` gives them.
    scorer, l2
        As of `hiprobe.store.scorers.fit_scorer`.
    """
    aucs = []
    for test in folds:
        fitted = fit_scorer(scorer, states[~test], is_anomalous[~test], l2)
        aucs.append(_auc(is_anomalous[test], fitted.logits(states[test])))
    return aucs


def _auc(is_anomalous: np.ndarray, logits: np.ndarray) -> float:
    """Area under the ROC curve by the samples' ranks (Mann and Whitney); a tie counts half.

    scikit-learn's takes as long as a fit, and the shuffles need thousands.
    """
    num_anomalous = int(is_anomalous.sum())
    num_normal = len(is_anomalous) - num_anomalous
    surplus = rankdata(logits)[is_anomalous].sum() - num_anomalous * (num_anomalous + 1) / 2
    return float(surplus / (num_anomalous * num_normal))


def shuffle_by_video(
    owner: np.ndarray, is_anomalous: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Give the samples the labels of videos in a random order.

    The videos' runs of labels are laid over the samples in a new order: where all videos have as
    many samples, each gets another's labels whole. The number of anomalous samples stays, and so do
    the runs, which samples drawn one by one would lose: segments of a video are alike, and labels
    that change within it are harder to fit than real ones.

    Returns
    -------
    (sample,) bool
    """
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    runs = np.split(is_anomalous, starts[1:])
    return np.concatenate([runs[index] for index in rng.permutation(len(runs))])
