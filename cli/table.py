"""`hiprobe table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hiprobe.cli import options
from hiprobe.cli.output import progress, say, terminal
from hiprobe.store.scorers import DEFAULT_L2

# Of the metrics, where rows are compared and elsewhere: a terminal is narrow; the files hold all.
NUM_COMPARED, NUM_COLUMNS = 2, 4


def table(
    kind: Annotated[
        Literal["cross-dataset", "ablation", "keyframes", "methods"],
        typer.Argument(help="The paper's table to make: 3, 4 or 5; or all methods side by side."),
    ],
    stores: Annotated[
        list[Path], typer.Argument(help="The stores, whose test splits are tested on.")
    ],
    out: Annotated[
        Path, typer.Option(help="Write Markdown, CSV and how they were made to this folder.")
    ],
    fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Train on this share of the training videos.")
    ] = 1.0,
    num_videos: Annotated[
        int | None, typer.Option(min=4, help="Train on so many videos instead of a share of them.")
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(min=1, help="Draw the few-shot set so many times, for mean ± deviation."),
    ] = 1,
    l2: options.L2 = DEFAULT_L2,
    kappa: options.Kappa = 0.2,
    rules: options.Rules = None,
    mil: options.Mil = 0,
    manifest: options.Manifest = None,
    allow_overlap: options.AllowOverlap = False,
    workers: options.Workers = 0,
    latex: Annotated[
        bool, typer.Option("--latex", help="Write the table for a paper too, as LaTeX.")
    ] = False,
) -> None:
    """Make one of the paper's tables from stores, or that of all methods.

    cross-dataset: train on one store, test on another, for all pairs of one model.

    ablation: last and middle layer, other scorers, fixed thresholds.

    keyframes: stores that `extract --keyframes K` made, one for each K.

    methods: all methods and taps that a store allows, each compared with the paper's.
    """
    from rich.table import Table

    from hiprobe.sweep.latex import write_latex
    from hiprobe.sweep.layout import TOTAL_ERROR
    from hiprobe.sweep.pipeline import SweepConfig
    from hiprobe.sweep.tables import METRICS, TABLES, TableConfig

    sweep = SweepConfig(
        stores=(),
        l2s=(l2,),
        fractions=(fraction,),
        num_videos=() if num_videos is None else (num_videos,),
        seeds=tuple(range(repeats)),
        kappas=(kappa,),
        manifest=manifest,
        rules=rules or (),
        mil=mil,
        allow_overlap=allow_overlap,
    )
    with progress("layers", stays=True) as on_task:
        made = TABLES[kind](stores, TableConfig(out, sweep, workers, on_task))
    is_compared = kind == "methods"
    header, *rows = made.cells(METRICS[: NUM_COMPARED if is_compared else NUM_COLUMNS])
    # Differences with their intervals are long: there the settings' names give way, and the error.
    kept = [at for at, name in enumerate(header) if not (is_compared and name == TOTAL_ERROR)]
    shown = Table()
    for at in kept:
        is_name = at == 0
        shown.add_column(
            header[at], no_wrap=is_name and not is_compared, min_width=18 * is_name * is_compared
        )
    for row in rows:
        shown.add_row(*(row[at] for at in kept))
    terminal().print(shown)
    for note in made.notes:
        say(note, style="dim")
    if latex:
        write_latex(made, out)
    say(f"wrote {made.name}.md, .csv, .json{', .tex' * latex} in {out}")
