"""`hiprobe report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiprobe.cli.output import say


def report(
    results: Annotated[Path, typer.Argument(help="The folder that `hiprobe evaluate` wrote.")],
    curves: Annotated[
        bool,
        typer.Option(
            "--curves", help="Write ROC and precision-recall curves too, as CSV, PDF and SVG."
        ),
    ] = False,
) -> None:
    """Make report.html again, with what `explain` or `layers` have added to the folder."""
    from hiprobe.evaluate.report import render_results

    render_results(results)
    say(f"report: {results / 'report.html'}")
    if curves:
        from hiprobe.evaluate.curves import write_curves

        say(f"wrote {', '.join(path.name for path in write_curves(results))} in {results}")
