"""Is a video anomalous at all? One score a video, against its label; no annotations needed."""

from __future__ import annotations

import numpy as np

from hiprobe.evaluate.metrics import Ranking
from hiprobe.evaluate.scored import ScoredSegments


def video_statistics(scored: ScoredSegments) -> dict[str, np.ndarray]:
    """Make one score of each video's smoothed scores.

    Returns
    -------
    dict of str to (video,) float64
        ``maximum``: the highest score of its segments; ``mean``: the mean over its frames, not
        segments, for the last segment of a video may be short.
    """
    num_videos = len(scored.videos)
    frames = scored.stop_frame - scored.start_frame
    maximum = np.full(num_videos, -np.inf)
    np.maximum.at(maximum, scored.video, scored.smoothed)
    total = np.bincount(scored.video, weights=scored.smoothed * frames, minlength=num_videos)
    lengths = np.bincount(scored.video, weights=frames, minlength=num_videos)
    return {"maximum": maximum, "mean": total / np.maximum(lengths, 1)}


def video_rankings(scored: ScoredSegments) -> dict[str, Ranking]:
    """Rank the videos by each of `video_statistics`: a video counts once, by its label."""
    is_anomalous = (scored.videos["label"] == "anomalous").to_numpy()
    counts = is_anomalous.astype(np.int64), (~is_anomalous).astype(np.int64)
    numbers = np.arange(len(scored.videos))
    return {
        name: Ranking(scores, *counts, numbers) for name, scores in video_statistics(scored).items()
    }
