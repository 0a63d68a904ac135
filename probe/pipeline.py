"""The probing job: store → few-shot samples → DLSP → scorer → threshold → `probe.json`.

Run by ``hiprobe probe``. Reads the training videos' states layer by layer; needs no GPU, no
torch and no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from hiprobe.probe.saliency import (
    DEFAULT_BINS,
    METRICS,
    LayerStatistics,
    Saliency,
    dlsp,
    layer_statistics,
)
from hiprobe.probe.samples import Samples, draw_samples
from hiprobe.store import FeatureStore, HiProbeError, Probe
from hiprobe.store.scorers import DEFAULT_L2, fit_scorer
from hiprobe.store.train_test_overlap import files_of


@dataclass(frozen=True)
class ProbeConfig:
    """One probing experiment.

    Attributes
    ----------
    store : Path
    split, fraction, num_videos, seed, labels, samples_per_video, manifest
        Which samples to train on; see `hiprobe.probe.samples.draw_samples`.
    layer : int or None
        None lets DLSP choose.
    scorer : str
        One of `hiprobe.store.scorers.SCORERS`.
    kappa : float
        κ of the threshold, eq. 10.
    num_bins : int
        B of the entropy.
    l2 : float
        Penalty of the scorer; 0 is the paper's setting.
    """

    store: Path
    split: str = "train"
    fraction: float = 1.0
    num_videos: int | None = None
    seed: int = 0
    layer: int | None = None
    labels: str = "video"
    samples_per_video: int = 1
    scorer: str = "logistic"
    kappa: float = 0.2
    num_bins: int = DEFAULT_BINS
    l2: float = DEFAULT_L2
    manifest: Path | None = None

    def draw(self, store: FeatureStore) -> Samples:
        """Draw the samples that are asked for."""
        return draw_samples(
            store,
            self.split,
            self.fraction,
            self.num_videos,
            self.seed,
            self.labels,
            self.samples_per_video,
            self.manifest,
        )


def run_probe(
    config: ProbeConfig, on_layer: Callable[[int, int], None] = lambda done, total: None
) -> Probe:
    """Choose a layer, train the scorer on it and calibrate the threshold.

    Parameters
    ----------
    config : ProbeConfig
    on_layer : callable
        Called with (layers done, layers) as DLSP goes.

    Returns
    -------
    Probe
        ``training["warnings"]`` names videos that take no part.

    Raises
    ------
    HiProbeError
        No training videos, or of one class only; no such layer.
    """
    store = FeatureStore.open(config.store)
    if config.layer is not None:
        store.check_layers([config.layer])
    samples = config.draw(store)
    # Also where the layer is given: `probe.json` shows what DLSP would have chosen from.
    statistics = measure_layers(store, samples, config.num_bins, on_layer)
    saliency = dlsp(statistics)
    layer = saliency.layer if config.layer is None else config.layer
    states = samples.states(store, layer)
    scorer = fit_scorer(config.scorer, states, samples.is_anomalous, config.l2)
    return Probe(
        store={"path": str(config.store.absolute()), "provenance": store.provenance},
        layer=layer,
        layers=_layer_table(statistics, saliency),
        scorer=scorer.to_json(),
        threshold=calibrate(expit(scorer.logits(states)), config.kappa),
        training=_training(config, store, samples),
    )


def measure_layers(
    store: FeatureStore,
    samples: Samples,
    num_bins: int = DEFAULT_BINS,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, LayerStatistics]:
    """Measure what `dlsp` chooses a layer by, one layer in memory at a time.

    Parameters
    ----------
    store : FeatureStore
    samples : Samples
    num_bins : int
        B of the entropy.
    on_layer : callable
        Called with (layers done, layers).

    Returns
    -------
    dict of int to LayerStatistics
        By layer; layer 0 is measured too, for tables, and `dlsp` leaves it out.

    Raises
    ------
    HiProbeError
        The store has no layer above 0.
    """
    layers_above_0(store)
    statistics = {}
    for done, layer in enumerate(store.layers):
        on_layer(done, len(store.layers))
        states = samples.states(store, layer)
        statistics[layer] = layer_statistics(states, samples.is_anomalous, num_bins)
    on_layer(len(store.layers), len(store.layers))
    return statistics


def layers_above_0(store: FeatureStore) -> list[int]:
    """List the layers that can be chosen; layer 0, the prompt's last embedding, cannot.

    Raises
    ------
    HiProbeError
        There are none.
    """
    layers = [layer for layer in store.layers if layer >= 1]
    if not layers:
        raise HiProbeError(f"{store.path}: it has layer 0 only; DLSP needs layers above it.")
    return layers


def calibrate(scores: np.ndarray, kappa: float) -> dict[str, float]:
    r"""Set the threshold by the scores of the training samples, eq. 10.

    .. math:: T = \mu + \kappa \sigma

    Parameters
    ----------
    scores : (sample,) float64 in [0, 1]
    kappa : float

    Returns
    -------
    dict
        ``mean``, ``std`` (population), ``kappa``, and T as ``value``.
    """
    mean, std = float(scores.mean()), float(scores.std())
    return {"mean": mean, "std": std, "kappa": kappa, "value": mean + kappa * std}


def _training(config: ProbeConfig, store: FeatureStore, samples: Samples) -> dict[str, Any]:
    """The object ``training`` of `probe.json`: what was asked for, and what was drawn."""
    return {
        "video_ids": samples.video_ids,
        "files": files_of(store, samples.video_ids),
        "num_samples": len(samples.is_anomalous),
        "num_anomalous_samples": int(samples.is_anomalous.sum()),
        "split": config.split,
        "fraction": config.fraction if config.num_videos is None else None,
        "num_videos": len(samples.video_ids),
        "seed": config.seed,
        "labels": config.labels,
        "samples_per_video": config.samples_per_video if config.labels == "video" else None,
        "num_bins": config.num_bins,
        "layer_choice": "dlsp" if config.layer is None else "fixed",
        "manifest": str(config.manifest.absolute()) if config.manifest else None,
        "warnings": list(samples.warnings),
    }


def _layer_table(
    statistics: dict[int, LayerStatistics], saliency: Saliency
) -> dict[str, list[float | None]]:
    """Lists of length L+1, index = layer; None for layers that are not in the store."""

    def column(values: dict[int, float]) -> list[float | None]:
        return [values.get(layer) for layer in range(max(statistics) + 1)]

    table = {
        metric: column({layer: getattr(one, metric) for layer, one in statistics.items()})
        for metric in METRICS
    }
    table |= {f"{metric}_z": column(saliency.z_scores[metric]) for metric in METRICS}
    return table | {"saliency": column(saliency.saliency)}
