"""The scored test set: one table of segments, and everything that is measured on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from hiprobe.evaluate.map_at_iou import mean_average_precision
from hiprobe.evaluate.metrics import Ranking, equal_error_rate, f1_score, pair_auc


@dataclass(frozen=True)
class ScoredSegments:
    """Scores of the test videos' segments, beside their ground truth.

    Attributes
    ----------
    videos : DataFrame
        One row a video, indexed by ``video_id``: label, category, num_frames, fps,
        annotations (clipped at the true length).
    video : (segment,) int
        Row of `videos` that a segment belongs to, ascending.
    start_frame, stop_frame : (segment,) int
        Half-open.
    num_anomalous, num_normal : (segment,) int
        Frames of each class.
    raw, smoothed : (segment,) float64 in [0, 1]
    threshold : float
        T.
    """

    videos: pd.DataFrame
    video: np.ndarray
    start_frame: np.ndarray
    stop_frame: np.ndarray
    num_anomalous: np.ndarray
    num_normal: np.ndarray
    raw: np.ndarray
    smoothed: np.ndarray
    threshold: float

    @property
    def is_anomalous(self) -> np.ndarray:
        """Is the smoothed score above the threshold: (segment,) bool."""
        return self.smoothed > self.threshold

    @property
    def variants(self) -> dict[str, np.ndarray]:
        """The four scores that are reported side by side, each (segment,) float64."""
        return {
            "raw": self.raw,
            "smoothed": self.smoothed,
            "localized": np.where(self.is_anomalous, self.smoothed, 0.0),
            "binary": self.is_anomalous.astype(np.float64),
        }

    def ranking(self, scores: np.ndarray, where: np.ndarray | None = None) -> Ranking:
        """Rank all segments, or some, by `scores`."""
        columns = (scores, self.num_anomalous, self.num_normal, self.video)
        return Ranking(*(columns if where is None else (values[where] for values in columns)))


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
        Bootstrap resamples over videos; 0 leaves the intervals out.
    seed : int
        Of the bootstrap.
    on_variant : callable
        Called with each variant's name before it is measured.
    """
    content: dict[str, Any] = {}
    for name, scores in scored.variants.items():
        on_variant(name)
        content[name] = _areas(scored.ranking(scores), num_resamples, seed)
    of_anomalous = (scored.videos["label"] == "anomalous").to_numpy()[scored.video]
    normal_frames = scored.num_normal[~of_anomalous]
    return content | {
        "controls": {
            name: _point(scored.ranking(scores)) for name, scores in controls(scored).items()
        },
        "pairs": pair_auc(scored.smoothed, scored.num_anomalous, scored.num_normal, scored.video),
        "anomalous_videos_only": _point(scored.ranking(scored.smoothed, of_anomalous)),
        "per_category": _per_category(scored, of_anomalous),
        "map_at_iou": mean_average_precision(scored),
        "equal_error_rate": equal_error_rate(scored.ranking(scored.smoothed)),
        "f1": f1_score(scored.is_anomalous, scored.num_anomalous, scored.num_normal),
        "false_alarm_rate": (
            float(normal_frames[scored.is_anomalous[~of_anomalous]].sum() / normal_frames.sum())
            if normal_frames.sum()
            else None
        ),
        "threshold": scored.threshold,
        "num_videos": len(scored.videos),
        "num_anomalous_videos": int((scored.videos["label"] == "anomalous").sum()),
        "num_segments": len(scored.raw),
        "num_frames": int((scored.num_anomalous + scored.num_normal).sum()),
        "num_anomalous_frames": int(scored.num_anomalous.sum()),
        "bootstrap": {"num_resamples": num_resamples, "seed": seed, "unit": "video"},
    }


def controls(scored: ScoredSegments) -> dict[str, np.ndarray]:
    """Scores that know no content within a video, to hold a result against.

    Returns
    -------
    dict of str to (segment,) float64
        ``video_oracle``: 1 for every segment of a video with any anomalous frame;
        ``video_means``: each video's mean smoothed score; ``centre_prior``: nearness of the
        segment's middle to the middle of its video.
    """
    num_videos = len(scored.videos)
    frames = scored.num_anomalous + scored.num_normal

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(scored.video, weights=values, minlength=num_videos)

    means = total(scored.smoothed * frames) / np.maximum(total(frames), 1)
    length = scored.videos["num_frames"].to_numpy()[scored.video]
    middle = (scored.start_frame + scored.stop_frame) / 2 / length
    return {
        "video_oracle": (total(scored.num_anomalous) > 0).astype(np.float64)[scored.video],
        "video_means": means[scored.video],
        "centre_prior": 1.0 - np.abs(2 * middle - 1.0),
    }


def _areas(ranking: Ranking, num_resamples: int, seed: int) -> dict[str, Any]:
    metrics = ranking.metrics()
    if metrics is None:
        names = ("auc", "ap", "pr_auc_trapezoid")
        return dict.fromkeys([*names, *(f"{name}_ci" for name in names)])
    areas: dict[str, Any] = asdict(metrics)
    intervals = ranking.bootstrap(num_resamples, seed) if num_resamples else None
    for name in tuple(areas):
        areas[f"{name}_ci"] = [intervals[name].low, intervals[name].high] if intervals else None
    return areas


def _point(ranking: Ranking) -> dict[str, float | None]:
    metrics = ranking.metrics()
    return {name: None if metrics is None else getattr(metrics, name) for name in ("auc", "ap")}


def _per_category(scored: ScoredSegments, of_anomalous: np.ndarray) -> dict[str, Any]:
    """Each category's anomalous videos against all normal videos."""
    category = scored.videos["category"].to_numpy()
    names = sorted(set(category[scored.videos["label"] == "anomalous"]) - {""})
    return {
        str(name): _point(
            scored.ranking(scored.smoothed, ~of_anomalous | (category == name)[scored.video])
        )
        | {"num_videos": int((category == name).sum())}
        for name in names
    }
