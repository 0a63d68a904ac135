"""What the commands share of printing, and the exit codes.

Paths and ids are printed as they are: ``[red]`` in them is no markup, ``:fire:`` no emoji.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.text import Text

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


def warn(warnings: Iterable[str]) -> None:
    """Print warnings, a line each."""
    for warning in warnings:
        say(f"warning: {warning}", style="yellow")


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
    """Show a spinner; hand out a function that says which step it is."""
    with terminal(stderr=True).status(name) as spinner:
        yield lambda step: spinner.update(Text(f"{name}: {step}"))
