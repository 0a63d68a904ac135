"""How fast is probing from the store against the obvious ways? ``make bench-probe``.

On a simulated store with UCF-Crime's real test lengths (290 videos, 46,460 segments; from
``../shared/data``, else lengths drawn alike) of float32 states that hold bf16 values, as a bf16
model writes them. In one run, interleaved, medians over rounds:

- *layer read*: `FeatureStore.layer` against ``np.memmap`` of the same states, copied into memory;
  the page cache holds both, or neither.
- *checks*: the same read against one that compares no checksum with the journal's.
- *DLSP of all layers*, segments as samples: ours, one layer at a time, against the obvious numpy
  implementation that loads everything; time, and peak memory of a process each.
- *sweep*: 30 layers × 10 seeds on a store of every fifth video × 256 features, against a
  scikit-learn loop that reads one .npy file a segment for each experiment, as the usual feature
  dumps are read.
- *robust heads*: all heads of a layer judged at once against a loop over them (`head_speed`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from head_speed import time_heads
from memory import peak_bytes
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from hiprobe.probe.saliency import dlsp, layer_statistics
from hiprobe.store import DONE, FeatureStore, PlannedVideo, StoreWriter, VideoRecord
from hiprobe.store.shards import read_states
from hiprobe.sweep.pipeline import SweepConfig, run_sweep

ROUNDS = 5
CHECK_ROUNDS = 30
SEGMENT_FRAMES = 24


def video_lengths() -> list[int]:
    """Frames of UCF-Crime's test videos."""
    shared = Path(os.environ.get("HIPROBE_SHARED_DATA", "../shared/data"))
    path = shared / "annotations/ucf_crime_test_lengths.csv"
    if path.exists():
        return [int(value) for value in pd.read_csv(path)["num_frames"]]
    rng = np.random.default_rng(0)
    return [int(value) for value in rng.lognormal(7.6, 1.0, 290).clip(100, 80_000)]


def make_store(path: Path, lengths: list[int], num_layers: int, num_features: int) -> None:
    """Write a store of random states; every other video is anomalous in its middle third."""
    rng = np.random.default_rng(0)
    plans = []
    for index, num_frames in enumerate(lengths):
        label = ("normal", "anomalous")[index % 2]
        record = VideoRecord(
            video_id=f"video-{index:03d}",
            path="/nowhere.mp4",
            split="train" if index % 4 < 2 else "test",
            label=label,
            annotations=((num_frames // 3, 2 * num_frames // 3),) * (label == "anomalous"),
        )
        ranges = [
            (start, min(start + SEGMENT_FRAMES, num_frames))
            for start in range(0, num_frames, SEGMENT_FRAMES)
        ]
        plans.append(PlannedVideo(record, num_frames, 30.0, ranges))
    model = {"id": "simulated", "class": "None", "weights_digest": "none"}
    writer = StoreWriter.create(
        path, layers=range(num_layers), num_features=num_features, provenance={"model": model}
    )
    with writer:
        writer.add_videos(plans)
        for video, plan in enumerate(plans):
            for block, first in enumerate(range(0, len(plan.segments), writer.row_block)):
                count = min(writer.row_block, len(plan.segments) - first)
                states = rng.standard_normal((num_layers, count, num_features), np.float32)
                states[:, :, :8] += 0.5 * (plan.record.label == "anomalous")
                # What a bf16 model gives: the lower half of each word is zero.
                words = states.view(np.uint32)
                words &= np.uint32(0xFFFF0000)
                writer.write_block(video, block, states)
            writer.finish_video(video, status=DONE, num_frames=plan.num_frames, fps=plan.fps)


def write_memmap(store: FeatureStore, path: Path) -> np.memmap:
    """Copy all states into one flat file: (layer, segment, feature) float32."""
    shape = (len(store.layers), len(store.segments), store.num_features)
    flat = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for position, layer in enumerate(store.layers):
        flat[position] = store.layer(layer)
    flat.flush()
    return np.load(path, mmap_mode="r")


def is_anomalous(store: FeatureStore) -> np.ndarray:
    """Label of each segment's video."""
    labels = store.videos["label"].reindex(store.segments["video_id"])
    return (labels == "anomalous").to_numpy()


def ours_dlsp(store: FeatureStore) -> dict[int, float]:
    """DLSP with one layer in memory at a time."""
    labels = is_anomalous(store)
    layers = [layer for layer in store.layers if layer >= 1]
    return dlsp({la: layer_statistics(store.layer(la), labels) for la in layers}).saliency


def numpy_dlsp(flat: np.memmap, labels: np.ndarray, num_bins: int = 50) -> dict[int, float]:
    """Write the formulas down as they stand, on everything at once, with float64 sums."""
    states = np.array(flat[1:])
    normal, anomalous = states[:, ~labels], states[:, labels]
    mean_n, mean_a = (part.mean(axis=1, dtype=np.float64) for part in (normal, anomalous))
    var_n, var_a = (part.var(axis=1, dtype=np.float64) for part in (normal, anomalous))
    share = np.mean(labels)
    scale = (1 - share) * var_n + share * var_a + share * (1 - share) * (mean_n - mean_a) ** 2
    floor_n, floor_a = np.maximum(var_n, 1e-6 * scale), np.maximum(var_a, 1e-6 * scale)
    gap = (mean_n - mean_a) ** 2
    kl = 0.5 * (np.log(floor_a / floor_n) + (floor_n + gap) / floor_a - 1)
    ldr = gap / (var_n + var_a + 1e-6 * scale)
    entropy = np.empty(kl.shape)
    for layer in range(len(states)):
        for feature in range(states.shape[2]):
            values = states[layer, :, feature].astype(np.float64)
            part = np.histogram(values, bins=num_bins)[0] / len(values)
            entropy[layer, feature] = -np.sum(part[part > 0] * np.log2(part[part > 0]))
    metrics = [values.mean(axis=1) for values in (kl, ldr, entropy)]
    saliency = sum((values - values.mean()) / values.std() for values in metrics)
    return dict(enumerate(saliency.tolist(), start=1))


def time_reads(store: FeatureStore, flat: np.memmap, *, from_disk: bool) -> float:
    """Speed of our layer read over the memory map's, from the page cache or from the disk."""
    files = [Path(flat.filename), *(store.path / "hidden_states/c").rglob("0")]
    ours, memmap = [], []
    for layer in (store.layers * ROUNDS)[: 4 * ROUNDS]:
        reads = {
            "ours": lambda layer=layer: store.layer(layer),
            "memmap": lambda layer=layer: np.array(np.load(flat.filename, mmap_mode="r")[layer]),
        }
        for read, seconds in ((reads["ours"], ours), (reads["memmap"], memmap)):
            if from_disk:
                _drop_from_page_cache(files)
            else:
                read()
            seconds.append(_seconds(read))
    return statistics.median(memmap) / statistics.median(ours)


def time_checks(store: FeatureStore) -> float:
    """Time of a layer's read over that of the same read without the journal's checksums."""
    group = zarr.open_group(store.path, mode="r")
    first, count = (np.asarray(group[name][:]) for name in ("first_row", "num_segments"))  # type: ignore[index]
    rows = [slice(int(a), int(a) + int(n)) for a, n in zip(first, count, strict=True)]
    shape = (len(store.layers), store.row_block, store.num_features)
    folder = store.path / "hidden_states"
    with_checks: list[float] = []
    without: list[float] = []
    for number in range(CHECK_ROUNDS):
        layer = 1 + number % (len(store.layers) - 1)
        ways = [
            (with_checks, lambda layer=layer: store.layer(layer)),
            (without, lambda layer=layer: read_states(folder, shape, [layer], rows)),
        ]
        for seconds, read in ways if number % 2 else ways[::-1]:
            seconds.append(_seconds(read))
    return statistics.median(with_checks) / statistics.median(without)


def _drop_from_page_cache(files: list[Path]) -> None:
    for path in files:
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_sweep(folder: Path) -> float:
    """Time of the loop over one file a segment, over that of the sweep."""
    path, num_layers, num_seeds = folder / "small.zarr", 31, 10
    make_store(path, video_lengths()[::5], num_layers, 256)
    store = FeatureStore.open(path)
    files = folder / "files"
    for (_, row), states in zip(
        store.segments.iterrows(),
        np.stack([store.layer(layer) for layer in store.layers], axis=1),
        strict=True,
    ):
        target = files / row["video_id"]
        target.mkdir(parents=True, exist_ok=True)
        np.save(target / f"{row['segment']}.npy", states)
    config = SweepConfig(
        stores=(path,), scorers=("logistic",), fractions=(0.5,), seeds=tuple(range(num_seeds))
    )
    ours = _seconds(lambda: run_sweep(config, folder / "sweep.csv", existing="replace"))
    # The loop's experiments all cost the same: some of them are timed.
    num_timed = 6
    loop = _seconds(lambda: [_loop_experiment(store, files, 1 + seed) for seed in range(num_timed)])
    shutil.rmtree(files)
    return loop / num_timed * (num_layers - 1) * num_seeds / ours


def _loop_experiment(store: FeatureStore, files: Path, seed: int) -> float:
    """One layer, one seed: read each segment's file, average, fit, score, AUC on frames."""
    rng, layer, videos = np.random.default_rng(seed), seed, store.videos
    train = rng.permutation(videos.index[videos["split"] == "train"])[:15]
    test = videos.index[videos["split"] == "test"]

    def read(video_id: str) -> np.ndarray:
        count = videos.loc[video_id, "num_segments"]
        return np.stack([np.load(files / video_id / f"{k}.npy")[layer] for k in range(count)])

    samples = np.stack([read(video_id).mean(axis=0) for video_id in train])
    model = LogisticRegression(max_iter=1000).fit(samples, videos.loc[train, "label"])
    scores, truth = [], []
    for video_id in test:
        own = model.predict_proba(read(video_id))[:, 0]
        flags = np.zeros(videos.loc[video_id, "num_frames"])
        for start, stop in videos.loc[video_id, "annotations"]:
            flags[start:stop] = 1
        scores.append(np.repeat(own, SEGMENT_FRAMES)[: len(flags)])
        truth.append(flags)
    return float(roc_auc_score(np.concatenate(truth), np.concatenate(scores)))


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure_dlsp(folder: Path, way: str) -> dict[str, float]:
    """Run one way in a process of its own: seconds, and peak bytes beyond the imports."""
    command = [sys.executable, __file__, "--child", way, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def child(way: str, folder: Path) -> None:
    """Run one way and print what it took."""
    store = FeatureStore.open(folder / "store.zarr")
    labels, before = is_anomalous(store), peak_bytes()
    started = time.perf_counter()
    if way == "ours":
        saliency = ours_dlsp(store)
    else:
        saliency = numpy_dlsp(np.load(folder / "flat.npy", mmap_mode="r"), labels)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "bytes": peak_bytes() - before, "saliency": saliency}))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2)
    parser.add_argument("--layers", type=int, default=29)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="Keep the simulated store here.")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        _measure_all(folder, arguments.layers, arguments.features)


def _measure_all(folder: Path, num_layers: int, num_features: int) -> None:
    path = folder / "store.zarr"
    if not path.exists():
        make_store(path, video_lengths(), num_layers, num_features)
    store = FeatureStore.open(path)
    flat = write_memmap(store, folder / "flat.npy")
    ratios = {
        "layer_read_speed_over_memmap": time_reads(store, flat, from_disk=False),
        "layer_read_speed_over_memmap_from_disk": time_reads(store, flat, from_disk=True),
    }
    ratios["read_with_checks_over_before"] = time_checks(store)
    ways = {way: measure_dlsp(folder, way) for way in ("ours", "numpy")}
    for layer, value in ways["numpy"]["saliency"].items():
        assert abs(value - ways["ours"]["saliency"][layer]) < 1e-9, "the results differ"
    ratios["numpy_over_ours_dlsp_time"] = ways["numpy"]["seconds"] / ways["ours"]["seconds"]
    ratios["numpy_over_ours_dlsp_memory"] = ways["numpy"]["bytes"] / ways["ours"]["bytes"]
    for way, measured in ways.items():
        print(f"DLSP, {way}: {measured['seconds']:.1f} s, {measured['bytes'] / 1e9:.2f} GB")
    ratios["loop_over_ours_sweep"] = time_sweep(folder)
    ratios |= time_heads()
    rounded = {name: round(value, 3) for name, value in ratios.items()}
    out = Path("benchmarks/out/probe.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rounded, indent=1) + "\n")
    print(json.dumps(rounded, indent=1))


if __name__ == "__main__":
    main()
