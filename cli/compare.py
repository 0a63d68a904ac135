"""`hiprobe compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hiprobe.cli import options
from hiprobe.cli.output import progress, say, terminal, warn

if TYPE_CHECKING:
    from rich.table import Table

METRICS = {"auc": "AUC", "ap": "AP", "pr_auc_trapezoid": "PR trapezoid"}


def _setting(text: str) -> dict[str, str]:
    """Read ``layer=12,scorer=svm``; anything else is wrong usage."""
    parts = [part.partition("=") for part in text.split(",")]
    if not all(name and sign for name, sign, _ in parts):
        raise typer.BadParameter(f"{text!r}: expected settings such as layer=12,scorer=svm")
    return {name: value for name, _, value in parts}


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of results of the same videos, two or more; or the table of a sweep."
        ),
    ],
    between: Annotated[
        Any,
        typer.Option(
            parser=_setting,
            metavar="SETTING",
            help="Compare two settings of a sweep with --keep-scores over all draws: this one, A, "
            "such as layer=12 or rule=last,scorer=svm.",
        ),
    ] = None,
    and_: Annotated[
        Any,
        typer.Option("--and", parser=_setting, metavar="SETTING", help="The other setting, B."),
    ] = None,
    scores: Annotated[
        Literal["smoothed", "raw"], typer.Option(help="Compare the smoothed or the raw scores.")
    ] = "smoothed",
    common_videos: Annotated[
        bool, typer.Option("--common-videos", help="Leave out videos that not all of them have.")
    ] = False,
    resamples: Annotated[
        int, typer.Option(min=100, help="Draw the videos so many times for the paired bootstrap.")
    ] = 2000,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write the comparison to this file, as JSON.")
    ] = None,
) -> None:
    """Say whether differences between results are real: a paired bootstrap over videos."""
    from hiprobe.evaluate.comparison import compare_all
    from hiprobe.store.single_files import write_json
    from hiprobe.sweep.paired import compare_settings

    if (between is None) != (and_ is None):
        raise typer.BadParameter("--between and --and go together")
    if len(results) != 1 if between else len(results) < 2:
        raise typer.BadParameter(
            "expected the table of one sweep with --between and --and, or two folders or more"
        )
    with progress("resamples") as on_resample:
        if between:
            content = compare_settings(
                results[0],
                between,
                and_,
                num_resamples=resamples,
                seed=seed,
                on_resample=on_resample,
            )
        else:
            content = compare_all(
                results,
                scores=scores,
                only_common=common_videos,
                num_resamples=resamples,
                seed=seed,
                on_resample=on_resample,
            )
    if out is not None:
        write_json(out, content)
    if between:
        _print_settings(content)
    else:
        _print_results(content)


def _print_settings(content: dict[str, Any]) -> None:
    """Print the difference of two settings of a sweep, with both parts of its error."""
    names = [",".join(f"{k}={v}" for k, v in one.items()) for one in content["settings"]]
    table = _table(
        f"B − A, mean over {content['num_draws']} draws, {content['num_videos']} test videos"
    )
    for key, name in METRICS.items():
        _add_row(table, name, content[key], content[key]["p_value"])
    say(f"A: {names[0]}\nB: {names[1]}")
    terminal().print(table)
    auc = content["auc"]
    if content["num_draws"] > 1:
        say(
            f"AUC: standard error {auc['standard_error']:.4f}, from the test videos "
            f"{auc['error_videos']:.4f}, from the draws {auc['error_draws']:.4f}"
        )
    else:
        warn(["a single draw: another one may differ by more than the test videos tell"])
    _say_verdicts(content, "A", "B")


def _print_results(content: dict[str, Any]) -> None:
    """Print all pairs of results."""
    pairs, folders = content["pairs"], content["results"]
    letters = [chr(ord("A") + i) if i < 26 else f"R{i + 1}" for i in range(len(folders))]
    if len(pairs) > 1:
        say(
            "\n".join(
                f"{letter}: {folder}" for letter, folder in zip(letters, folders, strict=True)
            )
        )
    for pair in pairs:
        a, b = (letters[pair[side]] for side in ("a", "b"))
        table = _table(
            f"{b} − {a} on the same {content['num_videos']} videos, {content['scores']}", a, b
        )
        for key, name in METRICS.items():
            _add_row(table, name, pair[key], pair[key]["p_holm"])
        terminal().print(table)
        _say_verdicts(pair, a, b)
    if len(pairs) > 1:
        say(f"p with Holm's correction for {len(pairs)} pairs")
    if content["num_videos_left_out"]:
        warn(
            [
                f"{content['num_videos_left_out']} videos are in some of the results only and take "
                "no part"
            ]
        )


def _table(title: str, a: str = "A", b: str = "B") -> Table:
    """Make an empty table of differences."""
    from rich.table import Table

    table = Table(title=title)
    for column in ("", a, b, f"{b} − {a}, 95 % interval", "p"):
        table.add_column(column, justify="right" if column else "left")
    return table


def _add_row(table: Table, name: str, one: dict[str, Any], p_value: float) -> None:
    low, high = one["interval"]["low"], one["interval"]["high"]
    table.add_row(
        name,
        f"{one['a']:.4f}",
        f"{one['b']:.4f}",
        f"{one['difference']:+.4f} [{low:+.4f}, {high:+.4f}]",
        f"{p_value:.3g}",
        style="bold green" if one["is_clear"] else None,
    )


def _say_verdicts(content: dict[str, Any], a: str, b: str) -> None:
    """Say which is better, or how large a difference could have been missed."""
    for key, name in list(METRICS.items())[:2]:
        one = content[key]
        visible = f"a true difference of {one['smallest_visible']:.3f} would show 4 times of 5"
        better = b if one["difference"] > 0 else a
        say(
            f"{name}: {better} is better ({visible})."
            if one["is_clear"]
            else f"{name}: no difference that these videos could show; {visible}."
        )
