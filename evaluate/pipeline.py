"""The evaluation job: store + `probe.json` → scores, intervals, metrics, report.

Run by ``hiprobe evaluate``. Needs no GPU, no torch, no model and no video file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiprobe.evaluate.test_set import (
    Convention,
    attach_ground_truth,
    choose_test_videos,
    describe,
)
from hiprobe.evaluate.report import render_results
from hiprobe.evaluate.results import write_results
from hiprobe.evaluate.scored import measure
from hiprobe.store import FeatureStore, HiProbeError, Probe
from hiprobe.store.localization import DEFAULT_SIGMA

LIBRARIES = ("hiprobe", "numpy", "scipy", "scikit-learn", "zarr")


@dataclass(frozen=True)
class EvaluateConfig:
    """One evaluation.

    Attributes
    ----------
    store, probe, results : Path
    split : str
        Videos to evaluate.
    sigma : float
        Width of the smoothing kernel in segments.
    threshold : float or None
        None takes the probe's.
    num_resamples, seed : int
        Of the bootstrap over videos.
    manifest : Path or None
        Labels, splits and annotations from here instead of the store's.
    convention : Convention
        Of the ground truth.
    """

    store: Path
    probe: Path
    results: Path
    split: str = "test"
    sigma: float = DEFAULT_SIGMA
    threshold: float | None = None
    num_resamples: int = 1000
    seed: int = 0
    manifest: Path | None = None
    convention: Convention = Convention()  # noqa: RUF009 (frozen)


def run_evaluate(
    config: EvaluateConfig, on_step: Callable[[str], None] = lambda step: None
) -> dict[str, Any]:
    """Score the test videos, measure, and write the results' folder.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    HiProbeError
        The probe is of another model, training and test videos overlap, there are no test
        videos, or an annotation does not fit its video.
    """
    store, probe = FeatureStore.open(config.store), Probe.load(config.probe)
    _check_same_model(store, probe, config)
    videos, warnings = choose_test_videos(store, config.split, config.manifest, config.convention)
    warnings += _check_no_overlap(store, probe, videos, config)
    on_step("scoring")
    raw = [probe.score(states) for _, states in store.iter_layer(probe.layer, videos.index)]
    scored = attach_ground_truth(
        store.segments[store.segments["video_id"].isin(videos.index)],
        videos,
        np.concatenate(raw),
        sigma=config.sigma,
        threshold=probe.threshold["value"] if config.threshold is None else config.threshold,
    )
    metrics = measure(scored, config.num_resamples, config.seed, on_step)
    metrics |= {"ground_truth": describe(config.convention)}
    metrics |= {
        "warnings": warnings + _other_settings(store, probe),
        "provenance": _provenance(store, probe, config),
    }
    on_step("writing the report")
    write_results(config.results, scored, metrics, probe, store)
    render_results(config.results)
    return metrics


def _check_same_model(store: FeatureStore, probe: Probe, config: EvaluateConfig) -> None:
    own, other = store.provenance["model"], probe.store["provenance"]["model"]
    for name in ("weights_digest", "class"):
        if own[name] != other[name]:
            raise HiProbeError(
                f"{config.probe}: was trained on states of another model: {name} is "
                f"{other[name]!r} ({other['id']}), the store's is {own[name]!r} ({own['id']}). "
                "Train a probe on a store of this model."
            )
    if probe.num_features != store.num_features:
        raise HiProbeError(
            f"{config.probe}: reads states of {probe.num_features} features, the store's have "
            f"{store.num_features} features."
        )


def _other_settings(store: FeatureStore, probe: Probe) -> list[str]:
    """What the probe's states were extracted with, and the store's were not."""
    trained_on, own = probe.store["provenance"], store.provenance
    pairs = dict.fromkeys(("prompt", "keyframes", "segment_frames"), (trained_on, own))
    pairs |= dict.fromkeys(("dtype", "load_in"), (trained_on["model"], own["model"]))
    return [
        f"the probe was trained on states of another {name}: {its.get(name)!r}, the store's is "
        f"{ours.get(name)!r}"
        for name, (its, ours) in pairs.items()
        if its.get(name) != ours.get(name)
    ]


def _check_no_overlap(
    store: FeatureStore, probe: Probe, videos: pd.DataFrame, config: EvaluateConfig
) -> list[str]:
    """Refuse to evaluate training videos; warn where ids coincide and nobody can tell."""
    overlap = sorted(set(probe.training["video_ids"]) & set(videos.index))
    if not overlap:
        return []
    manifests = [
        provenance.get("manifest", {}).get("digest")
        for provenance in (probe.store["provenance"], store.provenance)
    ]
    if manifests[0] != manifests[1]:
        return [
            f"{len(overlap)} of the videos have ids of videos that the probe was trained on, for "
            f"example {overlap[0]}, by another manifest: if they are the same videos, these "
            "figures say nothing"
        ]
    raise HiProbeError(
        f"{config.probe}: {len(overlap)} of the videos to evaluate were used for training, "
        f"for example {overlap[0]!r}. Evaluate another --split."
    )


def _provenance(store: FeatureStore, probe: Probe, config: EvaluateConfig) -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": {
            "split": config.split,
            "sigma_segments": config.sigma,
            "threshold": "probe" if config.threshold is None else config.threshold,
            "manifest": str(config.manifest.absolute()) if config.manifest else None,
        },
        "probe": {
            "path": str(config.probe.absolute()),
            "layer": probe.layer,
            "scorer": {k: v for k, v in probe.scorer.items() if not isinstance(v, list)},
            "threshold": probe.threshold,
            "training": {k: v for k, v in probe.training.items() if k != "video_ids"}
            | {"num_videos": len(probe.training["video_ids"])},
            "store": probe.store["path"],
        },
        "store": {"path": str(config.store.absolute()), **store.provenance},
        "libraries": {name: version(name) for name in LIBRARIES},
    }
