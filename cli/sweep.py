"""`hiprobe sweep`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiprobe.cli import options
from hiprobe.cli.output import progress, say, terminal, warn

if TYPE_CHECKING:
    import pandas as pd


def sweep(
    store: Annotated[Path, typer.Argument(help="The store to train and test on.")],
    out: Annotated[Path, typer.Argument(help="The table to write, .parquet or .csv.")],
    also: Annotated[
        list[Path] | None,
        typer.Option(help="Train and test on this store too, for example of other keyframes."),
    ] = None,
    test_store: Annotated[
        Path | None,
        typer.Option(help="Test on this store of the same model instead of the one trained on."),
    ] = None,
    layers: Annotated[
        Any,
        options.layers("all", "Try layers such as 4,8-12; all takes those above the embedding, 0."),
    ] = "all",
    scorers: options.Scorers = "logistic",
    l2: Annotated[
        Any, options.numbers("Try penalties such as 0,1; 0 is the paper's setting.")
    ] = "1",
    fractions: Annotated[
        Any, options.numbers("Train on shares of the videos such as 0.1,1.")
    ] = "1",
    num_videos: Annotated[
        Any, options.numbers("Train on so many videos, such as 10,20, instead of shares.", int, 1)
    ] = None,
    seeds: Annotated[
        int,
        typer.Option("--seeds", "--repeats", min=1, help="Draw each few-shot set so many times."),
    ] = 1,
    kappas: Annotated[
        Any,
        options.numbers(
            "Set thresholds to μ + κσ for each κ, such as 0,0.2,0.5.", minimum=-math.inf
        ),
    ] = "0.2",
    labels: options.Labels = "video",
    samples_per_video: options.SamplesPerVideo = 1,
    manifest: options.Manifest = None,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
) -> None:
    """Run a grid of probing experiments, a layer read once; interrupted, it goes on (CPU only)."""
    from hiprobe.sweep.pipeline import SweepConfig, run_sweep

    config = SweepConfig(
        stores=(store, *(also or ())),
        test_store=test_store,
        layers=layers,
        scorers=scorers,
        l2s=l2,
        fractions=fractions,
        num_videos=num_videos or (),
        seeds=tuple(range(seeds)),
        kappas=kappas,
        labels=labels,
        samples_per_video=samples_per_video,
        manifest=manifest,
    )
    warnings: list[str] = []
    with progress("layers", stays=True) as on_task:
        table = run_sweep(
            config,
            out,
            num_workers=workers,
            scheduler=scheduler,
            on_task=on_task,
            on_warning=warnings.append,
        )
    warn(warnings)
    _print_table(table, out)


def _print_table(table: pd.DataFrame, out: Path) -> None:
    """Print the mean AUC ± its deviation over draws, for DLSP's layer, the best and the last."""
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
    terminal().print(shown)
    say(f"{len(table)} rows in {out}")


def _spread(values: pd.Series) -> str:
    """Write mean ± deviation; a single draw has no deviation."""
    if values.empty:
        return "–"
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")
