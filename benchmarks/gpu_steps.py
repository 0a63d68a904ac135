"""The steps of `gpu_check`, each in a process of its own: an error of CUDA ends that one only.

``python -m benchmarks.gpu_steps STEP SHAPE FOLDER DEVICE`` prints what it has found, as JSON on its
last line; with ``problems`` where something is not as it should be.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size_models import SHAPES
from benchmarks.in_turns import seconds_in_turns
from hiprobe.demo.clips import plan_clips, write_clips
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.check import CheckConfig, check
from hiprobe.extract.check_inputs import Sample, take_samples
from hiprobe.extract.check_numbers import states_of
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.generation import Describer
from hiprobe.extract.pipeline import extract
from hiprobe.extract.segments import NUM_KEYFRAMES, SEGMENT_FRAMES, segment_ranges
from hiprobe.extract.video import SegmentReader, inspect_video
from hiprobe.extract.workplace import Here
from hiprobe.manifest.folder import folder_manifest
from hiprobe.store import VideoRecord, read_manifest, write_manifest
from hiprobe.store.journal import read_journal
from hiprobe.store.state_distances import TOLERANCES, relative_l2

Found = dict[str, Any]
MANY = 16
NUM_CLIPS = 6
# Of these, so many are timed: a few segments, and more than a batch.
NUM_TIMED_CLIPS = 2
BATCH_SIZE = 8
ROUNDS = 3


@dataclass(frozen=True)
class Place:
    """Where a step works.

    Attributes
    ----------
    shape : str
        Of `SHAPES`.
    folder : Path
        Its weights are in here, in a folder of that name.
    device : torch.device
    """

    shape: str
    folder: Path
    device: torch.device

    @property
    def on_gpu(self) -> bool:
        """Whether it is no rehearsal."""
        return self.device.type == "cuda"

    @property
    def model(self) -> BackboneConfig:
        """The model that `check_shape` has made."""
        return BackboneConfig(str(self.folder / self.shape), device=str(self.device))

    def manifest(self) -> Path:
        """List some clips; made once."""
        path = self.folder / "manifest.csv"
        if not path.exists():
            write_clips(plan_clips(NUM_CLIPS, seed=6), self.folder / "videos")
            listed = folder_manifest(self.folder / "videos", inspect=inspect_video)
            write_manifest(path, listed.records)
        return path

    def let_go(self) -> None:
        """Free the memory of what is no more."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()


def _expect(condition: bool, text: str) -> None:
    if not condition:
        raise RuntimeError(text)


def check_shape(place: Place) -> Found:
    """Make the model on the device, and run `hiprobe check` on it."""
    (shape,) = (one for one in SHAPES if one.name == place.shape)
    started = time.monotonic()
    dtype = torch.bfloat16 if place.on_gpu else torch.float32
    shape.save(place.folder / place.shape, place.device, dtype, tiny=not place.on_gpu)
    place.let_go()
    made = time.monotonic() - started
    # Random weights tell nothing of what rounding costs: once is enough to see that it runs.
    config = CheckConfig(place.model, precision=shape is SHAPES[0])
    if not place.on_gpu:
        config = replace(config, num_segments=2, batch_sizes=(1, 2))
    report = check(config, lambda text: print(text, flush=True))
    problems = [
        f"{one.name}: {one.text}"
        for one in report.failed
        if "keeps what float32 says" not in one.name
    ]
    said = f"{len(report.findings)} findings, made in {made:.0f} s"
    return {"problems": problems, "said": said, "report": asdict(report)}


def killed(place: Place) -> Found:
    """Kill an extraction after its first video; the same command finishes it."""
    store = place.folder / "killed.zarr"
    options = ["--model", place.model.model, "--device", place.device, "--batch-size", 4]
    command = _command("extract", place.manifest(), store, *options)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not _num_done(store):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = _num_done(store)
    _expect(before > 0, "it ended before its first video")
    verify = _command("store", "verify", store, "--parity", 4, "--device", place.device)
    for again in (command, verify):
        done = subprocess.run(again, capture_output=True, text=True, check=False)
        _expect(done.returncode == 0, f"{again[3:5]}: {done.stderr[-500:]}")
    return {"said": f"killed after {before} of {_num_done(store)} videos, whole in the end"}


def _num_done(store: Path) -> int:
    entries = read_journal(store / "journal") if (store / "journal").exists() else []
    return sum(entry["event"] == "video" for entry in entries)


def _command(*parts: object) -> list[str]:
    return [sys.executable, "-m", "hiprobe.cli", *map(str, parts)]


def out_of_memory(place: Place) -> Found:
    """Give a batch half of the memory that it takes beside the weights."""
    backbone = Backbone(place.model)
    samples = take_samples((), SEGMENT_FRAMES, NUM_KEYFRAMES, MANY)
    weights = torch.cuda.memory_allocated(place.device) if place.on_gpu else 0
    whole = states_of(backbone, samples, together=True)
    sizes, limit = _watched(backbone), 0.0
    if place.on_gpu:
        peak = torch.cuda.max_memory_allocated(place.device)
        place.let_go()
        limit = (weights + peak) / 2
        total = torch.cuda.get_device_properties(place.device).total_memory
        torch.cuda.set_per_process_memory_fraction(limit / total, place.device)
    parts = states_of(backbone, samples, together=True)
    apart = float(relative_l2(parts, whole).max())
    _expect(max(sizes) < MANY, "the batch was not halved: memory was not limited")
    _expect(apart <= TOLERANCES["bfloat16"], f"states in parts are {apart:.1e} apart")
    said = f"{MANY} segments in passes of {sorted(set(sizes))}, {apart:.1e} apart"
    return {"said": said, "limit_bytes": limit}


def _watched(backbone: Backbone) -> list[int]:
    """Note the sizes of the batches that fit; without a GPU, a large one does not."""
    sizes: list[int] = []
    launch = backbone.launch

    def watched(inputs: dict[str, torch.Tensor]) -> Any:
        size = len(inputs["input_ids"])
        if backbone.device.type != "cuda" and size > MANY // 2:
            raise torch.OutOfMemoryError("a rehearsal")
        launched = launch(inputs)
        sizes.append(size)
        return launched

    backbone.launch = watched  # type: ignore[method-assign]
    return sizes


def two_workers(place: Place) -> Found:
    """Two models on one card are an error unless asked for."""
    if not place.on_gpu:
        return {"said": "nothing to see without a GPU (tests/extract/test_devices.py has it)"}
    store = place.folder / "workers.zarr"
    options = ["--model", place.model.model, "--workers", 2]
    done = subprocess.run(
        _command("extract", place.manifest(), store, *options),
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    _expect(done.returncode == 1, f"exit code {done.returncode}, expected 1")
    _expect("--share-gpu" in done.stderr, f"another error: {done.stderr[-500:]}")
    return {"said": "refused"}


def bench(place: Place) -> Found:
    """Time `extract` against bare forward passes and the usual loop, on a few segments."""
    num_clips, rounds = (NUM_TIMED_CLIPS, ROUNDS) if place.on_gpu else (1, 1)
    records = read_manifest(place.manifest())[:num_clips]
    # One after the other: a 24 GB card holds no two models.
    seconds = _time_ours(place, records, rounds)
    place.let_go()
    seconds |= _time_usual_loop(place, records, rounds)
    num_segments = sum(len(_whole(record).segments) for record in records)
    found = {
        "num_segments": num_segments,
        "segments_per_second": num_segments / seconds["ours"],
        "ours_over_bare_forward": seconds["ours"] / seconds["bare_forward"],
        "usual_loop_over_ours": seconds["usual_loop"] / seconds["ours"],
    }
    said = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
    return {"said": said, **found}


def _time_ours(place: Place, records: list[VideoRecord], rounds: int) -> dict[str, float]:
    """From the files to a sealed store; and the model's passes alone, on what is ready."""
    manifest, store = place.folder / "timed.csv", place.folder / "timed.zarr"
    write_manifest(manifest, records)
    backbone = Backbone(place.model)
    ready = [
        backbone.prepare(sample.segments[start : start + BATCH_SIZE], sample.info.fps)
        for sample in map(_whole, records)
        for start in range(0, len(sample.segments), BATCH_SIZE)
    ]

    def ours() -> None:
        shutil.rmtree(store, ignore_errors=True)
        config = ExtractConfig(manifest, store, place.model, batch_size=BATCH_SIZE, parity=0)
        extract(config, workplace=Here(config, backbone))

    def bare_forward() -> None:
        for inputs in ready:
            backbone.states(inputs)

    return _medians(rounds, ours, bare_forward)


def _time_usual_loop(place: Place, records: list[VideoRecord], rounds: int) -> dict[str, float]:
    """Decode, prepare, ``generate`` one token with all states, ``torch.save``: one by one."""
    describer = Describer(place.model)

    def usual_loop() -> None:
        for sample in map(_whole, records):
            for segment in sample.segments:
                states = describer.first_token_states(segment, place.model.prompt, sample.info.fps)
                torch.save(torch.from_numpy(states), place.folder / "states.pt")

    return _medians(rounds, usual_loop)


def _whole(record: VideoRecord) -> Sample:
    info = inspect_video(record.path)
    ranges = segment_ranges(info.num_frames, SEGMENT_FRAMES)
    return Sample(record.path, info, list(SegmentReader(record.path, ranges, NUM_KEYFRAMES)))


def _medians(rounds: int, *ways: Callable[[], None]) -> dict[str, float]:
    """Median seconds of each way."""
    seconds = seconds_in_turns({way.__name__: way for way in ways}, rounds)
    return {name: statistics.median(values) for name, values in seconds.items()}


STEPS: dict[str, Callable[[Place], Found]] = {
    "check": check_shape,
    "killed": killed,
    "out of memory": out_of_memory,
    "two workers": two_workers,
    "bench": bench,
}


def main() -> None:
    """Run one step, in this process."""
    name, shape, folder, device = sys.argv[1:]
    found = STEPS[name](Place(shape, Path(folder), torch.device(device)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
