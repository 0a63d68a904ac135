"""How often do the intervals of AUC and AP hold the truth? The evidence for `Ranking.auc_interval`.

Run: ``make bench-intervals``. A population of videos whose AUC and AP are known is sampled again
and again, 30, 100 or 290 videos at a time; each sample's intervals either hold the population's
value or not. Populations: made-up videos, and the published scores of VADTree on all test videos
of UCF-Crime and MSAD, where ``../shared/data`` is. Prints a table and writes
``benchmarks/out/interval_coverage.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from hiprobe.evaluate.external import ScoresConfig, run_evaluate_scores
from hiprobe.evaluate.metrics import Ranking
from hiprobe.evaluate.score_rows import COLUMNS
from hiprobe.manifest.benchmarks import msad, ucf_crime
from hiprobe.manifest.draft import Draft
from hiprobe.store import write_manifest
from hiprobe.store.ground_truth import anomalous_frame_counts
from hiprobe.store.results import Results

DATA = Path(os.environ.get("HIPROBE_SHARED_DATA", Path(__file__).parents[2] / "shared/data"))
SIZES = (30, 100, 290)
NUM_RESAMPLES = 300
# A video: its segments' scores, anomalous and normal frames.
Video = tuple[np.ndarray, np.ndarray, np.ndarray]


def made_up(num_videos: int = 4000, seed: int = 0) -> list[Video]:
    """Videos whose lengths, effects and anomalies differ."""
    rng = np.random.default_rng(seed)
    videos = []
    for index in range(num_videos):
        length = int(rng.integers(5, 60))
        anomalous = np.zeros(length, dtype=np.int64)
        if index % 2:
            start = int(rng.integers(0, length))
            anomalous[start : start + int(rng.integers(1, max(2, length // 2)))] = 24
        effect = rng.normal(0, 0.7) + 0.5 * (index % 2)
        scores = effect + 0.7 * rng.normal(size=length) + (anomalous > 0)
        videos.append((scores, anomalous, 24 - anomalous))
    return videos


def of_results(folder: Path) -> list[Video]:
    """The videos of a results' folder, with their raw scores."""
    results, videos = Results.read(folder), []
    for video_id, own in results.segments.groupby("video_id", sort=False):
        start, stop = own["start_frame"].to_numpy(), own["stop_frame"].to_numpy()
        ranges = results.videos[str(video_id)].annotations
        anomalous = anomalous_frame_counts(start, stop, ranges)
        videos.append(
            (own["score"].to_numpy(dtype=np.float64), anomalous, stop - start - anomalous)
        )
    return videos


def published(make: Callable[..., Draft], name: str, scores: pd.DataFrame) -> list[Video]:
    """The published scores of a method on a benchmark's test videos."""
    folder = DATA / "annotations"
    records = make(
        folder / f"{name}_temporal.txt", lengths=folder / f"{name}_test_lengths.csv"
    ).records
    length = scores["video_id"].map({record.video_id: record.num_frames for record in records})
    scores["stop_frame"] = scores["stop_frame"].clip(upper=length)
    with tempfile.TemporaryDirectory() as made:
        manifest, table, results = (Path(made) / part for part in ("m.csv", "s.csv", "r"))
        write_manifest(manifest, records)
        scores.to_csv(table, index=False)
        run_evaluate_scores(ScoresConfig(table, manifest, results, num_resamples=0))
        return of_results(results)


def populations() -> dict[str, list[Video]]:
    """Made-up videos and, where they are, published scores of real ones."""
    found = {"made up": made_up()}
    if DATA.is_dir():
        ucf = pd.read_csv(DATA / "scores/vadtree_ucf_coarse_refined.tsv", sep="\t")
        ucf.columns = pd.Index(COLUMNS)
        ucf["stop_frame"] += 1  # inclusive there
        found["VADTree, UCF-Crime"] = published(ucf_crime, "ucf_crime", ucf)
        scores = pd.read_csv(DATA / "scores/vadtree_msad_ensemble.csv")
        found["VADTree, MSAD"] = published(msad, "msad", scores)
    return found | {f"{name}, whole videos": whole(videos) for name, videos in found.items()}


def whole(videos: list[Video]) -> list[Video]:
    """One score a video, its highest, against its label."""
    return [
        (scores.max(keepdims=True), np.array([has]), np.array([1 - has]))
        for scores, anomalous, _ in videos
        for has in [int(anomalous.any())]
    ]


def ranking(videos: list[Video]) -> Ranking:
    """Rank the segments of some videos together."""
    scores, anomalous, normal = (np.concatenate(parts) for parts in zip(*videos, strict=True))
    video = np.repeat(np.arange(len(videos)), [len(one[0]) for one in videos])
    return Ranking(scores, anomalous, normal, video)


def coverage(videos: list[Video], size: int, trials: int) -> dict[str, float]:
    """Share of samples whose interval holds the population's value, by interval."""
    truth = ranking(videos).metrics()
    assert truth is not None, "a population has frames of both classes"
    rng = np.random.default_rng(size)
    held = {"auc_logit_t": 0, "auc_bootstrap": 0, "ap_bootstrap": 0}
    for trial in range(trials):
        sample = ranking([videos[i] for i in rng.integers(len(videos), size=size)])
        own, drawn = sample.auc_interval(), sample.bootstrap(NUM_RESAMPLES, trial)
        assert drawn is not None, "a sample of this size has frames of both classes"
        # A ranking without a mistake has no interval, and so none that holds the truth.
        held["auc_logit_t"] += own is not None and own.low <= truth.auc <= own.high
        held["auc_bootstrap"] += drawn["auc"].low <= truth.auc <= drawn["auc"].high
        held["ap_bootstrap"] += drawn["ap"].low <= truth.ap <= drawn["ap"].high
    return {name: number / trials for name, number in held.items()}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    content = {}
    print(f"Share of {trials} samples whose 95 % interval holds the truth")
    for name, videos in populations().items():
        for size in SIZES:
            found = coverage(videos, size, trials)
            cells = "  ".join(f"{key} {100 * value:5.1f} %" for key, value in found.items())
            print(f"{name:34} {size:4} videos   {cells}", flush=True)
            label = name.replace(", ", "_").replace(" ", "_").lower()
            content |= {f"{label}_{size}_{key}": value for key, value in found.items()}
    out = Path("benchmarks/out/interval_coverage.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
