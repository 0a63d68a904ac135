"""The command `hiprobe sweep`. Heavy imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd


def sweep(
    store: Annotated[Path, typer.Argument(help="The store to train and test on.")],
    out: Annotated[Path, typer.Argument(help="The table to write: .parquet or .csv.")],
    also: Annotated[
        list[Path] | None, typer.Option(help="More stores, for example of other keyframes.")
    ] = None,
    test_store: Annotated[
        Path | None, typer.Option(help="Test on this store of the same model instead.")
    ] = None,
    layers: Annotated[str, typer.Option(help="'all' above 0, or such as 4,8-12.")] = "all",
    scorers: Annotated[str, typer.Option(help="Of logistic, svm, distance.")] = "logistic",
    l2: Annotated[str, typer.Option(help="Penalties, such as 0,1 (0: the paper's).")] = "1",
    fractions: Annotated[str, typer.Option(help="Few-shot shares, such as 0.1,1.")] = "1",
    num_videos: Annotated[str, typer.Option(help="Or so many videos, such as 10,20.")] = "",
    seeds: Annotated[
        int, typer.Option("--seeds", "--repeats", min=1, help="So many few-shot draws of each.")
    ] = 1,
    kappas: Annotated[str, typer.Option(help="κ of the threshold, such as 0,0.2,0.5.")] = "0.2",
    labels: Annotated[str, typer.Option(help="video, or segment (from annotations).")] = "video",
    samples_per_video: Annotated[int, typer.Option(min=1, help="Temporal bins.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: this one.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option(help="A running Dask cluster: tcp://HOST:8786")
    ] = None,
) -> None:
    """Run a grid of probing experiments, a layer read once; interrupted, it goes on (CPU only)."""
    from rich.console import Console
    from rich.progress import Progress

    from hiprobe.cli.probe import check_choice
    from hiprobe.store.scorers import SCORERS
    from hiprobe.sweep.pipeline import SweepConfig, run_sweep

    kinds = tuple(scorers.split(","))
    for kind in kinds:
        check_choice("--scorers", kind, SCORERS)
    check_choice("--labels", labels, ("video", "segment"))
    config = SweepConfig(
        stores=(store, *(also or ())),
        test_store=test_store,
        layers=None if layers == "all" else _layers(layers),
        scorers=kinds,
        l2s=_numbers("--l2", l2),
        fractions=_numbers("--fractions", fractions),
        num_videos=tuple(int(count) for count in _numbers("--num-videos", num_videos)),
        seeds=tuple(range(seeds)),
        kappas=_numbers("--kappas", kappas),
        labels=labels,
        samples_per_video=samples_per_video,
    )
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("layers", total=None)
        table = run_sweep(
            config,
            out,
            num_workers=workers,
            scheduler=scheduler,
            on_task=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _print_table(table, out)


def table(
    kind: Annotated[
        str, typer.Argument(help="cross-dataset (Table 3), ablation (4) or keyframes (5).")
    ],
    stores: Annotated[list[Path], typer.Argument(help="Stores; their test splits are tested on.")],
    out: Annotated[Path, typer.Option(help="Folder for Markdown, CSV and how it was made.")],
    fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Few-shot share of the training videos.")
    ] = 1.0,
    num_videos: Annotated[int | None, typer.Option(min=4, help="Or so many of them.")] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="So many few-shot draws: mean ± deviation.")
    ] = 1,
    l2: Annotated[float, typer.Option(min=0, help="Penalty of the scorers; 0: the paper's.")] = 1.0,
    kappa: Annotated[float, typer.Option(help="κ of the threshold.")] = 0.2,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: this one.")] = 0,
) -> None:
    """Make one of the paper's tables from stores.

    cross-dataset: train on one store, test on another, for all pairs of one model.

    ablation: last and middle layer, other scorers, fixed thresholds.

    keyframes: stores that `extract --keyframes K` made, one for each K.
    """
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table as RichTable

    from hiprobe.cli.probe import check_choice
    from hiprobe.sweep.pipeline import SweepConfig
    from hiprobe.sweep.tables import METRICS, TABLES, TableConfig

    check_choice("table", kind, tuple(TABLES))
    sweep = SweepConfig(
        stores=(),
        l2s=(l2,),
        fractions=(fraction,),
        num_videos=() if num_videos is None else (num_videos,),
        seeds=tuple(range(repeats)),
        kappas=(kappa,),
    )
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("layers", total=None)
        made = TABLES[kind](
            stores,
            TableConfig(
                out,
                sweep,
                workers,
                lambda done, total: bar.update(task, completed=done, total=total),
            ),
        )
    console = Console(highlight=False)
    header, *rows = made.cells(METRICS[:4])  # a terminal is narrow; the files hold all
    shown = RichTable()
    for column, name in enumerate(header):
        shown.add_column(name, no_wrap=not column)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    for note in made.notes:
        console.print(note, style="dim", markup=False)
    console.print(f"wrote {made.name}.md, .csv, .json in {out}", markup=False)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text!r}: expected numbers such as 0.1,1") from error


def _layers(text: str) -> tuple[int, ...]:
    layers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise typer.BadParameter(f"--layers {text!r}: expected all or 4,8-12")
        layers.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(layers))


def _print_table(table: pd.DataFrame, out: Path) -> None:
    """Print the mean AUC ± its deviation over draws, for DLSP's layer, the best and the last."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="AUC of the smoothed scores, mean ± deviation over draws")
    for name in ("store", "scorer", "l2", "videos", "DLSP's layer", "best layer", "last layer"):
        shown.add_column(name)
    once = table[table["kappa"] == table["kappa"].iloc[0]]
    for (store, scorer, l2, count), group in once.groupby(["store", "scorer", "l2", "num_videos"]):
        of_layer = group.groupby("layer")["auc"]
        best = int(of_layer.mean().idxmax())
        cells = [
            _spread(group.loc[group["is_dlsp_choice"], "auc"]),
            f"{_spread(of_layer.get_group(best))} ({best})",
            _spread(of_layer.get_group(max(of_layer.groups))),
        ]
        shown.add_row(Path(store).name, scorer, f"{l2:g}", str(count), *cells)
    console = Console(highlight=False)
    console.print(shown)
    console.print(f"{len(table)} rows in {out}", markup=False)


def _spread(values: pd.Series) -> str:
    if values.empty:
        return "–"
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")
