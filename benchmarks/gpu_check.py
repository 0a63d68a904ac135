"""What only a GPU can show, in one script of at most ten minutes: ``make gpu-check``.

For each of the four published shapes, with random weights of full size made on the card: what
`hiprobe check` finds. With the smallest of them also: an extraction that was killed goes on, and
its store passes ``verify --parity``; a batch that does not fit (the process's memory is limited)
gives the same states in parts; two workers on the one card are refused. With it and with the
paper's model, `extract` is timed against bare forward passes and the usual loop.

Each step is a process of its own with a time of its own: one that fails or hangs hides no other.
Without a CUDA GPU it refuses; ``--rehearse`` goes through everything that a CPU can do with tiny
shapes, and proves nothing but that the script runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import hiprobe.extract  # noqa: F401  # before the others: it quiets what Transformers imports

# isort: split

from benchmarks.full_size_models import SHAPES
from hiprobe.extract.check_speed import best_of, machine

OUT = Path("benchmarks/out")
MINUTES = 10.0
GIGABYTES_ON_DISK = 20
# No step is begun that could hardly load its model.
LEAST_SECONDS = 20.0
# The smallest shape has all steps, the paper's own model is timed too.
STEPS_OF = {SHAPES[0].name: ("check", "killed", "out of memory", "two workers", "bench"),
            "InternVL2.5-8B": ("check", "bench")}  # fmt: skip
# What a step may take, be it alone.
SECONDS = {"check": 180.0, "killed": 120.0, "out of memory": 60.0, "two workers": 60.0,
           "bench": 90.0}  # fmt: skip


@dataclass
class Outcome:
    """How a step ended.

    Attributes
    ----------
    step, shape : str
    status : {'ok', 'failed', 'not reached'}
    seconds : float
    text : str
        What it says of itself, or what is wrong.
    found : dict
        Its figures.
    """

    step: str
    shape: str
    status: str = "not reached"
    seconds: float = 0.0
    text: str = ""
    found: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Say it in a line."""
        return f"{self.status:11} {self.seconds:4.0f} s  {self.shape}: {self.step}: {self.text}"


def main() -> None:
    """Check all shapes, print and write what was found; exit code 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes, on the CPU")
    parser.add_argument("--only", help="the shape of this name", choices=[s.name for s in SHAPES])
    parser.add_argument("--folder", type=Path, help="for the weights: 20 GB free")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    arguments = parser.parse_args()
    device = _device(arguments.rehearse)
    until = time.monotonic() + 60 * arguments.minutes
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        if not arguments.rehearse:
            _check_disk(Path(name))
        for shape in SHAPES:
            if arguments.only not in (None, shape.name):
                continue
            for step in STEPS_OF.get(shape.name, ("check",)):
                outcomes.append(run_step(step, shape.name, Path(name), device, until))
                print(outcomes[-1].line(), flush=True)
                _write(outcomes, device)
            # One model at a time on the disk.
            shutil.rmtree(Path(name) / shape.name, ignore_errors=True)
    print(summary(outcomes, device))
    print(_write(outcomes, device))
    if any(one.status == "failed" for one in outcomes):
        sys.exit(1)


def _device(rehearse: bool) -> torch.device:
    if rehearse:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        sys.exit(
            "gpu-check: torch sees no CUDA GPU here, and there is nothing to check without one. "
            "Run it on a machine that has one (24 GB or more); --rehearse tries the script."
        )
    return torch.device("cuda:0")


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free / 1e9
    if free < GIGABYTES_ON_DISK:
        sys.exit(
            f"gpu-check: {folder.parent} has {free:.0f} GB free, a model takes "
            f"{GIGABYTES_ON_DISK}. Give another place with --folder."
        )


def run_step(step: str, shape: str, folder: Path, device: torch.device, until: float) -> Outcome:
    """Run a step in a process of its own, until its time or everybody's is over.

    Parameters
    ----------
    step, shape : str
    folder : Path
        Of the weights, the clips and the stores.
    device : torch.device
    until : float
        By `time.monotonic`.
    """
    outcome, started = Outcome(step, shape), time.monotonic()
    limit = min(SECONDS[step], until - started)
    if limit < LEAST_SECONDS:
        outcome.text = "no time was left"
        return outcome
    command = [sys.executable, "-m", "benchmarks.gpu_steps", step, shape, str(folder), str(device)]
    with (folder / "log").open("w+", encoding="utf-8") as log:
        # In a session of its own: what it has started ends with it.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            outcome.text = f"not done after {limit:.0f} s; "
        log.seek(0)
        lines = log.read().splitlines() or [""]
    outcome.seconds = time.monotonic() - started
    outcome.status = "failed"
    if process.returncode:
        outcome.text += f"exit code {process.returncode}: {' / '.join(lines[-3:])}"
        return outcome
    outcome.found = json.loads(lines[-1])
    problems = outcome.found.pop("problems", [])
    outcome.status = "failed" if problems else "ok"
    outcome.text = "; ".join([*problems, outcome.found.pop("said")])
    return outcome


def summary(outcomes: Sequence[Outcome], device: torch.device) -> str:
    """Write the figures as docs/backbones.md has them, and count the steps."""
    lines = [
        "| shape | tokens | batch | s a segment | memory | busy |",
        "|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        for tokens, row in best_of(one.found.get("report", {}).get("batches", [])).items():
            lines.append(
                f"| {one.shape} | {tokens:,} | {row['batch_size']} "
                f"| {row['seconds_per_segment']:.3f} | {row['peak_bytes'] / 2**30:.1f} GiB "
                f"| {row['utilisation']:.0%} |"
            )
    counts = [
        f"{sum(one.status == status for one in outcomes)} {status}"
        for status in ("ok", "failed", "not reached")
    ]
    return "\n".join([*lines, f"{_name(device)}: {', '.join(counts)}"])


def _name(device: torch.device) -> str:
    name = str(machine(device)["name"])
    return name if device.type == "cuda" else f"{name}: a rehearsal, which says nothing of speed"


def _write(outcomes: Sequence[Outcome], device: torch.device) -> Path:
    """Write what is known so far: whoever ends this script keeps it."""
    # A rehearsal's figures must not take the place of real ones.
    name = "gpu_check.json" if device.type == "cuda" else "gpu_check_rehearsal.json"
    OUT.mkdir(parents=True, exist_ok=True)
    content = {
        "card": _name(device),
        "machine": machine(device),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "steps": [asdict(one) for one in outcomes],
    }
    (OUT / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return OUT / name


if __name__ == "__main__":
    main()
