"""`hiprobe report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiprobe.cli.output import say


def report(
    results: Annotated[Path, typer.Argument(help="The folder that `hiprobe evaluate` wrote.")],
) -> None:
    """Make report.html again, with what `explain` or `layers` have added to the folder."""
    from hiprobe.evaluate.report import render_results

    render_results(results)
    say(f"report: {results / 'report.html'}")
