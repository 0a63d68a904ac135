"""`hiprobe demo`: the whole path on generated clips with the embedded model, by users' commands."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from hiprobe.store.errors import HiProbeError

NUM_VIDEOS = 60
MODEL = "tiny-qwen2.5-vl"


def demo(
    out: Annotated[Path, typer.Argument(help="Folder for everything it makes.")] = Path("demo-output"),
    seed: Annotated[int, typer.Option(help="Of the clips.")] = 0,
) -> None:
    """Run the whole path, from manifest to report, on generated clips, offline, without a GPU."""
    started = time.monotonic()
    videos, model, store = out / "videos", out / MODEL, out / "features.zarr"
    probe, results = out / "probe.json", out / "results"
    _make_inputs(videos, model, seed)
    manifest, annotations = out / "manifest.csv", videos / "annotations.csv"
    for command in (
        ["manifest", "folder", videos, "--annotations", annotations, "--out", manifest],
        ["extract", manifest, store, "--model", model, "--thumbnails"],
        ["probe", store, probe],
        ["evaluate", store, probe, results],
        ["layers", store, results / "layers"],
        ["explain", store, results, "--model", model, "--which", "anomalous"],
    ):
        _run([str(part) for part in command])
    scores = json.loads((results / "metrics.json").read_text(encoding="utf-8"))["smoothed"]
    print(f"\nAUC {scores['auc']:.4f}  AP {scores['ap']:.4f} ")
    print(f"report: {results / 'report.html'}")
    print(f"demo done in {time.monotonic() - started:.0f} s")


def _make_inputs(videos: Path, model: Path, seed: int) -> None:
    """Generate the clips and copy the model, unless an earlier run did."""
    from hiprobe.cli.extract import require_extract

    require_extract()
    from rich.progress import Progress

    from hiprobe.demo.clips import plan_clips, write_clips
    from hiprobe.demo.model import TRAINED_MODEL

    done = videos.parent / f"inputs-seed-{seed}.done"
    if done.exists():
        return
    if any(videos.parent.glob("*")):
        raise HiProbeError(
            f"{videos.parent}: holds something else, or an unfinished demo. Expected an empty or "
            "new folder; give another one, or remove it."
        )
    print(f"Generating {NUM_VIDEOS} surveillance-like clips in {videos}")
    with Progress(transient=True) as bar:
        task = bar.add_task("rendering", total=NUM_VIDEOS)
        clips = plan_clips(NUM_VIDEOS, seed)
        write_clips(clips, videos, lambda count: bar.update(task, completed=count))
    shutil.copytree(TRAINED_MODEL, model, copy_function=shutil.copyfile)
    print(
        f"Copied the embedded Qwen2.5-VL of 2.6 M parameters to {model}. It has learned to\n"
        "describe clips like these, never what is abnormal. It knows no real video."
    )
    done.touch()


def _run(arguments: list[str]) -> None:
    """Print a command as a user would type it, and run it in a process of its own."""
    print(f"\n$ hiprobe {shlex.join(arguments)}", flush=True)
    code = subprocess.call([sys.executable, "-m", "hiprobe.cli", *arguments])
    if code:
        raise typer.Exit(code)
