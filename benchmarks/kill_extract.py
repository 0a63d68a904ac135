"""Kill an extraction with two workers at random instants, again and again: ``make stress-kill``.

Each trial starts ``hiprobe extract --workers 2`` on real MP4s, waits until the workers commit,
kills the whole process group with SIGKILL at a random instant, and starts the same command again.
Whenever a store gets finished it must equal, byte for byte in the states of all taps and prompts
and in every index array, one that was extracted undisturbed; then a new one is begun. After each
kill, at most one block per worker may lie on the disk without a journal's line (so: would be
written again), and no block may ever be committed twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import zarr

from hiprobe.demo.clips import plan_clips, write_clips
from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.extract.video import inspect_video
from hiprobe.manifest.folder import folder_manifest
from hiprobe.store import write_manifest
from hiprobe.store.journal import read_journal
from hiprobe.store.schema import INDEX_ARRAYS
from hiprobe.store.taps import taps_of

NUM_WORKERS = 2
FURTHER = (
    "--taps",
    "heads,frames_mean,frames_last",
    "--prompt",
    "a=Is it odd?",
    "--prompt",
    "b=What?",
)


def main() -> None:
    """Kill, check, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(plan_clips(arguments.clips, seed=6), folder / "videos")
        draft = folder_manifest(folder / "videos", inspect=inspect_video)
        write_manifest(folder / "manifest.csv", draft.records)
        undisturbed = folder / "undisturbed.zarr"
        _start(folder, undisturbed).wait()
        counts: Counter[str] = Counter()
        while counts["kills"] < arguments.kills:
            _run_until_finished(folder, undisturbed, rng, counts, arguments.kills)
    print(dict(counts))
    out = Path("benchmarks/out/kill_extract.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(counts, indent=1) + "\n")


def _run_until_finished(
    folder: Path, undisturbed: Path, rng: random.Random, counts: Counter[str], max_kills: int
) -> None:
    """Extract one store, killed as often as it takes, and compare it."""
    store = folder / "killed.zarr"
    shutil.rmtree(store, ignore_errors=True)
    while True:
        process = _start(folder, store)
        if counts["kills"] < max_kills and _kill_at_random(process, store, rng):
            counts["kills"] += 1
            _check_after_kill(store, counts)
            print(f"kill {counts['kills']}: {dict(counts)}", flush=True)
            continue
        assert process.wait() == 0, f"exit code {process.returncode}"
        break
    _compare(store, undisturbed)
    counts["stores_finished_and_equal"] += 1


def _start(folder: Path, store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hiprobe.cli", "extract", folder / "manifest.csv", store]
    options = ["--model", TRAINED_MODEL, "--workers", NUM_WORKERS, "--batch-size", 8, "--parity", 0]
    return subprocess.Popen(
        [str(part) for part in (*command, *options, *FURTHER)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _kill_at_random(process: subprocess.Popen[bytes], store: Path, rng: random.Random) -> bool:
    """Kill the process group some time after its first commit; False if it had finished."""
    before = _num_lines(store)
    while _num_lines(store) <= before:
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 1.5))
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)  # the workers' last system calls
    return True


def _num_lines(store: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (store / "journal").glob("*.jsonl"))


def _check_after_kill(store: Path, counts: Counter[str]) -> None:
    blocks = [e for e in read_journal(store / "journal") if e["event"] == "block"]
    committed = Counter((entry["video"], entry["block"]) for entry in blocks)
    assert max(committed.values(), default=1) == 1, "a block was committed twice"
    shards = [path for path in (store / "hidden_states/c/0").glob("*/0") if path.is_file()]
    uncommitted = len(shards) - len(committed)
    assert 0 <= uncommitted <= NUM_WORKERS, f"{uncommitted} blocks without a journal's line"
    counts["blocks_to_write_again"] += uncommitted
    counts["files_half_written"] += len(list(store.rglob("*.partial")))


def _compare(store: Path, undisturbed: Path) -> None:
    """Compare all arrays, padding included."""
    one, other = zarr.open_group(store, mode="r"), zarr.open_group(undisturbed, mode="r")
    taps = taps_of(one.attrs)
    assert len(taps) == 5, taps
    for name in ("hidden_states", *taps, "layer", *(array.name for array in INDEX_ARRAYS)):
        left, right = np.asarray(one[name][:]), np.asarray(other[name][:])  # type: ignore[index]
        if left.dtype.kind == "f":
            left, right = left.view(np.uint8), right.view(np.uint8)
        assert left.shape == right.shape, name
        assert (left == right).all(), name


if __name__ == "__main__":
    main()
