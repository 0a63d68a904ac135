"""The probing job: store → few-shot samples → DLSP → scorer → threshold → `probe.json`.

Run by ``hiprobe probe``. Reads the training videos' states layer by layer; needs no GPU, no
torch and no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    make_segment_samples,
)
from hiprobe.store.scorers import DEFAULT_L2, fit_scorer
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
    num_videos : int or None
        So many of them, instead of a share.
    seed : int
        Of that draw.
    layer : int or None
        None lets DLSP choose.
    labels : {'video', 'segment'}
        'video': each of a video's samples has its label (weak supervision, the paper's). 'segment':
        each segment is a sample with its own label, from annotations.
    samples_per_video : int
        With ``labels='video'``: temporal bins that a video's segments are averaged in.
    scorer : {'logistic', 'svm', 'distance'}
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
    samples = draw_samples(store, training_videos(store, config), config)
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


def draw_samples(store: FeatureStore, videos: pd.DataFrame, config: ProbeConfig) -> Samples:
    """Draw few-shot videos, and make samples of their segments.

    Parameters
    ----------
    store : FeatureStore
    videos : DataFrame
        To draw from, see `training_videos`.
    config : ProbeConfig
    """
    return samples_of(store, videos, draw_videos(videos, config), config)


def draw_videos(videos: pd.DataFrame, config: ProbeConfig) -> list[str]:
    """Draw few-shot videos: their ids, in the order of `videos`."""
    return choose_videos(videos["label"], config.fraction, config.seed, config.num_videos)


def samples_of(
    store: FeatureStore, videos: pd.DataFrame, video_ids: Sequence[str], config: ProbeConfig
) -> Samples:
    """Make samples of some videos' segments, as `config` has it."""
    if config.labels == "segment":
        return make_segment_samples(store, video_ids, videos)
    return make_samples(store, video_ids, videos["label"], config.samples_per_video)


def _train(
    store: FeatureStore,
    samples: Samples,
    config: ProbeConfig,
    layer: int,
    statistics: dict[int, LayerStatistics],
    saliency: Saliency,
) -> Probe:
    states = samples.states(store, layer)
    scorer = fit_scorer(config.scorer, states, samples.is_anomalous, config.l2)
    scores = expit(scorer.logits(states))
    mean, std = float(scores.mean()), float(scores.std())
    return Probe(
        store={"path": str(config.store.absolute()), "provenance": store.provenance},
        layer=layer,
        layers=_layer_table(statistics, saliency),
        scorer=scorer.to_json(),
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
            "fraction": config.fraction if config.num_videos is None else None,
            "num_videos": len(samples.video_ids),
            "seed": config.seed,
            "labels": config.labels,
            "samples_per_video": config.samples_per_video if config.labels == "video" else None,
            "num_bins": config.num_bins,
            "layer_choice": "dlsp" if config.layer is None else "fixed",
            "manifest": str(config.manifest.absolute()) if config.manifest else None,
        },
    )


def training_videos(store: FeatureStore, config: ProbeConfig) -> pd.DataFrame:
    """List the finished videos of the split: ``label``, ``annotations`` and more, by video id.

    Raises
    ------
    StoreError
        Too few of a class.
    """
    videos = store.videos
    if config.manifest is not None:
        records = {record.video_id: record for record in read_manifest(config.manifest)}
        videos = videos.loc[[video_id for video_id in videos.index if video_id in records]]
        videos = videos.assign(
            **{
                name: [getattr(records[video_id], name) for video_id in videos.index]
                for name in ("label", "split", "annotations")
            }
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
    return videos


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
