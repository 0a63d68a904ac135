"""How fast are exact frame-level metrics from segments' counts? ``make bench-evaluate``.

At XD-Violence's size (its real lengths and annotations from ``../shared/data``, else lengths drawn
alike), random scores of 24-frame segments:

- *ours*: frames counted per segment, then AUC, average precision and the trapezoid area;
- *sklearn*: labels and scores expanded to frames, then `roc_auc_score`, `average_precision_score`
  and `auc` of `precision_recall_curve`.

Time: medians of interleaved rounds in one process. Memory: the peak of what each allocates
(`tracemalloc`, which numpy reports to). Both give the same figures, which is checked.
"""

from __future__ import annotations

import json
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from hiprobe.evaluate.test_set import TestSet
from hiprobe.manifest.benchmarks import xd_violence

ROUNDS, SEGMENT_FRAMES = 9, 24


def xd_videos() -> pd.DataFrame:
    """XD-Violence's test videos: ``label``, ``num_frames`` and ``annotations``."""
    shared = Path(os.environ.get("HIPROBE_SHARED_DATA", "../shared/data")) / "annotations"
    if (shared / "xd_violence_temporal.txt").exists():
        records = xd_violence(
            shared / "xd_violence_temporal.txt", lengths=shared / "xd_violence_test_lengths.csv"
        ).records
        lengths = [record.num_frames for record in records]
        annotations = [record.annotations for record in records]
    else:
        rng = np.random.default_rng(0)
        lengths = rng.lognormal(7.6, 0.9, 800).astype(int).clip(100, 30_000).tolist()
        annotations = [((n // 3, n // 2),) * (i % 8 < 5) for i, n in enumerate(lengths)]
    return pd.DataFrame(
        {
            "label": [("normal", "anomalous")[bool(ranges)] for ranges in annotations],
            "num_frames": lengths,
            "annotations": annotations,
        },
        index=[f"video-{index}" for index in range(len(lengths))],
    )


def segments_of(videos: pd.DataFrame) -> pd.DataFrame:
    """All videos in segments."""
    parts = []
    for video_id, num_frames in videos["num_frames"].items():
        starts = np.arange(0, num_frames, SEGMENT_FRAMES)
        stops = np.minimum(starts + SEGMENT_FRAMES, num_frames)
        parts.append(pd.DataFrame({"start_frame": starts, "stop_frame": stops}))
        parts[-1].insert(0, "video_id", video_id)
    return pd.concat(parts, ignore_index=True)


def ours(segments: pd.DataFrame, test: TestSet, scores: np.ndarray) -> tuple[float, float, float]:
    """AUC, AP and trapezoid area from counts per segment."""
    scored = test.with_segments(segments).score(scores, sigma=0)
    metrics = scored.ranking(scored.raw).metrics()
    assert metrics is not None
    return metrics.auc, metrics.ap, metrics.pr_auc_trapezoid


def sklearn(
    segments: pd.DataFrame, videos: pd.DataFrame, scores: np.ndarray
) -> tuple[float, float, float]:
    """The same on frames, as the field's scripts have it."""
    lengths = segments["stop_frame"].to_numpy() - segments["start_frame"].to_numpy()
    expanded = np.repeat(scores, lengths)
    truth = np.zeros(len(expanded))
    first = 0
    for num_frames, ranges in zip(videos["num_frames"], videos["annotations"], strict=True):
        for start, stop in ranges:
            truth[first + start : first + stop] = 1
        first += num_frames
    precision, recall, _ = precision_recall_curve(truth, expanded)
    return (
        float(roc_auc_score(truth, expanded)),
        float(average_precision_score(truth, expanded)),
        float(auc(recall, precision)),
    )


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _peak(function: Callable[[], object]) -> int:
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> None:
    """Measure, print and write."""
    videos = xd_videos()
    segments = segments_of(videos)
    test = TestSet.of_videos(videos, Path("XD-Violence"))
    scores = np.random.default_rng(0).random(len(segments))
    ways = {
        "ours": lambda: ours(segments, test, scores),
        "sklearn": lambda: sklearn(segments, videos, scores),
    }
    results = {name: way() for name, way in ways.items()}
    assert np.allclose(results["ours"], results["sklearn"], rtol=0, atol=1e-12), results
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seconds[name].append(_seconds(way))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    peak = {name: _peak(way) for name, way in ways.items()}
    print(
        f"{len(videos)} videos, {len(segments):,} segments, {videos['num_frames'].sum():,} frames"
    )
    for name in ways:
        print(f"{name}: {1e3 * median[name]:.1f} ms, {peak[name] / 1e6:.1f} MB")
    ratios = {
        "sklearn_over_ours_time": round(median["sklearn"] / median["ours"], 3),
        "sklearn_over_ours_memory": round(peak["sklearn"] / peak["ours"], 3),
    }
    out = Path("benchmarks/out/evaluate.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(ratios, indent=1) + "\n")
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
