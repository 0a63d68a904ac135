"""What only a GPU can show, in one script of at most ten minutes: ``make gpu-check``.

For each of the four published shapes, with random weights of full size made on the card: what
`hiprobe check` finds. With the smallest of them also: a batch that does not fit (the process's
memory is limited) gives the same states in parts; an extraction that was killed goes on, and its
store passes ``verify --parity``; two workers on the one card are refused. Without a CUDA GPU it
refuses; ``--rehearse`` goes through everything that a CPU can do with tiny shapes, and proves
nothing but that the script runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size_models import SHAPES
from hiprobe.demo.clips import plan_clips, write_clips
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.batch_size import BatchSize, states_of_any_size
from hiprobe.extract.check import CheckConfig, check
from hiprobe.extract.check_inputs import take_samples
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.parity import TOLERANCES
from hiprobe.extract.state_distances import relative_l2
from hiprobe.extract.video import inspect_video
from hiprobe.manifest.folder import folder_manifest
from hiprobe.store import write_manifest
from hiprobe.store.journal import read_journal

OUT = Path("benchmarks/out/gpu_check.json")
MINUTES = 10.0
# An 8 B model takes about so long; one that would not be ready in time is not begun.
SECONDS_A_MODEL = 150.0
GIGABYTES_ON_DISK = 20
MANY = 16


def main() -> None:
    """Check all shapes, print and write what was found; exit code 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes, on the CPU")
    parser.add_argument("--only", help="the shape of this name")
    parser.add_argument("--folder", type=Path, help="for the weights: 20 GB free")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    arguments = parser.parse_args()
    device = _device(arguments.rehearse)
    until = time.monotonic() + 60 * arguments.minutes
    found: dict[str, Any] = {"device": _name(device), "shapes": {}}
    problems: list[str] = []
    shapes = [one for one in SHAPES if arguments.only in (None, one.name)]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        if not arguments.rehearse:
            _check_disk(Path(name))
        for number, shape in enumerate(shapes):
            if not arguments.rehearse and time.monotonic() + SECONDS_A_MODEL > until:
                print(f"{shape.name}: not reached in {arguments.minutes:g} minutes", flush=True)
                continue
            folder = Path(name) / shape.name
            started = time.monotonic()
            dtype = torch.float32 if arguments.rehearse else torch.bfloat16
            shape.save(folder, device, dtype, tiny=arguments.rehearse)
            _let_go(device)
            print(f"{shape.name}: made in {time.monotonic() - started:.0f} s", flush=True)
            # Random weights tell nothing of what rounding costs: once is enough to see it run.
            found["shapes"][shape.name] = _check_shape(folder, device, number == 0, problems)
            if number == 0:
                found["trials"] = _trials(folder, Path(name), device, problems)
            shutil.rmtree(folder)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{found['device']}: {len(problems)} problems; {OUT}")
    if problems:
        sys.exit("\n".join(problems))


def _device(rehearse: bool) -> torch.device:
    if rehearse:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        sys.exit(
            "gpu-check: torch sees no CUDA GPU here, and there is nothing to check without one. "
            "Run it on a machine that has one (24 GB or more); --rehearse tries the script."
        )
    return torch.device("cuda:0")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu (a rehearsal)"


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free / 1e9
    if free < GIGABYTES_ON_DISK:
        sys.exit(
            f"gpu-check: {folder.parent} has {free:.0f} GB free, a model takes "
            f"{GIGABYTES_ON_DISK}. Give another place with --folder."
        )


def _let_go(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _check_shape(
    folder: Path, device: torch.device, precision: bool, problems: list[str]
) -> dict[str, Any]:
    """Run `hiprobe check` on a model of random weights."""
    config = BackboneConfig(str(folder), device=str(device))
    report = check(CheckConfig(config, precision=precision))
    for finding in report.findings:
        print(f"  {finding.status}: {finding.name}: {finding.text}", flush=True)
    for row in report.batches:
        print(f"  {row}", flush=True)
    problems += [
        f"{folder.name}: {one.name}: {one.text}"
        for one in report.failed
        if "keeps what float32 says" not in one.name
    ]
    return asdict(report)


def _trials(model: Path, folder: Path, device: torch.device, problems: list[str]) -> dict[str, str]:
    """Run the trials that need a loaded machine; what each says, by name."""
    manifest = folder / "manifest.csv"
    write_clips(plan_clips(6, seed=6), folder / "videos")
    write_manifest(manifest, folder_manifest(folder / "videos", inspect=inspect_video).records)
    trials: dict[str, Callable[[], str]] = {
        "a killed extraction goes on": lambda: _killed(model, manifest, device)
    }
    if device.type == "cuda":
        trials["a batch that does not fit is halved"] = lambda: _out_of_memory(model, device)
        if torch.cuda.device_count() == 1:
            refused = "two workers on one GPU are refused"
            trials[refused] = lambda: _two_workers(model, manifest)
    said = {}
    for name, trial in trials.items():
        try:
            said[name] = f"passed: {trial()}"
        except Exception as error:
            said[name] = f"FAILED: {error}"
            problems.append(f"{name}: {error}")
        print(f"  {said[name].split(':')[0]}: {name}: {said[name].split(': ', 1)[1]}", flush=True)
    return said


def _expect(condition: bool, text: str) -> None:
    if not condition:
        raise RuntimeError(text)


def _out_of_memory(model: Path, device: torch.device) -> str:
    """Give a batch half of the memory that it takes beside the weights."""
    backbone = Backbone(BackboneConfig(str(model), device=str(device)))
    (sample,) = take_samples((), 24, 8, MANY)
    inputs = backbone.prepare(sample.segments, sample.info.fps)
    weights = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    whole = backbone.states(inputs)
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    batch_size, frame_size = BatchSize(MANY, device), (sample.info.height, sample.info.width)
    batch_size.learn(frame_size, inputs, MANY)
    torch.cuda.set_per_process_memory_fraction((weights + peak) / 2 / total, device)
    try:
        parts = states_of_any_size(backbone, inputs, MANY, batch_size)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    apart = float(relative_l2(parts, whole).max())
    _expect(
        batch_size.segments_for(frame_size) < MANY,
        "the batch was not halved: memory was not limited",
    )
    _expect(apart <= TOLERANCES["bfloat16"], f"states in parts are {apart:.1e} apart")
    return f"{MANY} segments in parts, {apart:.1e} apart"


def _killed(model: Path, manifest: Path, device: torch.device) -> str:
    """Kill an extraction after its first video; the same command finishes it."""
    store = manifest.with_name("killed.zarr")
    options = ["--model", model, "--device", device, "--batch-size", 4]
    command = _command("extract", manifest, store, *options)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not _num_done(store):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = _num_done(store)
    _expect(before > 0, "it ended before its first video")
    for again in (command, _command("store", "verify", store, "--parity", 4, "--device", device)):
        done = subprocess.run(again, capture_output=True, text=True, check=False)
        _expect(done.returncode == 0, f"{again[3:5]}: {done.stderr[-500:]}")
    return f"killed after {before} of {_num_done(store)} videos, whole in the end"


def _num_done(store: Path) -> int:
    entries = read_journal(store / "journal") if (store / "journal").exists() else []
    return sum(entry["event"] == "video" for entry in entries)


def _two_workers(model: Path, manifest: Path) -> str:
    """Two models on one card are an error unless asked for."""
    store = manifest.with_name("workers.zarr")
    command = _command("extract", manifest, store, "--model", model, "--workers", 2)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    _expect(done.returncode == 1, f"exit code {done.returncode}, expected 1")
    return done.stderr.strip()[-200:]


def _command(*parts: object) -> list[str]:
    return [sys.executable, "-m", "hiprobe.cli", *map(str, parts)]


if __name__ == "__main__":
    main()
