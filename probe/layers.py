"""Layer analysis: everything that tells layers apart, one layer in memory at a time.

Run by ``hiprobe layers``: saliency (Figure 2 of the paper), silhouette (Figure 3), t-SNE (Figure
4), the scorer's cross-validated AUC, and how stable DLSP's choice is over few-shot draws.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.manifold import TSNE
from sklearn.metrics import roc_auc_score, silhouette_score
from sklearn.model_selection import RepeatedStratifiedKFold

from hiprobe.probe.pipeline import ProbeConfig, draw_samples, training_videos
from hiprobe.probe.saliency import METRICS, dlsp, layer_statistics
from hiprobe.probe.samples import Samples, choose_videos
from hiprobe.store.scorers import fit_scorer
from hiprobe.store import FeatureStore, HiProbeError

MAX_FOLDS, FOLD_REPEATS = 5, 4
PERPLEXITY = 30.0


@dataclass(frozen=True)
class LayerAnalysis:
    """What `analyse_layers` finds.

    Attributes
    ----------
    table : DataFrame
        One row a layer, indexed by ``layer``: the metrics, their z-scores (``…_z``), ``saliency``,
        ``silhouette`` of the two classes, ``cv_auc`` and ``cv_auc_std`` of the scorer over samples,
        ``chosen_share`` of the few-shot draws in which DLSP chooses it.
    embeddings : DataFrame
        t-SNE: ``layer, sample, video_id, label, x, y``.
    summary : dict
        ``dlsp_layer``, ``best_cv_layer``, ``cv_auc_at_dlsp_layer``, ``cv_auc_at_best_layer``,
        ``spearman`` of saliency and ``cv_auc``, ``num_draws``, ``draw_fraction``, ``settings``.
    """

    table: pd.DataFrame
    embeddings: pd.DataFrame
    summary: dict[str, Any]


def analyse_layers(
    config: ProbeConfig,
    *,
    num_draws: int = 20,
    draw_fraction: float = 0.5,
    tsne_layers: Sequence[int] | None = None,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> LayerAnalysis:
    """Analyse all layers of a store.

    Parameters
    ----------
    config : ProbeConfig
        Which videos, samples and scorer; `layer` does not count.
    num_draws : int
        Few-shot draws for the stability of DLSP's choice.
    draw_fraction : float in (0, 1]
        Share of the videos in each.
    tsne_layers : sequence of int, optional
        Default: the first, DLSP's and the last.
    on_layer : callable
        Called with (layers done, layers).

    Raises
    ------
    HiProbeError
        Nothing to train on, or no layer above 0.
    """
    store = FeatureStore.open(config.store)
    layers = [layer for layer in store.layers if layer >= 1]
    if not layers:
        raise HiProbeError(f"{config.store}: it has layer 0 only; nothing to compare.")
    videos = training_videos(store, config)
    samples = draw_samples(store, videos, config)
    labels = videos.loc[list(samples.video_ids), "label"]
    subsets = [
        samples.rows_of(choose_videos(labels, draw_fraction, seed)) for seed in range(num_draws)
    ]
    rows, statistics = {}, {}
    of_subsets: list[dict[int, Any]] = [{} for _ in subsets]
    for done, layer in enumerate(layers):
        on_layer(done, len(layers))
        states = samples.states(store, layer)
        statistics[layer] = layer_statistics(states, samples.is_anomalous, config.num_bins)
        rows[layer] = _row(states, samples, config)
        for own, rows_of_subset in zip(of_subsets, subsets, strict=True):
            own[layer] = layer_statistics(
                states[rows_of_subset], samples.is_anomalous[rows_of_subset], config.num_bins
            )
    on_layer(len(layers), len(layers))
    saliency = dlsp(statistics)
    table = pd.DataFrame({layer: asdict(one) for layer, one in statistics.items()}).T
    for metric in METRICS:
        table[f"{metric}_z"] = pd.Series(saliency.z_scores[metric])
    table["saliency"] = pd.Series(saliency.saliency)
    table = table.join(pd.DataFrame(rows).T)
    chosen = Counter(dlsp(own).layer for own in of_subsets)
    table["chosen_share"] = [chosen[layer] / max(1, len(subsets)) for layer in layers]
    table.index.name = "layer"
    wanted = sorted({layers[0], saliency.layer, layers[-1]}) if tsne_layers is None else tsne_layers
    return LayerAnalysis(
        table,
        pd.concat([_embed(store, samples, layer, config.seed) for layer in wanted]),
        _summary(table, saliency.layer, num_draws, draw_fraction, config),
    )


def _row(states: np.ndarray, samples: Samples, config: ProbeConfig) -> dict[str, float]:
    standardised = _standardise(states)
    mean, std = _cross_validated_auc(states, samples.is_anomalous, config)
    return {
        "silhouette": float(silhouette_score(standardised, samples.is_anomalous)),
        "cv_auc": mean,
        "cv_auc_std": std,
    }


def _cross_validated_auc(
    states: np.ndarray, is_anomalous: np.ndarray, config: ProbeConfig
) -> tuple[float, float]:
    """AUC over samples of the scorer on held-out folds: mean and deviation over folds.

    Samples of one video may lie in different folds when there are several a video.
    """
    num_folds = min(MAX_FOLDS, int(np.bincount(is_anomalous.astype(int)).min()))
    folds = RepeatedStratifiedKFold(
        n_splits=max(2, num_folds), n_repeats=FOLD_REPEATS, random_state=config.seed
    )
    aucs = []
    for train, test in folds.split(states, is_anomalous):
        scorer = fit_scorer(config.scorer, states[train], is_anomalous[train], config.l2)
        aucs.append(roc_auc_score(is_anomalous[test], scorer.logits(states[test])))
    return float(np.mean(aucs)), float(np.std(aucs))


def _embed(store: FeatureStore, samples: Samples, layer: int, seed: int) -> pd.DataFrame:
    states = _standardise(samples.states(store, layer))
    perplexity = min(PERPLEXITY, (len(states) - 1) / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads that scikit-learn cannot count
        positions = TSNE(perplexity=perplexity, random_state=seed).fit_transform(states)
    return pd.DataFrame(
        {
            "layer": layer,
            "sample": np.arange(len(states)),
            "video_id": samples.owner,
            "label": np.where(samples.is_anomalous, "anomalous", "normal"),
            "x": positions[:, 0],
            "y": positions[:, 1],
        }
    )


def _standardise(states: np.ndarray) -> np.ndarray:
    scale = states.std(axis=0)
    return (states - states.mean(axis=0)) / np.where(scale > 0, scale, 1.0)


def _summary(
    table: pd.DataFrame, dlsp_layer: int, num_draws: int, draw_fraction: float, config: ProbeConfig
) -> dict[str, Any]:
    best = int(table["cv_auc"].idxmax())
    return {
        "dlsp_layer": dlsp_layer,
        "best_cv_layer": best,
        "cv_auc_at_dlsp_layer": float(table.loc[dlsp_layer, "cv_auc"]),
        "cv_auc_at_best_layer": float(table.loc[best, "cv_auc"]),
        "spearman": float(spearmanr(table["saliency"], table["cv_auc"]).statistic),
        "num_draws": num_draws,
        "draw_fraction": draw_fraction,
        "settings": {name: str(value) for name, value in asdict(config).items() if name != "layer"},
    }
