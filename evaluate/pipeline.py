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

from hiprobe.evaluate.localization import DEFAULT_SIGMA, smooth
from hiprobe.evaluate.results import write_results
from hiprobe.evaluate.scored import ScoredSegments, measure
from hiprobe.store import (
    DONE,
    FeatureStore,
    HiProbeError,
    ManifestError,
    Probe,
    StoreError,
    read_manifest,
)
from hiprobe.store.ground_truth import anomalous_frame_counts, clip_annotations

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
    videos, warnings = choose_test_videos(store, config.split, config.manifest)
    _check_no_overlap(store, probe, videos, config)
    on_step("scoring")
    scored = attach_ground_truth(
        store,
        videos,
        np.concatenate(
            [probe.score(states) for _, states in store.iter_layer(probe.layer, videos.index)]
        ),
        sigma=config.sigma,
        threshold=probe.threshold["value"] if config.threshold is None else config.threshold,
    )
    metrics = measure(scored, config.num_resamples, config.seed, on_step)
    metrics |= {"warnings": warnings, "provenance": _provenance(store, probe, config)}
    on_step("writing the report")
    write_results(config.results, scored, probe, metrics)
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


def choose_test_videos(
    store: FeatureStore, split: str, manifest: Path | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Pick the finished videos of a split, with their annotations clipped.

    Parameters
    ----------
    store : FeatureStore
    split : str
    manifest : Path, optional
        Labels, splits and annotations from here instead of the store's.

    Returns
    -------
    videos : DataFrame
        As `FeatureStore.videos`.
    warnings : list of str
        Videos left out, ends clipped.

    Raises
    ------
    HiProbeError
        There are none, or an annotation does not fit its video.
    """
    videos = store.videos
    if manifest is not None:
        records = {record.video_id: record for record in read_manifest(manifest)}
        videos = videos.loc[[video_id for video_id in videos.index if video_id in records]]
        videos = videos.assign(
            **{
                name: [getattr(records[video_id], name) for video_id in videos.index]
                for name in ("split", "label", "category", "annotations")
            }
        )
    videos = videos[videos["split"] == split]
    unfinished = videos[videos["status"] != DONE]
    videos = videos[videos["status"] == DONE]
    if videos.empty:
        raise StoreError(
            f"{store.path}: no finished videos in split {split!r}. Extract them, choose "
            "another --split, or give other splits with --manifest."
        )
    warnings = [
        f"{video_id} is {row['status']} and takes no part"
        + (f": {row['error']}" * bool(row["error"]))
        for video_id, row in unfinished.iterrows()
    ]
    return _with_ground_truth(videos, manifest or store.path, warnings), warnings


def _with_ground_truth(videos: pd.DataFrame, source: Path, warnings: list[str]) -> pd.DataFrame:
    problems, clipped = [], []
    for video_id, row in videos.iterrows():
        ranges, num_clipped = clip_annotations(row["annotations"], row["num_frames"])
        clipped.append(ranges)
        if len(ranges) < len(row["annotations"]):
            start, stop = row["annotations"][-1]
            problems.append(
                f"{video_id}: annotation {start}:{stop} lies beyond its {row['num_frames']} frames"
            )
        elif row["label"] == "anomalous" and not ranges:
            problems.append(f"{video_id}: labelled anomalous, but no annotation says where")
        elif num_clipped:
            end = row["annotations"][-1][1]
            warnings.append(
                f"{video_id}: annotation ended at {end}, clipped to its {row['num_frames']} frames"
            )
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems[:20])
        raise ManifestError(
            f"{source}: {len(problems)} test video(s) have no usable "
            f"ground truth:\n{listing}\nGive a corrected manifest with --manifest FILE; the store "
            "stays as it is."
        )
    return videos.assign(annotations=clipped)


def _check_no_overlap(
    store: FeatureStore, probe: Probe, videos: pd.DataFrame, config: EvaluateConfig
) -> None:
    trained_on, own = probe.store["provenance"], store.provenance
    if trained_on.get("manifest") != own.get("manifest"):
        return  # another data set, whose ids may coincide
    if overlap := sorted(set(probe.training["video_ids"]) & set(videos.index)):
        raise HiProbeError(
            f"{config.probe}: {len(overlap)} of the videos to evaluate were used for training, "
            f"for example {overlap[0]!r}. Evaluate another --split."
        )


def attach_ground_truth(
    store: FeatureStore, videos: pd.DataFrame, raw: np.ndarray, *, sigma: float, threshold: float
) -> ScoredSegments:
    """Smooth the scores of some videos' segments and put the ground truth beside them.

    Parameters
    ----------
    store : FeatureStore
    videos : DataFrame
        From `choose_test_videos`.
    raw : (segment,) float64
        In the store's order.
    sigma : float
        Width of the smoothing kernel in segments.
    threshold : float
    """
    segments = store.segments[store.segments["video_id"].isin(videos.index)]
    video = videos.index.get_indexer(segments["video_id"])
    smoothed = np.empty_like(raw)
    start, stop = segments["start_frame"].to_numpy(), segments["stop_frame"].to_numpy()
    num_anomalous = np.empty(len(raw), dtype=np.int64)
    for index, ranges in enumerate(videos["annotations"]):
        own = video == index
        smoothed[own] = smooth(raw[own], sigma)
        num_anomalous[own] = anomalous_frame_counts(start[own], stop[own], ranges)
    return ScoredSegments(
        videos=videos,
        video=video,
        start_frame=start,
        stop_frame=stop,
        num_anomalous=num_anomalous,
        num_normal=stop - start - num_anomalous,
        raw=raw,
        smoothed=smoothed,
        threshold=threshold,
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
        "ground_truth": "0-based, half-open, true video lengths, ends beyond the length clipped",
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
