"""`hiprobe demo`: the whole path on generated clips with the embedded model, by users' commands."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hiprobe.demo.inputs import DemoInputs


def demo(
    out: Annotated[Path, typer.Argument(help="Folder for everything that the demo makes.")] = Path(
        "demo-output"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the generated clips.")] = 0,
) -> None:
    """Run the whole path, from manifest to report, on generated clips, offline, without a GPU."""
    from hiprobe.cli.requirements import require_extract

    require_extract()
    from hiprobe.demo.inputs import DemoInputs
    from hiprobe.demo.questions import INCIDENTS, question
    from hiprobe.extract.config import DEFAULT_PROMPT

    started = time.monotonic()
    inputs = DemoInputs(out, seed)
    if not inputs.are_made():
        _make(inputs)
    manifest, store = out / "manifest.csv", out / "features.zarr"
    probe, results = out / "probe.json", out / "results"
    labels = ["--annotations", inputs.annotations]
    # All that one pass gives, so that methods can be compared. The model has learned both prompts.
    taps = ["--taps", "heads,frames_mean,frames_last"]
    taps += ["--prompt", DEFAULT_PROMPT, "--prompt", f"incident={question(INCIDENTS)}"]
    for command in (
        ["manifest", "folder", inputs.videos, *labels, "--out", manifest],
        ["extract", manifest, store, "--model", inputs.model, "--thumbnails", *taps],
        ["probe", store, probe],
        ["evaluate", store, probe, results],
        ["layers", store, results / "layers"],
        ["table", "methods", store, "--out", results / "methods"],
        ["explain", store, results, "--model", inputs.model, "--which", "anomalous"],
    ):
        _run([str(part) for part in command])
    scores = json.loads((results / "metrics.json").read_text(encoding="utf-8"))["smoothed"]
    print(f"\nAUC {scores['auc']:.4f}  AP {scores['ap']:.4f} ")
    print(f"report: {results / 'report.html'}")
    print(f"demo done in {time.monotonic() - started:.0f} s")


def _make(inputs: DemoInputs) -> None:
    from rich.progress import Progress

    print(f"Generating {inputs.num_clips} surveillance-like clips in {inputs.videos}")
    with Progress(transient=True) as bar:
        task = bar.add_task("rendering", total=inputs.num_clips)
        inputs.make(lambda count: bar.update(task, completed=count))
    print(
        f"Copied the embedded Qwen2.5-VL of 2.6 M parameters to {inputs.model}. It has learned to\n"
        "describe clips like these and to say whether somebody fights or drives, never what is\n"
        "abnormal. It knows no real video."
    )


def _run(arguments: list[str]) -> None:
    """Print a command as a user would type it, and run it in a process of its own."""
    print(f"\n$ hiprobe {shlex.join(arguments)}", flush=True)
    code = subprocess.call([sys.executable, "-m", "hiprobe.cli", *arguments])
    if code:
        raise typer.Exit(code)
