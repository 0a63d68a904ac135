"""What the commands share of printing, and the exit codes.

Paths and ids are printed as they are: ``[red]`` in them is no markup, ``:fire:`` no emoji.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.text import Text

from hiprobe.store.errors import HiProbeError, listing

EXIT_USER_ERROR = 1
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130


def terminal(*, stderr: bool = False) -> Console:
    """Make a console that takes every text literally, in tables and titles too."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def say(text: str, style: str | None = None) -> None:
    """Print text; lines are broken for a terminal only, so that a log keeps its paths whole."""
    console = terminal()
    console.print(text, style=style, soft_wrap=not console.is_terminal)


def folder_bytes(path: Path) -> int:
    """Add up the sizes of a folder's files."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def size(num_bytes: float) -> str:
    """Write a number of bytes with two digits, in the unit that it takes: 45 kB, 1.2 GB."""
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    while num_bytes >= 999.5 and len(units) > 1:
        num_bytes, units = num_bytes / 1000, units[1:]
    return _two_digits(num_bytes, units[0])


# The least seconds that are said in a unit, and its length.
TIME_UNITS = (
    (2 * 86400, 86400, "days"), (3600, 3600, "hours"), (60, 60, "minutes"), (0, 1, "seconds"),
)  # fmt: skip


def duration(seconds: float) -> str:
    """Write a time with two digits, in the unit that it takes: 45 seconds, 1.2 hours."""
    length, unit = next((length, unit) for least, length, unit in TIME_UNITS if seconds >= least)
    return _two_digits(seconds / length, unit)


def _two_digits(value: float, unit: str) -> str:
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"


def warn(warnings: Iterable[str]) -> None:
    """Print warnings, a line each."""
    for warning in warnings:
        say(f"warning: {warning}", style="yellow")


def say_parity(certificate: dict[str, Any]) -> None:
    """Say how segments computed again compare with the store."""
    warn(certificate.get("warnings", ()))
    differences = certificate["relative_l2"]
    if not differences:
        say("parity: no segment could be computed again", style="yellow")
        return
    num_segments = len(certificate["segments"])
    if not any(differences.values()):
        say(f"parity: {num_segments} segments computed again one by one are identical")
        return
    layer = max(differences, key=differences.__getitem__)
    control = certificate.get("between_segments", {})
    beside = f"different segments {control[layer]:.1e}, " if control else ""
    say(
        f"parity: {num_segments} segments computed again one by one differ by at "
        f"most {differences[layer]:.1e} (relative L2, layer {layer}; "
        f"{beside}tolerance {certificate['tolerance']:.0e})"
    )


def check_parity(certificate: dict[str, Any], store: Path) -> None:
    """Refuse a certificate whose segments differ more than they may.

    Raises
    ------
    HiProbeError
        It names them.
    """
    if exceeded := certificate["exceeded"]:
        raise HiProbeError(
            f"{store}: parity failed: {len(exceeded)} of {len(certificate['segments'])} segments "
            f"computed again differ from the stored ones by more than "
            f"{certificate['tolerance']:.0e}:\n"
            + listing([f"{video_id}, segment {segment}" for video_id, segment in exceeded])
            + "\nBatches, memory or a library changed the numbers: extract to another store with "
            "--batch-size 1 and compare."
        )


@contextmanager
def progress(
    name: str, *, stays: bool = False, counts: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar with the time left; hand out a function of (done, total).

    Parameters
    ----------
    name : str
        What is counted.
    stays : bool
        Leave the bar on the terminal when it is full.
    counts : bool
        Show done and total as numbers too.
    """
    columns = [*Progress.get_default_columns(), *([MofNCompleteColumn()] if counts else [])]
    with Progress(*columns, console=terminal(stderr=True), transient=not stays) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def status(name: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner, or lines in a log; hand out a function that says which step it is."""
    console = terminal(stderr=True)
    if not console.is_terminal:
        yield lambda step: console.print(
            f"{datetime.now():%Y-%m-%d %H:%M:%S} {name}: {step}", soft_wrap=True
        )
        return
    with console.status(name) as spinner:
        yield lambda step: spinner.update(Text(f"{name}: {step}"))
