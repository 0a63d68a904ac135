"""Layer analysis: everything that tells layers apart, one layer in memory at a time.

Run by ``hiprobe layers``: saliency (Figure 2 of the paper), silhouette (Figure 3), t-SNE (Figure
4), the scorer's cross-validated AUC, and how stable DLSP's choice is over few-shot draws.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.manifold import TSNE
from sklearn.metrics import roc_auc_score, silhouette_score
from sklearn.model_selection import RepeatedStratifiedKFold

from hiprobe.probe.pipeline import ProbeConfig, layers_above_0
from hiprobe.probe.saliency import METRICS, LayerStatistics, Saliency, dlsp, layer_statistics
from hiprobe.probe.samples import Samples, choose_videos
from hiprobe.store import FeatureStore
from hiprobe.store.layer_tables import LayerTables
from hiprobe.store.scorers import fit_scorer

MAX_FOLDS, FOLD_REPEATS = 5, 4
PERPLEXITY = 30.0


def analyse_layers(
    config: ProbeConfig,
    *,
    num_draws: int = 20,
    draw_fraction: float = 0.5,
    tsne_layers: Sequence[int] | None = None,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> LayerTables:
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
    on_warning : callable
        Called for each video that takes no part, with the reason.

    Raises
    ------
    HiProbeError
        Nothing to train on, no layer above 0, or no such layer for t-SNE.
    """
    store = FeatureStore.open(config.store)
    layers = layers_above_0(store)
    store.check_layers(tsne_layers or ())
    samples = config.draw(store)
    for text in samples.warnings:
        on_warning(text)
    draws = [
        samples.rows_of(choose_videos(samples.labels, draw_fraction, seed))
        for seed in range(num_draws)
    ]
    separation, (of_all, *of_draws) = _measure_layers(
        store, layers, samples, draws, config, on_layer
    )
    saliency = dlsp(of_all)
    table = _table(of_all, saliency, separation)
    chosen = Counter(dlsp(own).layer for own in of_draws)
    table["chosen_share"] = [chosen[layer] / max(1, num_draws) for layer in layers]
    wanted = sorted({layers[0], saliency.layer, layers[-1]}) if tsne_layers is None else tsne_layers
    return LayerTables(
        table,
        pd.concat([_embed(store, samples, layer, config.seed) for layer in wanted]),
        _summary(table, saliency.layer, num_draws, draw_fraction, config),
    )


def _measure_layers(
    store: FeatureStore,
    layers: Sequence[int],
    samples: Samples,
    draws: Sequence[np.ndarray],
    config: ProbeConfig,
    on_layer: Callable[[int, int], None],
) -> tuple[dict[int, dict[str, float]], list[dict[int, LayerStatistics]]]:
    """Measure all samples and each draw's by layer, from one read of a layer.

    Returns
    -------
    separation : dict of int to dict
        `_separation` of all samples.
    statistics : list of dict of int to LayerStatistics
        DLSP's metrics of all samples, then of each draw's.
    """
    separation: dict[int, dict[str, float]] = {}
    subsets = [np.ones(len(samples.owner), dtype=bool), *draws]
    statistics: list[dict[int, LayerStatistics]] = [{} for _ in subsets]
    for done, layer in enumerate(layers):
        on_layer(done, len(layers))
        states = samples.states(store, layer)
        separation[layer] = _separation(states, samples.is_anomalous, config)
        for own, rows in zip(statistics, subsets, strict=True):
            own[layer] = layer_statistics(states[rows], samples.is_anomalous[rows], config.num_bins)
    on_layer(len(layers), len(layers))
    return separation, statistics


def _table(
    statistics: Mapping[int, LayerStatistics],
    saliency: Saliency,
    separation: Mapping[int, Mapping[str, float]],
) -> pd.DataFrame:
    """One row a layer: the metrics, their z-scores, the saliency, and how well it separates."""
    table = pd.DataFrame({layer: asdict(one) for layer, one in statistics.items()}).T
    for metric in METRICS:
        table[f"{metric}_z"] = pd.Series(saliency.z_scores[metric])
    table["saliency"] = pd.Series(saliency.saliency)
    table.index.name = "layer"
    return table.join(pd.DataFrame(separation).T)


def _separation(
    states: np.ndarray, is_anomalous: np.ndarray, config: ProbeConfig
) -> dict[str, float]:
    """How well the classes lie apart in one layer: without a scorer, and for the scorer."""
    mean, std = _cross_validated_auc(states, is_anomalous, config)
    return {
        "silhouette": float(silhouette_score(_standardise(states), is_anomalous)),
        "cv_auc": mean,
        "cv_auc_std": std,
    }


def _cross_validated_auc(
    states: np.ndarray, is_anomalous: np.ndarray, config: ProbeConfig
) -> tuple[float, float]:
    """AUC over samples of the scorer on held-out folds: mean and deviation over folds.

    Samples of one video may lie in different folds when there are several a video.
    """
    # A fold needs one sample of each class.
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
    """t-SNE of one layer's samples: the rows of ``tsne.csv``."""
    states = _standardise(samples.states(store, layer))
    # It has to lie below the number of samples; a third leaves each point some neighbours.
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
    """Bring features to one scale; otherwise a few massive activations are all the distance."""
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
