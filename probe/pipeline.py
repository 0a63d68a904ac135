"""The probing job: store → few-shot samples → DLSP → scorer → threshold → `probe.json`.

Run by ``hiprobe probe``. Reads the training videos' states layer by layer; needs no GPU, no
torch and no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from scipy.special import expit

from hiprobe.probe.saliency import (
    DEFAULT_BINS,
    METRICS,
    LayerStatistics,
    Saliency,
    dlsp,
    layer_statistics,
)
from hiprobe.probe.samples import (
    MIN_VIDEOS_PER_CLASS,
    Samples,
    choose_videos,
    make_samples,
)
from hiprobe.probe.scorers import DEFAULT_L2, fit_logistic
from hiprobe.store import DONE, FeatureStore, HiProbeError, Probe, StoreError, read_manifest


@dataclass(frozen=True)
class ProbeConfig:
    """One probing experiment.

    Attributes
    ----------
    store : Path
    split : str
        Videos to train on.
    fraction : float in (0, 1]
        Few-shot share of them, stratified by label.
    seed : int
        Of that draw.
    layer : int or None
        None lets DLSP choose.
    samples_per_video : int
    kappa : float
        κ of the threshold, eq. 10.
    num_bins : int
        B of the entropy.
    l2 : float
        Penalty of the scorer; 0 is the paper's setting.
    manifest : Path or None
        Labels from here instead of the store's.
    """

    store: Path
    split: str = "train"
    fraction: float = 1.0
    seed: int = 0
    layer: int | None = None
    samples_per_video: int = 1
    kappa: float = 0.2
    num_bins: int = DEFAULT_BINS
    l2: float = DEFAULT_L2
    manifest: Path | None = None


def run_probe(
    config: ProbeConfig, on_layer: Callable[[int, int], None] = lambda done, total: None
) -> Probe:
    """Choose a layer, train the scorer on it and calibrate the threshold.

    Parameters
    ----------
    config : ProbeConfig
    on_layer : callable
        Called with (layers done, layers) as DLSP goes.

    Raises
    ------
    HiProbeError
        No training videos, or of one class only; no such layer.
    """
    store = FeatureStore.open(config.store)
    labels = _training_labels(store, config)
    video_ids = choose_videos(labels, config.fraction, config.seed)
    samples = make_samples(store, video_ids, labels, config.samples_per_video)
    statistics = {}
    for done, layer in enumerate(store.layers):
        on_layer(done, len(store.layers))
        statistics[layer] = layer_statistics(
            samples.states(store, layer), samples.is_anomalous, config.num_bins
        )
    on_layer(len(store.layers), len(store.layers))
    if not any(layer >= 1 for layer in statistics):
        raise HiProbeError(f"{config.store}: it has layer 0 only; DLSP needs layers above it.")
    saliency = dlsp(statistics)
    layer = saliency.layer if config.layer is None else config.layer
    return _train(store, samples, config, layer, statistics, saliency)


def _train(
    store: FeatureStore,
    samples: Samples,
    config: ProbeConfig,
    layer: int,
    statistics: dict[int, LayerStatistics],
    saliency: Saliency,
) -> Probe:
    states = samples.states(store, layer)
    scorer = fit_logistic(states, samples.is_anomalous, config.l2)
    scores = expit(scorer.logits(states))
    mean, std = float(scores.mean()), float(scores.std())
    return Probe(
        store={"path": str(config.store.absolute()), "provenance": store.provenance},
        layer=layer,
        layers=_layer_table(statistics, saliency),
        scorer={
            "kind": "logistic",
            "weight": scorer.weight.tolist(),
            "bias": scorer.bias,
            "l2": scorer.l2,
            "num_iterations": scorer.num_iterations,
        },
        threshold={
            "mean": mean,
            "std": std,
            "kappa": config.kappa,
            "value": mean + config.kappa * std,
        },
        training={
            "video_ids": list(samples.video_ids),
            "num_samples": len(samples.is_anomalous),
            "num_anomalous_samples": int(samples.is_anomalous.sum()),
            "split": config.split,
            "fraction": config.fraction,
            "seed": config.seed,
            "samples_per_video": config.samples_per_video,
            "num_bins": config.num_bins,
            "layer_choice": "dlsp" if config.layer is None else "fixed",
            "manifest": str(config.manifest.absolute()) if config.manifest else None,
        },
    )


def _training_labels(store: FeatureStore, config: ProbeConfig) -> pd.Series:
    """Labels of the finished videos of the split, by video id."""
    videos = store.videos
    if config.manifest is not None:
        records = {record.video_id: record for record in read_manifest(config.manifest)}
        videos = videos.loc[[video_id for video_id in videos.index if video_id in records]]
        videos = videos.assign(
            label=[records[video_id].label for video_id in videos.index],
            split=[records[video_id].split for video_id in videos.index],
        )
    videos = videos[(videos["status"] == DONE) & (videos["split"] == config.split)]
    counts = {label: int((videos["label"] == label).sum()) for label in ("normal", "anomalous")}
    if min(counts.values()) < MIN_VIDEOS_PER_CLASS:
        raise StoreError(
            f"{config.store}: cannot train on split {config.split!r}: it has {counts['normal']} "
            f"normal and {counts['anomalous']} anomalous finished videos, expected at least "
            f"{MIN_VIDEOS_PER_CLASS} of each. Extract more videos, choose another --split, or "
            "give other labels with --manifest."
        )
    return videos["label"]


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
