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
    method: Annotated[
        list[str] | None,
        typer.Option(
            parser=options.method,
            metavar="METHOD",
            help=f"Try this method, of {', '.join(options.METHODS)}; give it once for each. "
            "hiprobe is the grid of layers and rules, and alone if left out; others have a row a "
            "draw, or one in all where they learn nothing.",
        ),
    ] = None,
    rules: options.Rules = None,
    mil: options.Mil = 0,
    tap: options.Tap = None,
    prompt: options.PromptName = "",
    target_far: Annotated[
        Any,
        options.numbers(
            "Set thresholds for these rates of false alarms on held-out normal videos too, such "
            "as 0.05."
        ),
    ] = None,
    keep_scores: Annotated[
        bool,
        typer.Option(
            "--keep-scores",
            help="Keep all scores in OUT.scores, for `hiprobe compare OUT --between … --and …`.",
        ),
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Add the rows to OUT, if it is there already.")
    ] = False,
    manifest: options.Manifest = None,
    allow_overlap: options.AllowOverlap = False,
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
        keep_scores=keep_scores,
        rules=rules or (),
        mil=mil,
        target_fars=target_far or (),
        allow_overlap=allow_overlap,
        tap=tap or "hidden_states",
        prompt=prompt,
        methods=tuple(dict.fromkeys(method or ("hiprobe",))),
    )
    warnings: list[str] = []
    with progress("layers", stays=True) as on_task:
        table = run_sweep(
            config,
            out,
            num_workers=workers,
            scheduler=scheduler,
            existing="append" if append else "refuse",
            on_task=on_task,
            on_warning=warnings.append,
        )
    warn(warnings)
    _print_table(table, out)


def _print_table(table: pd.DataFrame, out: Path) -> None:
    """Print the mean AUC over draws, for DLSP's layer, the last, each rule, and the best."""
    from rich.table import Table

    shown = Table(title="AUC of the smoothed scores, mean ± deviation over draws")
    for name in ("store", "scorer", "l2", "videos", "layers", "AUC", "total error"):
        shown.add_column(name)
    # Areas do not depend on the threshold: one row of an experiment is enough.
    once = table.drop_duplicates(["store", "method", "layer", "rule", "scorer", "l2", "draw"])
    for (store, scorer, l2, count), group in once.groupby(["store", "scorer", "l2", "num_videos"]):
        for name, own in _shown(group).items():
            shown.add_row(Path(store).name, scorer, f"{l2:g}", str(count), name, *_spread(own))
        shown.add_section()
    terminal().print(shown)
    say(
        "total error: standard error of one draw's AUC, from the draws and the test videos "
        f"together\n{len(table)} rows in {out}"
    )


def _shown(group: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The experiments to show of one setting, one a draw, by what chose their layers."""
    chosen: dict[str, pd.DataFrame] = {}
    of_layer = dict(list(group[group["layer"].notna()].groupby("layer")))
    if of_layer:
        chosen |= {"DLSP's": group[group["is_dlsp_choice"]], "last": of_layer[max(of_layer)]}
    chosen |= {f"rule {rule}": own for rule, own in group.groupby("rule") if rule}
    others = group[group["method"] != "hiprobe"]
    chosen |= {f"method {method}": own for method, own in others.groupby("method", sort=False)}
    if of_layer:
        best = max(of_layer, key=lambda layer: of_layer[layer]["auc"].mean())
        # The maximum over layers on the very videos that it is shown for: nobody can choose it.
        chosen |= {f"best on the test videos: {best}": of_layer[best]}
    return chosen


def _spread(rows: pd.DataFrame) -> tuple[str, str]:
    """Write mean ± deviation, and the total error; a single draw has no deviation."""
    from hiprobe.sweep.table_file import total_error

    if rows.empty:
        return "–", "–"
    deviation = f" ± {rows['auc'].std():.3f}" if len(rows) > 1 else ""
    return f"{rows['auc'].mean():.3f}{deviation}", f"{total_error(rows):.3f}"
