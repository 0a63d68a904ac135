"""Few-shot experiments: AUC and saliency of every layer, over draws of the training videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

from hiprobe.evaluate.test_set import TestSet
from hiprobe.probe.saliency import dlsp, layer_statistics
from hiprobe.probe.samples import choose_videos, make_samples
from hiprobe.store import FeatureStore
from hiprobe.store.scorers import DEFAULT_L2, PAPER_L2, fit_scorer


def test_set(store: FeatureStore, video_ids: Sequence[str]) -> TestSet:
    """Some of a store's videos, whatever their split."""
    return TestSet.of_videos(
        store.videos[store.videos.index.isin(list(video_ids))], store.path, store=store
    )


def frame_auc(test: TestSet, logits: np.ndarray, categories: Sequence[str] | None = None) -> float:
    """Frame-level AUC of the smoothed scores; of normal videos and some categories."""
    scored = test.score(expit(logits))
    where = None
    if categories is not None:
        where = test.videos["category"].isin(["", *categories]).to_numpy()[scored.video]
    auc = scored.areas(scored.smoothed, where)["auc"]
    assert auc is not None, "one class only"
    return auc


@dataclass(frozen=True)
class Draw:
    """What one draw of training videos gave.

    Attributes
    ----------
    auc, paper_auc : dict of int to float
        By layer; with the scorer's default penalty, and with none (the paper's setting).
    saliency : dict of int to float
        By layer; from 1 on.
    chosen : int
        DLSP's layer.
    """

    auc: dict[int, float]
    paper_auc: dict[int, float]
    saliency: dict[int, float]
    chosen: int


def run_draw(
    train: FeatureStore,
    labels: pd.Series,
    fraction: float,
    seed: int,
    test: TestSet | None = None,
    *,
    categories: Sequence[str] | None = None,
) -> Draw:
    """Train on a few-shot draw, test on `test`, or on all videos that were not drawn.

    Parameters
    ----------
    train : FeatureStore
    labels : Series
        Of the videos to draw from.
    fraction : float
        Share of them to draw.
    seed : int
    test : TestSet, optional
    categories : sequence of str, optional
        Test on normal videos and anomalous ones of these only.
    """
    drawn = choose_videos(labels, fraction, seed)
    if test is None:
        test = test_set(train, [v for v in labels.index if v not in set(drawn)])
    samples = make_samples(train, drawn, labels)
    aucs: dict[float, dict[int, float]] = {DEFAULT_L2: {}, PAPER_L2: {}}
    statistics = {}
    for layer in train.layers:
        states = samples.states(train, layer)
        statistics[layer] = layer_statistics(states, samples.is_anomalous)
        test_states = np.concatenate(list(test.states(layer)))
        for l2, auc in aucs.items():
            scorer = fit_scorer("logistic", states, samples.is_anomalous, l2)
            auc[layer] = frame_auc(test, scorer.logits(test_states), categories)
    saliency = dlsp(statistics)
    return Draw(aucs[DEFAULT_L2], aucs[PAPER_L2], saliency.saliency, saliency.layer)
