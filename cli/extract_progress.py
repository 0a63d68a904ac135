"""What `hiprobe extract` shows: progress, the dry run, the closing table, and the JSON log."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any, NoReturn, Protocol

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

from hiprobe.cli.output import duration, say, say_parity, size, terminal
from hiprobe.extract import pipeline
from hiprobe.extract.changed_files import CHANGED
from hiprobe.extract.config import ExtractConfig
from hiprobe.extract.devices import GpuError
from hiprobe.extract.dry_run import dry_run
from hiprobe.extract.pipeline import ExtractSummary
from hiprobe.extract.tally import Progress as Step
from hiprobe.extract.tally import Tally
from hiprobe.store import DONE, FAILED, write_errors

# Where nobody looks at a bar: a line in the log of nohup or Slurm.
SECONDS_BETWEEN_LINES = 60.0
# Set in the environment of a process that a GPU's error has made start anew.
RELOADED = "HIPROBE_RELOADED"


class _Display(Protocol):
    """Shows where a run is."""

    def show(self, video_id: str = "") -> None:
        """Show the tally as it is now."""

    def say(self, text: str, style: str) -> None:
        """Say something beside it."""


class _RateColumn(ProgressColumn):
    """Segments per second, over the last seconds."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("–/s" if speed is None else f"{speed:.1f}/s")


class _Bar:
    """A bar on a terminal."""

    def __init__(self, bar: Progress, tally: Tally) -> None:
        self._bar, self._tally = bar, tally
        self._task = bar.add_task("extract", total=None, state="loading the model")

    def show(self, video_id: str = "") -> None:
        """See `_Display`."""
        tally = self._tally
        self._bar.update(
            self._task,
            total=tally.num_segments,
            completed=tally.segments_done,
            state=_state(tally, video_id) if video_id else f"{tally.num_videos} videos",
        )

    def say(self, text: str, style: str) -> None:
        """See `_Display`."""
        self._bar.console.print(text, style=style, soft_wrap=True)


class _Lines:
    """Plain lines in a log, at their own time: `show` does nothing."""

    def __init__(self, tally: Tally) -> None:
        self._tally, self._console = tally, terminal(stderr=True)

    def show(self, video_id: str = "") -> None:
        """See `_Display`."""

    def say(self, text: str, style: str = "") -> None:
        """See `_Display`."""
        now = datetime.now().isoformat(sep=" ", timespec="seconds")
        self._console.print(f"{now} {text}", soft_wrap=True)

    def every(self, seconds: float, stop: Event) -> None:
        """Say where the run is, until it stops; also while nothing moves."""
        while not stop.wait(seconds):
            self.say(_line(self._tally))


def run_with_progress(config: ExtractConfig, log_json: Path | None) -> ExtractSummary:
    """Extract, with a bar on a terminal or lines in a log, and events in the JSON log."""
    tally = Tally()
    with _display(tally) as display, _log(log_json) as log:

        def on_plan(num_videos: int, num_segments: int) -> None:
            tally.plan(num_videos, num_segments)
            display.show()
            log("plan", num_videos=num_videos, num_segments=num_segments)

        def on_progress(step: Step) -> None:
            tally.add(step)
            display.show(step.video_id)
            if step.outcome in (FAILED, CHANGED):
                display.say(f"{step.outcome}: {step.reason}", "red")
            if step.outcome:
                log("video", **_logged(step))

        def on_warning(text: str) -> None:
            display.say(f"warning: {text}", "yellow")
            log("warning", text=text)

        def on_note(text: str) -> None:
            display.say(text, "")
            log("note", text=text)

        log("start", store=str(config.store), model=config.backbone.model)
        try:
            summary = pipeline.extract(
                config, on_progress, on_plan, on_warning=on_warning, on_note=on_note
            )
        except GpuError as error:
            # Again and again only where each time something gets done.
            if RELOADED in os.environ and not tally.num_ended:
                raise
            on_note(f"{error}\nStarting anew, with the same command.")
            return _start_anew()
        except KeyboardInterrupt:
            if tally.num_segments is not None:
                display.say(
                    f"{config.store}: keeps the {tally.outcomes[DONE]} videos that this run has "
                    "finished, and the whole blocks of those begun.",
                    "yellow",
                )
            raise
        log("end", **asdict(summary))
        return summary


def _start_anew() -> NoReturn:
    """Put a new process in this one's place: CUDA works no more in one where it has failed."""
    os.environ[RELOADED] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextmanager
def _display(tally: Tally) -> Iterator[_Display]:
    """Show a bar on a terminal; elsewhere a line a minute, one at the start and one at the end."""
    console = terminal(stderr=True)
    if console.is_terminal:
        whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
        columns = (
            BarColumn(bar_width=10, table_column=whole),
            MofNCompleteColumn(table_column=whole),
            _RateColumn(table_column=whole),
            TimeRemainingColumn(table_column=whole),
            TextColumn("{task.fields[state]}", markup=False, table_column=rest),
        )
        with Progress(*columns, console=console, expand=True) as bar:
            yield _Bar(bar, tally)
        return
    lines, stop = _Lines(tally), Event()
    lines.say(_line(tally))
    thread = Thread(target=lines.every, args=(SECONDS_BETWEEN_LINES, stop), daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        stop.set()
        thread.join()
        # Where it has not come so far, an error says why.
        if tally.num_segments is not None:
            lines.say(_line(tally))


def _line(tally: Tally) -> str:
    """Say where a run is, in a line of a log."""
    if tally.num_segments is None:
        return "loading the model, opening the videos"
    if not tally.num_videos:
        return "nothing is left to do"
    parts = [
        f"{tally.num_ended:,}/{tally.num_videos:,} videos",
        f"{tally.segments_done:,}/{tally.num_segments:,} segments",
        f"{tally.segments_per_second:.3g} segments/s",
    ]
    if (seconds := tally.seconds_left) is not None:
        parts.append(f"{timedelta(seconds=round(seconds))} left")
    return " · ".join([*parts, *_circumstances(tally)])


def _state(tally: Tally, video_id: str) -> str:
    """Say beside the bar what the model waits for, what it holds, and which video it is."""
    return " · ".join([*_circumstances(tally), video_id])


def _circumstances(tally: Tally) -> list[str]:
    parts = [_waited(tally.waited)]
    if tally.gpu_bytes:
        parts.append(f"{tally.gpu_bytes / 2**30:.1f} GiB GPU")
    if tally.num_failed:
        parts.append(f"{tally.num_failed} failed")
    return parts


def _waited(shares: dict[str, float]) -> str:
    """Say how much of its time the model waited, and for what."""
    named = [f"{share:.0%} {name}" for name, share in shares.items() if share >= 0.005]
    return f"waited {sum(shares.values()):.0%}" + (f" ({', '.join(named)})" if named else "")


def _logged(step: Step) -> dict[str, Any]:
    """What the JSON log says of a video that has ended: all of it, not its last step."""
    fields = asdict(step)
    num_segments, seconds = fields.pop("video_segments"), fields.pop("video_seconds")
    del fields["waited_seconds"], fields["waited_on"]
    return fields | {"num_segments": num_segments, "seconds": round(seconds, 3)}


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
        plan = dry_run(config)
    for note in plan.notes:
        say(note)
    _print_failures(plan.failures)
    if not plan.num_videos:
        say(f"{config.store}: nothing is left to do of {config.manifest}")
        return
    least, most = plan.seconds_range
    whole = [duration(plan.num_segments * one) for one in (least, most)]
    table = Table(title=f"Dry run: {config.manifest} → {config.store}", show_header=False)
    table.add_row("videos left", f"{plan.num_videos:,} ({len(plan.failures)} cannot be opened)")
    table.add_row("segments", f"{plan.num_segments:,}")
    table.add_row("video", duration(plan.video_seconds))
    table.add_row("states on disk", f"at most {size(plan.max_bytes)}")
    table.add_row(
        "model",
        f"{least:.2g} to {most:.2g} s a segment, in several batches: {whole[0]} to {whole[1]} in "
        "all, with one worker",
    )
    terminal().print(table)


def print_summary(summary: ExtractSummary, store: Path) -> None:
    """Say how it went: failures, notes, the parity certificate, totals."""
    for video_id, note in summary.notes.items():
        say(f"note: {video_id}: {note}", style="yellow")
    earlier = {name: summary.failures[name] for name in summary.failed_earlier}
    _print_failures({n: reason for n, reason in summary.failures.items() if n not in earlier})
    _print_failures(earlier, "failed earlier; --retry-failed tries them again")
    _print_failures(summary.changed, "changed", "why it was left as it is")
    if summary.parity:
        say_parity(summary.parity)
    changed = f", {len(summary.changed)} changed" if summary.changed else ""
    pending = f", {summary.num_pending} pending" if summary.num_pending else ""
    say(
        f"{store}: {summary.num_done} videos done, {len(summary.failures)} failed"
        f"{changed}{pending}; {summary.num_segments} segments"
    )
    if summary.run:
        say(
            f"this run: {summary.run['num_segments']} segments in "
            f"{timedelta(seconds=round(summary.run['seconds']))}, "
            f"{summary.run['segments_per_second']:.3g} a second; the model "
            + _waited(summary.run["waited"])
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
