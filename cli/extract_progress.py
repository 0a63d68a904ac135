"""What `hiprobe extract` shows: progress, the dry run, the closing table, and the JSON log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from hiprobe.cli.output import say, say_parity, terminal
from hiprobe.extract import pipeline
from hiprobe.extract.changed_files import CHANGED
from hiprobe.extract.config import ExtractConfig
from hiprobe.extract.extractor import Progress as Step
from hiprobe.extract.pipeline import ExtractSummary
from hiprobe.store import FAILED, write_errors


class _RateColumn(ProgressColumn):
    """Segments per second, over the last seconds."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("–/s" if speed is None else f"{speed:.1f}/s")


def run_with_progress(config: ExtractConfig, log_json: Path | None) -> ExtractSummary:
    """Extract, with a progress bar on the terminal and events in the log."""
    console = terminal(stderr=True)
    whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns = (
        BarColumn(bar_width=10, table_column=whole),
        MofNCompleteColumn(table_column=whole),
        _RateColumn(table_column=whole),
        TimeRemainingColumn(table_column=whole),
        TextColumn("{task.fields[state]}", markup=False, table_column=rest),
    )
    with Progress(*columns, console=console, expand=True) as bar, _log(log_json) as log:
        task = bar.add_task("extract", total=None, state="loading the model")
        totals = {"failed": 0.0, "seconds": 0.0, "waited": 0.0, "gpu_bytes": 0.0}

        def on_plan(num_videos: int, num_segments: int) -> None:
            bar.update(task, total=num_segments, state=f"{num_videos} videos")
            log("plan", num_videos=num_videos, num_segments=num_segments)

        def on_progress(step: Step) -> None:
            totals["failed"] += step.outcome == FAILED
            totals["seconds"] += step.seconds
            totals["waited"] += step.waited_seconds
            totals["gpu_bytes"] = max(totals["gpu_bytes"], step.gpu_bytes)
            bar.update(task, advance=step.num_segments, state=_state(step.video_id, totals))
            if step.outcome in (FAILED, CHANGED):
                bar.console.print(f"{step.outcome}: {step.reason}", style="red")
            if step.outcome:
                log("video", **asdict(step))

        def on_warning(text: str) -> None:
            bar.console.print(f"warning: {text}", style="yellow", soft_wrap=True)
            log("warning", text=text)

        log("start", store=str(config.store), model=config.backbone.model)
        summary = pipeline.extract(config, on_progress, on_plan, on_warning=on_warning)
        log("end", **asdict(summary))
        return summary


def _state(video_id: str, totals: dict[str, float]) -> str:
    """Say how long the model waited for videos, what it holds of the GPU, and which video it is."""
    parts = [f"waited {totals['waited'] / max(totals['seconds'], 1e-9):.0%}"]
    if totals["gpu_bytes"]:
        parts.append(f"{totals['gpu_bytes'] / 2**30:.1f} GiB GPU")
    if totals["failed"]:
        parts.append(f"{totals['failed']:.0f} failed")
    return " · ".join([*parts, video_id])


@contextmanager
def _log(path: Path | None) -> Iterator[Callable[..., None]]:
    """Open the JSON log; without a path, nothing is logged."""
    if path is None:
        yield lambda event, **fields: None
        return
    with write_errors(path), path.open("a", encoding="utf-8") as file:

        def write(event: str, **fields: Any) -> None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            file.write(json.dumps({"time": now, "event": event} | fields) + "\n")
            file.flush()

        yield write


def print_dry_run(config: ExtractConfig) -> None:
    """Say what there is to do, how large it will be, and how long it may take."""
    with terminal(stderr=True).status("opening the videos, timing the model"):
        plan = pipeline.dry_run(config)
    _print_failures(plan.failures)
    seconds = plan.num_segments * plan.seconds_per_segment
    table = Table(title=f"Dry run: {config.manifest} → {config.store}", show_header=False)
    table.add_row("videos left", f"{plan.num_videos:,} ({len(plan.failures)} cannot be opened)")
    table.add_row("segments", f"{plan.num_segments:,}")
    table.add_row("video", f"{plan.video_seconds / 3600:.2f} hours")
    table.add_row("states on disk", f"at most {plan.max_bytes / 1e9:.2f} GB")
    table.add_row(
        "model",
        f"{plan.seconds_per_segment:.3f} s a segment, timed on one batch: "
        f"{timedelta(seconds=round(seconds))} in all, with one worker",
    )
    terminal().print(table)


def print_summary(summary: ExtractSummary, store: Path) -> None:
    """Say how it went: failures, notes, the parity certificate, totals."""
    for video_id, note in summary.notes.items():
        say(f"note: {video_id}: {note}", style="yellow")
    _print_failures(summary.failures)
    _print_failures(summary.changed, "changed", "how its file has changed")
    if summary.parity:
        say_parity(summary.parity)
    changed = f", {len(summary.changed)} changed" if summary.changed else ""
    pending = f", {summary.num_pending} pending" if summary.num_pending else ""
    say(
        f"{store}: {summary.num_done} videos done, {len(summary.failures)} failed"
        f"{changed}{pending}; {summary.num_segments} segments"
    )


def _print_failures(
    failures: dict[str, str], what: str = "failed", header: str = "why it failed"
) -> None:
    """Print a table of the videos that failed, or have changed, if there are any."""
    if not failures:
        return
    table = Table("video", header, title=f"{len(failures)} {what}", title_style="red")
    for video_id, reason in failures.items():
        table.add_row(video_id, reason)
    terminal().print(table)
