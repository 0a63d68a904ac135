"""Everything that is measured on a scored test set: the content of ``metrics.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from hiprobe.evaluate.event_measures import event_measures
from hiprobe.evaluate.low_false_positives import FALSE_POSITIVE_RATES, partial_auc, threshold_at
from hiprobe.evaluate.map_at_iou import mean_average_precision, precision_by_category
from hiprobe.evaluate.metrics import (
    METRICS,
    ConfidenceInterval,
    Ranking,
    equal_error_rate,
    pair_auc,
    percentile_intervals,
)
from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.evaluate.video_level import video_rankings, video_statistics

# Below, no interval of AP that we know covers what it says (benchmarks/interval_coverage.py).
MIN_VIDEOS_FOR_AP = 100


def measure(
    scored: ScoredSegments,
    num_resamples: int = 1000,
    seed: int = 0,
    on_variant: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Measure everything of `metrics.json`; what is undefined is None.

    Parameters
    ----------
    scored : ScoredSegments
    num_resamples : int
        Bootstrap resamples over videos; 0 leaves the intervals out that need them, all but that of
        the AUC.
    seed : int
        Of the bootstrap.
    on_variant : callable
        Called with each variant's name before it is measured.
    """
    content: dict[str, Any] = {}
    for name, scores in scored.variants.items():
        on_variant(name)
        content[name] = _areas(scored.ranking(scores), num_resamples, seed)
    content["video_level"] = {
        name: _areas(ranking, num_resamples, seed)
        for name, ranking in video_rankings(scored).items()
    }
    num_frames = int((scored.stop_frame - scored.start_frame).sum())
    num_anomalous_frames = int(scored.num_anomalous.sum()) if scored.has_frame_labels else None
    return content | {
        "controls": {name: scored.areas(scores) for name, scores in controls(scored).items()},
        "pairs": pair_auc(scored.smoothed, scored.num_anomalous, scored.num_normal, scored.video),
        "anomalous_videos_only": scored.areas(scored.smoothed, scored.of_anomalous_video),
        "per_category": _per_category(scored),
        "map_at_iou": mean_average_precision(scored),
        "map_at_iou_by_category": precision_by_category(scored),
        **_of_few_false_positives(scored.ranking(scored.smoothed)),
        "events": event_measures(scored),
        "f1": scored.f1,
        "false_alarm_rate": scored.false_alarm_rate,
        "threshold": scored.threshold,
        "num_videos": len(scored.videos),
        "num_anomalous_videos": int((scored.videos["label"] == "anomalous").sum()),
        "num_segments": len(scored.raw),
        "num_frames": num_frames,
        "num_anomalous_frames": num_anomalous_frames,
        "bootstrap": {"num_resamples": num_resamples, "seed": seed, "unit": "video"},
        "intervals": {"auc": "logit-t", "ap": "bootstrap", "pr_auc_trapezoid": "bootstrap"},
    }


def few_videos(metrics: Mapping[str, Any]) -> list[str]:
    """Warn, in at most one sentence, of an interval of AP that is too narrow."""
    if metrics["num_videos"] >= MIN_VIDEOS_FOR_AP or metrics["smoothed"]["ap_ci"] is None:
        return []
    return [
        f"the interval of AP is of {metrics['num_videos']} videos: with fewer than "
        f"{MIN_VIDEOS_FOR_AP} it is too narrow (86 to 92 % instead of 95 % at 30 videos)"
    ]


def controls(scored: ScoredSegments) -> dict[str, np.ndarray]:
    """Scores that know no content within a video, to hold a result against.

    Returns
    -------
    dict of str to (segment,) float64
        ``video_oracle``: 1 for every segment of a video with any anomalous frame;
        ``video_means``: each video's mean smoothed score; ``centre_prior``: nearness of the
        segment's middle to the middle of its video.
    """
    has_anomaly = np.bincount(scored.video, scored.num_anomalous, minlength=len(scored.videos)) > 0
    length = scored.videos["num_frames"].to_numpy()[scored.video]
    middle = (scored.start_frame + scored.stop_frame) / 2 / length
    return {
        "video_oracle": has_anomaly.astype(np.float64)[scored.video],
        "video_means": video_statistics(scored)["mean"][scored.video],
        "centre_prior": 1.0 - np.abs(2 * middle - 1.0),
    }


def _areas(ranking: Ranking, num_resamples: int, seed: int) -> dict[str, Any]:
    """All three areas, each with its interval and standard error over videos."""
    metrics = ranking.metrics()
    if metrics is None:  # the keys stay, so that readers need not ask
        names = (name + end for name in METRICS for end in ("", "_ci", "_se"))
        return dict.fromkeys([*names, "auc_bootstrap_ci"])
    draws = ranking.resampled(num_resamples, seed)
    intervals = percentile_intervals(draws) if len(draws) else {}
    errors = draws.std(axis=0, ddof=1) if len(draws) > 1 else [None] * len(METRICS)
    areas: dict[str, Any] = asdict(metrics)
    areas |= {f"{name}_ci": _ends(intervals.get(name)) for name in METRICS}
    areas |= {
        f"{name}_se": error for name, error in zip(METRICS, map(_number, errors), strict=True)
    }
    # Of the AUC both are known without a resample, and cover better.
    return areas | {
        "auc_ci": _ends(ranking.auc_interval()),
        "auc_se": ranking.auc_standard_error(),
        "auc_bootstrap_ci": areas["auc_ci"],
    }


def _ends(interval: ConfidenceInterval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _of_few_false_positives(ranking: Ranking) -> dict[str, Any]:
    """What the ROC curve has at few false positives, and where both errors are equal."""
    found = {rate: threshold_at(ranking, rate) for rate in FALSE_POSITIVE_RATES}
    return {
        "equal_error_rate": equal_error_rate(ranking),
        "tpr_at_fpr": {f"{rate:g}": one and one[0] for rate, one in found.items()},
        "partial_auc": {f"{rate:g}": partial_auc(ranking, rate) for rate in FALSE_POSITIVE_RATES},
    }


def _per_category(scored: ScoredSegments) -> dict[str, Any]:
    """Each category's anomalous videos against all normal videos."""
    category = scored.videos["category"].to_numpy()
    # Normal videos carry no category, and some manifests name none at all.
    names = sorted(set(category[scored.videos["label"] == "anomalous"]) - {""})
    of_normal = ~scored.of_anomalous_video
    return {
        str(name): scored.areas(scored.smoothed, of_normal | (category == name)[scored.video])
        | {"num_videos": int((category == name).sum())}
        for name in names
    }
