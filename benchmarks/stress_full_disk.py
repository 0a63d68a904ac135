"""Every command on a disk that gets full, and again when there is space: ``make stress-full-disk``.

Each command writes to a small disk that holds what an earlier run of it left (an older probe,
results of other settings, a store with some of its videos), with room for some bytes or some files
more: from none to what it needs. Expected: exit code 1 with the message of a full disk, no
traceback; what was there is still there, or whole and new; and with space again the same command
ends with what an undisturbed one writes. Counted in ``benchmarks/out/stress_full_disk.json``:

- ``refused`` (the message), ``finished`` (there was enough);
- ``traceback``, ``unclear`` (exit code 1 with some other message), ``hang``;
- ``lost``: something that was there is gone or damaged;
- ``wrong``: it said that it had finished, or did when run again, and the result is another;
- ``stuck``: with space again, the same command does not go on.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.output_content import content_of
from benchmarks.small_disk import PAGE, Run, SmallDisk
from benchmarks.tiny_clips import write_clip
from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.store import VideoRecord, write_manifest

MESSAGE = ("No space left on device", "File too large")
BAD = ("traceback", "unclear", "hang", "lost", "wrong", "stuck")
Arguments = list[str | Path]


@dataclass(frozen=True)
class Case:
    """A command, and the one whose outcome lies on the disk before; empty: nothing does."""

    name: str
    arguments: Arguments
    before: Arguments


def main() -> None:
    """Try each command with several sizes of disk, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, default=5, help="Sizes of the disk, a command.")
    parser.add_argument("--files", type=int, default=3, help="Numbers of files, a command.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", help="Only commands whose name has this in it.")
    arguments = parser.parse_args()
    began, counts, by_case = time.monotonic(), Counter[str](), {}
    with tempfile.TemporaryDirectory(prefix="stress-full-disk-") as name:
        folder = Path(name)
        _import_everything()
        with SmallDisk(folder / "disk") as disk:
            print("a tmpfs" if disk.is_mounted else "a limit on the length of files", flush=True)
            cases = [
                case
                for case in _cases(folder, disk)
                if arguments.command is None or arguments.command in case.name
            ]
            for case in cases:
                rng = random.Random(f"{arguments.seed} {case.name}")
                own = _try(case, disk, folder, rng, arguments.sizes, arguments.files)
                by_case[case.name] = own
                counts += own
                print(f"{case.name:22}{dict(own)}", flush=True)
    result: dict[str, Any] = {
        name: counts[name] for name in ("trials", "refused", "finished", *BAD)
    }
    result |= {"commands": len(by_case), "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(result, indent=1))
    out = Path("benchmarks/out/stress_full_disk.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


def _try(
    case: Case, disk: SmallDisk, folder: Path, rng: random.Random, sizes: int, files: int
) -> Counter[str]:
    """Run one command undisturbed, and then on disks of several sizes."""
    log, before = folder / "log", None
    if case.before:
        disk.fill(None)
        _must(disk.run(case.before, log), case)
        before = folder / "before"
        shutil.rmtree(before, ignore_errors=True)
        shutil.copytree(disk.path, before)
    disk.fill(before)
    old, (bytes_before, files_before) = content_of(disk.path), disk.used()
    _must(disk.run(case.arguments, log), case)
    new, (bytes_after, files_after) = content_of(disk.path), disk.used()
    pages = max(1, (bytes_after - bytes_before) // PAGE)
    free_pages = sorted({0, *(rng.randrange(pages) for _ in range(sizes - 1))})
    limits: list[tuple[int | None, int | None]] = [(page * PAGE, None) for page in free_pages]
    if disk.is_mounted:
        more = max(1, files_after - files_before)
        free_files = sorted({0, *(rng.randrange(more) for _ in range(files - 1))})
        limits += [(None, number) for number in free_files]
    counts: Counter[str] = Counter()
    for num_bytes, num_files in limits:
        disk.fill(before)
        disk.leave(num_bytes, num_files)
        run = disk.run(case.arguments, log)
        counts["trials"] += 1
        found = [(_ending(run), run.output[-2000:])]
        found += _found_after(case, disk, run, old, new, log)
        for what, detail in found:
            counts[what] += 1
            if what in BAD:
                room = f"{num_bytes} bytes" if num_files is None else f"{num_files} files"
                print(f"  {case.name}, room for {room}: {what}: {detail[-600:]}", flush=True)
    return counts


def _ending(run: Run) -> str:
    if run.code < 0:
        return "hang"
    if "Traceback" in run.output or run.code not in (0, 1):
        return "traceback"
    if run.code == 0:
        return "finished"
    return "refused" if any(one in run.output for one in MESSAGE) else "unclear"


def _found_after(
    case: Case, disk: SmallDisk, run: Run, old: dict[str, Any], new: dict[str, Any], log: Path
) -> list[tuple[str, str]]:
    """Look at the disk, then have space and run it again: what is wrong about either."""
    found = []
    try:
        now = content_of(disk.path)
    except Exception as error:
        # A store that was being made may not be one yet; one that was there has to open.
        now = {}
        if old:
            found.append(("lost", f"cannot be read any more: {error!r}"))
    lost = [name for name, one in old.items() if now.get(name) not in (one, new.get(name, one))]
    # A report beside numbers that are not its own would be worse than none.
    numbers = "results/metrics.json"
    if now.get(numbers) == new.get(numbers) and "results/report.html" not in now:
        lost = [name for name in lost if name != "results/report.html"]
    if lost and not found:
        found.append(("lost", f"{lost[0]}: {str(now.get(lost[0], 'is gone'))[:200]}"))
    if run.code == 0 and now != new:
        found.append(("wrong", f"said it had finished: {_first_difference(now, new)}"))
    disk.make_room()
    again = disk.run(case.arguments, log)
    if again.code != 0:
        found.append(("stuck", again.output))
        return found
    final = content_of(disk.path)
    if final != new:
        found.append(("wrong", f"run again: {_first_difference(final, new)}"))
    return found


def _first_difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    names = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    name = sorted(names)[0]
    return f"{name}: {str(one.get(name, 'none'))[:200]}, not {str(other.get(name, 'none'))[:200]}"


def _must(run: Run, case: Case) -> None:
    assert run.code == 0, f"{case.name}: exit code {run.code} with space\n{run.output}"


def _import_everything() -> None:
    """What a command imports is imported once, here; a fork then begins at once."""
    import av
    import matplotlib.pyplot
    import plotly.graph_objects
    import pyarrow.parquet
    import sklearn.linear_model
    import sklearn.manifold
    import torch
    import transformers

    import hiprobe.cli.main
    import hiprobe.evaluate.pipeline
    import hiprobe.extract.pipeline
    import hiprobe.store.hdf5
    import hiprobe.sweep.pipeline

    modules = (av, matplotlib.pyplot, plotly.graph_objects, pyarrow.parquet, sklearn, torch,
               transformers, hiprobe)  # fmt: skip
    assert all(modules)
    assert threading.active_count() == 1, "a fork would lack the other threads"


def _cases(folder: Path, disk: SmallDisk) -> list[Case]:
    """All commands that write, with inputs that lie elsewhere."""
    inputs, to = folder / "inputs", disk.path
    make = _Inputs(inputs, disk, folder / "log")
    manifest, videos, model = make.manifest(), inputs / "videos", ["--model", TRAINED_MODEL]
    small = ["--batch-size", "2", "--parity", "2", "--thumbnails"]
    store, probe = inputs / "features.zarr", inputs / "probe.json"
    make.run("extract", manifest, store, *model, *small)
    for split in ("train", "test"):
        part = inputs / f"{split}.zarr"
        make.run("extract", manifest, part, *model, *small, "--only", f"{split}/*")
    make.run("probe", store, probe)
    make.run("evaluate", store, probe, inputs / "results", "--resamples", "50")
    make.run("evaluate", store, probe, inputs / "other", "--resamples", "50", "--sigma", "2")
    make.run("store", "export", store, inputs / "features.h5")
    scores, events, ucf = make.tables()
    lengths = ["--lengths", inputs / "lengths.csv"]
    few = ["--resamples", "50"]
    merged, parts = to / "merged.zarr", [inputs / "train.zarr", inputs / "test.zarr"]
    cases = [
        Case("manifest folder", ["manifest", "folder", videos, "--out", to / "m.csv"],
             ["manifest", "folder", videos / "test", "--out", to / "m.csv"]),
        Case("manifest ucf-crime",
             ["manifest", "ucf-crime", "--annotations", ucf, *lengths, "--out", to / "m.csv"],
             ["manifest", "ucf-crime", "--annotations", ucf, "--out", to / "m.csv"]),
        Case("manifest events", ["manifest", "events", events, *lengths, "--out", to / "m.csv"],
             ["manifest", "events", events, "--out", to / "m.csv"]),
        Case("extract", ["extract", manifest, to / "s.zarr", *model, *small],
             ["extract", manifest, to / "s.zarr", *model, *small, "--limit", "3"]),
        Case("probe", ["probe", store, to / "probe.json"],
             ["probe", store, to / "probe.json", "--layer", "1"]),
        Case("evaluate", ["evaluate", store, probe, to / "results", *few],
             ["evaluate", store, probe, to / "results", *few, "--sigma", "2"]),
        Case("evaluate-scores", ["evaluate-scores", scores, manifest, to / "results", *few],
             ["evaluate-scores", scores, manifest, to / "results", *few, "--sigma", "2"]),
        Case("layers", ["layers", store, to / "layers", "--draws", "2"],
             ["layers", store, to / "layers", "--draws", "3"]),
        Case("sweep", ["sweep", store, to / "sweep.parquet"], []),
        Case("sweep, csv", ["sweep", store, to / "sweep.csv"], []),
        Case("table", ["table", "ablation", store, "--out", to / "table"],
             ["table", "ablation", store, "--out", to / "table", "--l2", "2"]),
        Case("report", ["report", to / "results"],
             ["evaluate", store, probe, to / "results", *few]),
        Case("compare", ["compare", inputs / "results", inputs / "other", "--out", to / "c.json"],
             ["compare", inputs / "results", inputs / "other", "--out", to / "c.json",
              "--scores", "raw"]),
        Case("store merge", ["store", "merge", merged, *parts],
             ["store", "merge", merged, parts[0]]),
        Case("store export", ["store", "export", store, to / "features.h5"], []),
        Case("store import", ["store", "import", inputs / "features.h5", to / "s.zarr"], []),
        Case("detect", ["detect", videos / "test/Fire/f1.mp4", probe, *model, "--out",
                        to / "d.json"],
             ["detect", videos / "test/Fire/f0.mp4", probe, *model, "--out", to / "d.json"]),
    ]  # fmt: skip
    new = [
        Case(f"{case.name}, new", case.arguments, [])
        for case in cases
        if case.before and case.name != "report"
    ]
    return cases + new


class _Inputs:
    """Makes what the commands read."""

    def __init__(self, folder: Path, disk: SmallDisk, log: Path) -> None:
        self._folder, self._disk, self._log = folder, disk, log
        self._records: list[VideoRecord] = []

    def run(self, *arguments: Any) -> None:
        run = self._disk.run(arguments, self._log)
        assert run.code == 0, f"{arguments}: {run.output}"

    def manifest(self) -> Path:
        """Write eight clips of 2 to 5 segments, and their manifest."""
        for number in range(8):
            split = "train" if number < 4 else "test"
            is_anomalous = number % 2 == 1
            category = "Fire" if is_anomalous else "Normal"
            path = (
                self._folder
                / "videos"
                / split
                / category
                / f"{category[0].lower()}{number // 2 % 2}.mp4"
            )
            frames = 40 + 11 * number
            write_clip(path, frames, number)
            self._records.append(
                VideoRecord(f"{split}/{category}/{path.stem}", str(path), split,
                            "anomalous" if is_anomalous else "normal",
                            "Fire" if is_anomalous else "",
                            ((10, 30),) if is_anomalous else (), frames, 25.0)
            )  # fmt: skip
        write_manifest(self._folder / "manifest.csv", self._records)
        return self._folder / "manifest.csv"

    def tables(self) -> tuple[Path, Path, Path]:
        """Write scores, events in seconds and a benchmark's annotations, with all lengths."""
        test = [record for record in self._records if record.split == "test"]
        self._csv("scores.csv", ["video_id", "start_frame", "stop_frame", "score"],
                  [[r.video_id, at, at + 1, (at * 37 % 100) / 100]
                   for r in test for at in range(r.num_frames or 0)])  # fmt: skip
        self._csv("events.csv",
                  ["video_id", "path", "split", "label", "category", "start_seconds",
                   "stop_seconds"],
                  [[r.video_id, r.path, r.split, r.label, r.category,
                    *(("0.5", "1.0") if r.annotations else ("", ""))]
                   for r in self._records])  # fmt: skip
        names = [f"Abuse{n:03}_x264" for n in range(200)]
        self._csv("lengths.csv", ["video_id", "num_frames", "fps"],
                  [[name, 500, 30.0] for name in names]
                  + [[r.video_id, r.num_frames, 25.0] for r in self._records])  # fmt: skip
        ucf = self._folder / "ucf.txt"
        ucf.write_text("".join(f"{name}.mp4  Abuse  165  240  -1  -1\n" for name in names))
        return self._folder / "scores.csv", self._folder / "events.csv", ucf

    def _csv(self, name: str, header: list[str], rows: list[list[Any]]) -> None:
        with (self._folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    os.environ["COLUMNS"] = "250"
    sys.exit(main())
