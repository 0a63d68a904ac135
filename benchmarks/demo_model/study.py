"""Few-shot experiments: AUC and saliency of every layer, over draws of the training videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

from hiprobe.evaluate.metrics import Ranking
from hiprobe.probe.saliency import dlsp, layer_statistics
from hiprobe.probe.samples import choose_videos, make_samples
from hiprobe.store.scorers import DEFAULT_L2, PAPER_L2, fit_scorer
from hiprobe.store import FeatureStore
from hiprobe.store.ground_truth import anomalous_frame_counts
from hiprobe.store.localization import smooth


@dataclass(frozen=True)
class TestSet:
    """Videos to score, with their frames' ground truth.

    Attributes
    ----------
    store : FeatureStore
    video_ids : list of str
    video : (segment,) int
        Position in `video_ids` of each segment's video, ascending.
    anomalous, normal : (segment,) int
        Frames.
    """

    store: FeatureStore
    video_ids: list[str]
    video: np.ndarray
    anomalous: np.ndarray
    normal: np.ndarray

    @classmethod
    def of(cls, store: FeatureStore, video_ids: Sequence[str]) -> TestSet:
        """Collect the ground truth of some of a store's videos."""
        ordered = [video_id for video_id in store.videos.index if video_id in set(video_ids)]
        segments = store.segments[store.segments["video_id"].isin(ordered)]
        start, stop = segments["start_frame"].to_numpy(), segments["stop_frame"].to_numpy()
        video = segments["video_id"].map({v: i for i, v in enumerate(ordered)}).to_numpy()
        anomalous = np.zeros(len(segments), dtype=np.int64)
        for position, video_id in enumerate(ordered):
            own = video == position
            annotations = store.videos.loc[video_id, "annotations"]
            anomalous[own] = anomalous_frame_counts(start[own], stop[own], annotations)
        return cls(store, ordered, video, anomalous, stop - start - anomalous)

    def auc(self, logits: np.ndarray, categories: Sequence[str] | None = None) -> float:
        """Frame-level AUC of the smoothed scores; of normal videos and some categories."""
        scores = np.concatenate(
            [smooth(expit(logits[self.video == i])) for i in range(len(self.video_ids))]
        )
        chosen = np.ones(len(scores), dtype=bool)
        if categories is not None:
            category = self.store.videos.loc[self.video_ids, "category"]
            chosen = category.isin(["", *categories]).to_numpy()[self.video]
        metrics = Ranking(scores[chosen], self.anomalous[chosen], self.normal[chosen]).metrics()
        assert metrics is not None, "one class only"
        return metrics.auc


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
        test = TestSet.of(train, [v for v in labels.index if v not in set(drawn)])
    samples = make_samples(train, drawn, labels)
    aucs: dict[float, dict[int, float]] = {DEFAULT_L2: {}, PAPER_L2: {}}
    statistics = {}
    for layer in train.layers:
        states = samples.states(train, layer)
        statistics[layer] = layer_statistics(states, samples.is_anomalous)
        test_states = test.store.layer(layer, test.video_ids)
        for l2, auc in aucs.items():
            scorer = fit_scorer("logistic", states, samples.is_anomalous, l2)
            auc[layer] = test.auc(scorer.logits(test_states), categories)
    saliency = dlsp(statistics)
    return Draw(aucs[DEFAULT_L2], aucs[PAPER_L2], saliency.saliency, saliency.layer)
