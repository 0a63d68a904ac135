"""Layer analysis: everything that tells layers apart, one layer in memory at a time.

Run by ``hiprobe layers``: saliency (Figure 2 of the paper), silhouette (Figure 3), t-SNE (Figure
4), the scorer's AUC cross-validated by video, what the best layer's would be if labels meant
nothing, and how stable DLSP's choice is over few-shot draws.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from hiprobe.probe.answers import lens_auc
from hiprobe.probe.folds import cross_validated_aucs, folds_by_video, shuffle_by_video
from hiprobe.probe.layer_rules import FOLD_REPEATS, standardised
from hiprobe.probe.pipeline import ProbeConfig, layers_above_0
from hiprobe.probe.saliency import METRICS, LayerStatistics, Saliency, dlsp, layer_statistics
from hiprobe.probe.samples import Samples, choose_videos
from hiprobe.store import FeatureStore, HiProbeError
from hiprobe.store.layer_tables import LayerTables

# Each costs as much as the table's own cross-validation. Fewer cannot tell 5 %; the largest of
# twenty maxima is then the 95 % point.
DEFAULT_SHUFFLES = 20
NULL_LEVEL = 0.95
PERPLEXITY = 30.0


def analyse_layers(
    config: ProbeConfig,
    *,
    num_draws: int = 20,
    draw_fraction: float = 0.5,
    tsne_layers: Sequence[int] | None = None,
    num_shuffles: int = DEFAULT_SHUFFLES,
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
    num_shuffles : int
        Times that the labels are shuffled by video, for the null of the best layer's
        cross-validated AUC: the maximum over layers of shuffled labels' AUC. 0: no null.
    on_layer : callable
        Called with (layers done, layers).
    on_warning : callable
        Called for each video that takes no part, with the reason.

    Raises
    ------
    HiProbeError
        Nothing to train on, too few videos to cross-validate by, no layer above 0, or no such
        layer for t-SNE.
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
    labellings = [
        _Labelling.of(samples.owner, samples.is_anomalous, config.seed),
        *_shuffled(samples, config.seed, num_shuffles),
    ]
    separation, aucs, (of_all, *of_draws) = _measure_layers(
        store, layers, samples, labellings, draws, config, on_layer
    )
    saliency = dlsp(of_all)
    table = _table(of_all, saliency, separation)
    chosen = Counter(dlsp(own).layer for own in of_draws)
    table["chosen_share"] = [chosen[layer] / max(1, num_draws) for layer in layers]
    wanted = sorted({layers[0], saliency.layer, layers[-1]}) if tsne_layers is None else tsne_layers
    return LayerTables(
        table,
        pd.concat([_embed(store, samples, layer, config.seed) for layer in wanted]),
        _summary(table, saliency.layer, num_draws, draw_fraction, config)
        | best_layer_null(float(table["cv_auc"].max()), aucs.max(axis=0)),
    )


@dataclass(frozen=True)
class _Labelling:
    """Labels of the samples, true or shuffled, and folds that spread them evenly.

    Attributes
    ----------
    is_anomalous : (sample,) bool
    folds : list of (sample,) bool
        Held out in turn.
    """

    is_anomalous: np.ndarray
    folds: list[np.ndarray]

    @classmethod
    def of(cls, owner: np.ndarray, is_anomalous: np.ndarray, seed: int) -> Self:
        return cls(is_anomalous, folds_by_video(owner, is_anomalous, seed, FOLD_REPEATS))

    def cross_validated_aucs(self, states: np.ndarray, config: ProbeConfig) -> list[float]:
        return cross_validated_aucs(states, self.is_anomalous, self.folds, config.scorer, config.l2)


def _shuffled(samples: Samples, seed: int, number: int) -> Iterator[_Labelling]:
    """Shuffle the labels by video, `number` times."""
    rng = np.random.default_rng(seed)

    def attempts() -> Iterator[_Labelling]:
        for attempt in range(1, 10 * number + 1):
            labels = shuffle_by_video(samples.owner, samples.is_anomalous, rng)
            # Labels of segments can all fall into one video, which no fold can hold out.
            with suppress(HiProbeError):
                yield _Labelling.of(samples.owner, labels, seed + attempt)

    return itertools.islice(attempts(), number)


def best_layer_null(observed: float, maxima: np.ndarray) -> dict[str, Any]:
    """How good the best of all layers looks if labels mean nothing.

    Parameters
    ----------
    observed : float
        The best layer's cross-validated AUC.
    maxima : (shuffle,) float64
        The same of shuffled labels: the maximum over layers, for the observed one is a maximum too.

    Returns
    -------
    dict
        ``num_shuffles``; ``best_cv_null_95``, their 95 % point (the next higher one where it falls
        between two), and ``best_cv_p_value``, (1 + those not below `observed`) / (1 + shuffles);
        both None without shuffles.
    """
    if not len(maxima):
        return {"num_shuffles": 0, "best_cv_null_95": None, "best_cv_p_value": None}
    return {
        "num_shuffles": len(maxima),
        "best_cv_null_95": float(np.quantile(maxima, NULL_LEVEL, method="higher")),
        "best_cv_p_value": float((1 + (maxima >= observed).sum()) / (1 + len(maxima))),
    }


def _measure_layers(
    store: FeatureStore,
    layers: Sequence[int],
    samples: Samples,
    labellings: Sequence[_Labelling],
    draws: Sequence[np.ndarray],
    config: ProbeConfig,
    on_layer: Callable[[int, int], None],
) -> tuple[dict[int, dict[str, float]], np.ndarray, list[dict[int, LayerStatistics]]]:
    """Measure all samples and each draw's by layer, from one read of a layer.

    Returns
    -------
    separation : dict of int to dict
        `_separation` of all samples.
    aucs : (layer, shuffle) float64
        Cross-validated AUC of the shuffled labels.
    statistics : list of dict of int to LayerStatistics
        DLSP's metrics of all samples, then of each draw's.
    """
    separation: dict[int, dict[str, float]] = {}
    subsets = [np.ones(len(samples.owner), dtype=bool), *draws]
    statistics: list[dict[int, LayerStatistics]] = [{} for _ in subsets]
    true, *shuffled = labellings
    aucs = np.empty((len(layers), len(shuffled)))
    for done, layer in enumerate(layers):
        on_layer(done, len(layers))
        states = samples.states(store, layer)
        separation[layer] = _separation(states, true, config) | lens_auc(store, samples, layer)
        aucs[done] = [np.mean(one.cross_validated_aucs(states, config)) for one in shuffled]
        for own, rows in zip(statistics, subsets, strict=True):
            own[layer] = layer_statistics(states[rows], samples.is_anomalous[rows], config.num_bins)
    on_layer(len(layers), len(layers))
    return separation, aucs, statistics


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


def _separation(states: np.ndarray, labelling: _Labelling, config: ProbeConfig) -> dict[str, float]:
    """How well the classes lie apart in one layer: without a scorer, and for the scorer."""
    aucs = labelling.cross_validated_aucs(states, config)
    return {
        "silhouette": float(silhouette_score(standardised(states), labelling.is_anomalous)),
        "cv_auc": float(np.mean(aucs)),
        "cv_auc_std": float(np.std(aucs)),
    }


def _embed(store: FeatureStore, samples: Samples, layer: int, seed: int) -> pd.DataFrame:
    """t-SNE of one layer's samples: the rows of ``tsne.csv``."""
    states = standardised(samples.states(store, layer))
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
