"""`hiprobe compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hiprobe.cli import options
from hiprobe.cli.output import progress, say, terminal, warn

METRICS = {"auc": "AUC", "ap": "AP", "pr_auc_trapezoid": "PR trapezoid"}


def compare(
    results_a: Annotated[Path, typer.Argument(help="The folder of the first results, A.")],
    results_b: Annotated[
        Path, typer.Argument(help="The folder of the second results, B, of the same videos.")
    ],
    scores: Annotated[
        Literal["smoothed", "raw"], typer.Option(help="Compare the smoothed or the raw scores.")
    ] = "smoothed",
    common_videos: Annotated[
        bool, typer.Option("--common-videos", help="Leave out videos that only one of them has.")
    ] = False,
    resamples: Annotated[
        int, typer.Option(min=100, help="Draw the videos so many times for the paired bootstrap.")
    ] = 2000,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write the comparison to this file, as JSON.")
    ] = None,
) -> None:
    """Say whether a difference between two results is real: a paired bootstrap over videos."""
    from hiprobe.evaluate.comparison import compare as run_compare
    from hiprobe.store.results import write_json

    with progress("resamples") as on_resample:
        content = run_compare(
            results_a,
            results_b,
            scores=scores,
            common_videos=common_videos,
            num_resamples=resamples,
            seed=seed,
            on_resample=on_resample,
        )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, content)
    _print_comparison(content)


def _print_comparison(content: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"B − A on the same {content['num_videos']} videos, {content['scores']}")
    for column in ("", "A", "B", "B − A, 95 % interval", "p"):
        table.add_column(column, justify="right" if column else "left")
    for key, name in METRICS.items():
        one = content[key]
        low, high = one["interval"]["low"], one["interval"]["high"]
        table.add_row(
            name,
            f"{one['a']:.4f}",
            f"{one['b']:.4f}",
            f"{one['difference']:+.4f} [{low:+.4f}, {high:+.4f}]",
            f"{one['p_value']:.3g}",
            style="bold green" if one["is_clear"] else None,
        )
    terminal().print(table)
    if content["num_videos_left_out"]:
        warn(
            [
                f"{content['num_videos_left_out']} videos are in one of the results only and take "
                "no part"
            ]
        )
    for key, name in list(METRICS.items())[:2]:
        better = "B" if content[key]["difference"] > 0 else "A"
        say(
            f"{name}: {better} is better; the interval leaves 0 out."
            if content[key]["is_clear"]
            else f"{name}: no difference that these videos could show; the interval holds 0."
        )
