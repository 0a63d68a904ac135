"""`hiprobe store compare-states`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hiprobe.cli import options
from hiprobe.cli.output import progress, say, terminal, warn


def compare_states(
    first: Annotated[Path, typer.Argument(help="The store to hold the other one against.")],
    second: Annotated[
        Path, typer.Argument(help="A store of the same videos, made in another way.")
    ],
    resamples: Annotated[
        int, typer.Option(min=100, help="Draw the videos so many times for the paired bootstrap.")
    ] = 1000,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write the comparison to this file, as JSON.")
    ] = None,
) -> None:
    """Say what another way of making states has changed: states, chosen layers, AUC (CPU only).

    For example whether --load-in int8 may be taken for these videos.
    """
    from hiprobe.store.single_files import write_json
    from hiprobe.sweep.change_of_states import compare_states as compare

    with progress("layers") as on_layer:
        found = compare(first, second, num_resamples=resamples, seed=seed, on_layer=on_layer)
    if out is not None:
        write_json(out, found)
    for one in found["differences"]:
        say(f"{one['name']}: {one['first']!r}, {one['second']!r}")
    _print_layers(found)
    for one in found["readings"]:
        _print_reading(one)
    if found["readings"]:
        num_videos = found["readings"][0]["num_test_videos"]
        say(f"in brackets: 95 % of paired resamples of {num_videos} test videos")
    warn(found["warnings"])


def _print_layers(found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(
        *("layer", "median", "largest", "different segments"),
        title=f"how far states are apart (relative L2), {found['num_segments']:,} segments of "
        f"{found['num_videos']:,} videos",
    )
    for layer, one in found["layers"].items():
        names = ("relative_l2_median", "relative_l2_max", "between_segments")
        figures = [one[name] for name in names]
        table.add_row(layer, *("–" if one is None else f"{one:.1e}" for one in figures))
    terminal().print(table)


def _print_reading(one: dict[str, Any]) -> None:
    layers = [",".join(map(str, own)) for own in one["layers"]]
    say(
        f"{one['rule']}: reads layers {layers[0]} of the first and {layers[1]} of the second; test "
        f"AUC {_difference(one['by_rule'])}"
    )
    if layers[0] != layers[1]:
        say(f"  layers {layers[0]} of both: {_difference(one['same_layers'])}")


def _difference(found: dict[str, Any]) -> str:
    (one, two), (low, high) = found["auc"], found["interval"]
    return f"{one:.4f} and {two:.4f}, {found['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
