"""Does anything grow on a long run? ``make stress-long``.

An extraction of 1,500 short videos (hard links to one clip, the demo's model) is watched from
outside: memory, threads and open files by the number of videos done, and the time a video takes,
in its first and its last quarter. And a store with 100,000 planned videos is opened, in a process
of its own: as planned, and with half of them done by the journals alone, as after a kill.
Writes ``benchmarks/out/stress_long.json``; the ``series_…`` are for a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import peak_bytes
from hiprobe.store import DONE, FeatureStore, PlannedVideo, StoreWriter, VideoRecord, write_manifest

NUM_PLANNED = 100_000
SEGMENTS = ROW_BLOCK = 16
SERIES_POINTS = 200


@dataclass(frozen=True)
class Sample:
    """The extraction's process at one moment."""

    seconds: float
    num_done: int
    megabytes: float
    threads: int
    files: int


def main() -> None:
    """Watch, measure, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=1500)
    parser.add_argument("--planned", type=int, default=NUM_PLANNED)
    parser.add_argument("--open", type=Path, help="Open this store and print seconds and MB.")
    parser.add_argument("--write", action="store_true", help="With --open: open it for writing.")
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(_open(arguments.open, arguments.write)))
        return
    numbers: dict[str, Any] = {}
    if arguments.planned:
        # In memory where there is such a folder: 50,000 lines are brought to the disk one by one.
        base = "/dev/shm" if Path("/dev/shm").is_dir() else None
        with tempfile.TemporaryDirectory(prefix="stress-long-", dir=base) as name:
            numbers |= _large_plan(Path(name) / "planned.zarr", arguments.planned)
    if arguments.videos:
        with tempfile.TemporaryDirectory(prefix="stress-long-") as name:
            numbers |= _long_run(Path(name), arguments.videos)
    print(json.dumps({k: v for k, v in numbers.items() if not k.startswith("series")}, indent=1))
    out = Path("benchmarks/out/stress_long.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(numbers, indent=1) + "\n")


def _long_run(folder: Path, num_videos: int) -> dict[str, Any]:
    """Extract many videos and watch the process."""
    from benchmarks.tiny_clips import write_clip
    from hiprobe.demo.model import TRAINED_MODEL

    clip, records = folder / "clip.mp4", []
    write_clip(clip, 24, 0)
    (folder / "videos").mkdir()
    for number in range(num_videos):
        path = folder / "videos" / f"v{number:05}.mp4"
        os.link(clip, path)
        records.append(VideoRecord(path.stem, str(path), "test", "normal", "", (), 24, 25.0))
    write_manifest(folder / "manifest.csv", records)
    store = folder / "long.zarr"
    command = [sys.executable, "-m", "hiprobe.cli", "extract", folder / "manifest.csv", store]
    options = ["--model", TRAINED_MODEL, "--parity", 0, "--thumbnails", "--batch-size", 8]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*map(str, [*command, *options])], stdout=log, stderr=log)
    samples = _watch(process, store)
    assert process.returncode == 0, (folder / "log").read_text()[-2000:]
    statuses = FeatureStore.open(store).videos["status"]
    assert (statuses == DONE).sum() == num_videos, statuses.value_counts()
    return _slopes(samples, num_videos)


def _watch(process: subprocess.Popen[bytes], store: Path) -> list[Sample]:
    """Look at a process until it ends."""
    samples, began = [], time.monotonic()
    proc = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        try:
            status = dict(
                line.split(":\t", 1) for line in (proc / "status").read_text().splitlines()
            )
            samples.append(
                Sample(
                    time.monotonic() - began,
                    _num_done(store),
                    int(status["VmRSS"].split()[0]) / 1024,
                    int(status["Threads"]),
                    len(list((proc / "fd").iterdir())),
                )
            )
        except (FileNotFoundError, KeyError):  # it has just ended
            break
        time.sleep(0.1)
    process.wait()
    return [one for one in samples if one.num_done]


def _num_done(store: Path) -> int:
    journals = (store / "journal").glob("*.jsonl")
    return sum(path.read_bytes().count(b'"event": "video"') for path in journals)


def _slopes(samples: list[Sample], num_videos: int) -> dict[str, Any]:
    """Compare the first quarter of the videos with the last."""
    numbers: dict[str, Any] = {"videos": num_videos}
    quarters = {
        # The first videos fill caches and pools: they are no slope.
        "first": [s for s in samples if num_videos * 0.05 < s.num_done <= num_videos * 0.3],
        # Nor are the last ones, when readers have nothing more to do and end.
        "last": [s for s in samples if num_videos * 0.7 < s.num_done <= num_videos * 0.95],
    }
    for name, own in quarters.items():
        done = np.array([sample.num_done for sample in own])
        for what in ("megabytes", "threads", "files"):
            values = np.array([getattr(sample, what) for sample in own], dtype=float)
            numbers[f"{what}_{name}_quarter"] = round(float(values.mean()), 2)
            slope = np.polyfit(done, values, 1)[0] * 1000 if len(set(done)) > 1 else 0.0
            numbers[f"{what}_per_1000_videos_{name}_quarter"] = round(float(slope), 3)
        spent = own[-1].seconds - own[0].seconds
        numbers[f"milliseconds_per_video_{name}_quarter"] = round(
            1000 * spent / max(1, int(done[-1] - done[0])), 2
        )
    for what in ("megabytes", "threads", "files", "milliseconds_per_video"):
        first, last = numbers[f"{what}_first_quarter"], numbers[f"{what}_last_quarter"]
        numbers[f"{what}_last_over_first"] = round(last / first, 4)
    kept = samples[:: max(1, len(samples) // SERIES_POINTS)]
    numbers |= {
        f"series_{what}": [round(getattr(sample, what), 2) for sample in kept]
        for what in ("seconds", "num_done", "megabytes", "threads", "files")
    }
    return numbers


def _large_plan(path: Path, num_videos: int) -> dict[str, Any]:
    """Plan many videos, and open the store."""
    ranges = [(start * 24, start * 24 + 24) for start in range(SEGMENTS)]
    plans = [
        PlannedVideo(
            VideoRecord(f"video-{number:06}", f"/videos/{number:06}.mp4", "train", "normal", ""),
            SEGMENTS * 24,
            25.0,
            ranges,
        )
        for number in range(num_videos)
    ]
    began = time.monotonic()
    writer = StoreWriter.create(
        path, layers=range(2), num_features=8, provenance={}, row_block=ROW_BLOCK
    )
    writer.add_videos(plans)
    numbers = {"plan_100k_seconds": round(time.monotonic() - began, 3)}
    numbers |= _opened(path, "")
    began = time.monotonic()
    for video in range(num_videos // 2):
        writer.finish_video(video, status=DONE, num_frames=SEGMENTS * 24, fps=25.0)
    half = time.monotonic() - began
    numbers["finish_video_milliseconds_at_100k"] = round(1000 * half / (num_videos // 2), 3)
    writer.close()  # unsealed: what is done stands in the journal alone
    numbers |= _opened(path, "half_done_")
    began = time.monotonic()
    with StoreWriter(path):
        pass
    numbers["seal_100k_seconds"] = round(time.monotonic() - began, 3)
    return numbers


def _opened(path: Path, name: str) -> dict[str, float]:
    numbers = {}
    for key, options in {"open": [], "open_writer": ["--write"]}.items():
        if key == "open_writer" and not name:
            continue  # this process holds the lock
        command = [sys.executable, "-m", "benchmarks.stress_long", "--open", str(path), *options]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        numbers |= {f"{key}_{name}100k_{what}": number for what, number in found.items()}
    return numbers


def _open(path: Path, for_writing: bool) -> dict[str, float]:
    """Open in this process, which has only imported; the peak is what opening adds."""
    before, began = peak_bytes(), time.monotonic()
    if for_writing:
        store: Any = StoreWriter(path)
    else:
        store = FeatureStore.open(path)
    numbers = {"seconds": time.monotonic() - began, "mb": (peak_bytes() - before) / 1e6}
    if for_writing:
        store.close()
    else:
        assert len(store.videos)
        assert store.segments is not None
        numbers["with_tables_seconds"] = time.monotonic() - began
        numbers["with_tables_mb"] = (peak_bytes() - before) / 1e6
    return {what: round(number, 3) for what, number in numbers.items()}


if __name__ == "__main__":
    main()
