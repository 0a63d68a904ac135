"""`hiprobe explain`: descriptions by the extraction stage, into the evaluation's report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiprobe.cli.extract import EXIT_SOME_FAILED, check_choice, require_extract


def explain(
    store: Annotated[Path, typer.Argument(help="The store that was evaluated.")],
    results: Annotated[Path, typer.Argument(help="The results of `hiprobe evaluate`.")],
    model: Annotated[str, typer.Option(help="Hub id, or a local folder.")],
    revision: Annotated[str | None, typer.Option(help="Hub revision of the model.")] = None,
    anomalous_prompt: Annotated[
        str | None, typer.Option(help="Default: the store's prompt.")
    ] = None,
    normal_prompt: Annotated[str | None, typer.Option(help="Default: the store's prompt.")] = None,
    which: Annotated[str, typer.Option(help="Intervals: both, anomalous or normal.")] = "both",
    keyframes: Annotated[int, typer.Option(min=1, help="Frames shown of an interval.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest description.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Intervals of a video at once.")] = 4,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0, …")] = "auto",
    load_in: Annotated[str, typer.Option(help="full, 8bit or 4bit (bitsandbytes).")] = "full",
    only: Annotated[list[str] | None, typer.Option(help="Only these video ids.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Drop descriptions made with other settings.")
    ] = False,
) -> None:
    """Let the model describe the detected intervals; the report shows what it says.

    Interrupted, the same command goes on where it was.
    """
    require_extract()
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from hiprobe.evaluate.report import render_results
    from hiprobe.extract.backbone import DTYPES, BackboneConfig
    from hiprobe.extract.explain import KINDS, ExplainConfig
    from hiprobe.extract.explain import explain as run_explain

    check_choice("--dtype", dtype, ("auto", *DTYPES))
    check_choice("--which", which, ("both", *KINDS))
    check_choice("--load-in", load_in, ("full", "8bit", "4bit"))
    config = ExplainConfig(
        store=store,
        results=results,
        backbone=BackboneConfig(
            model=model, revision=revision, dtype=dtype, device=device, load_in=load_in
        ),
        prompts={"anomalous": anomalous_prompt, "normal": normal_prompt},
        kinds=KINDS if which == "both" else (which,),
        keyframes=keyframes,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        only=tuple(only or ()),
        overwrite=overwrite,
    )
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("intervals", total=None)
        summary = run_explain(
            config, lambda done, total, _: bar.update(task, completed=done, total=total)
        )
    render_results(results)
    console = Console(highlight=False)
    for warning in summary.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    for reason in summary.failures.values():
        console.print(f"failed: {reason}", style="red", markup=False)
    console.print(
        f"{results / 'descriptions.jsonl'}: {summary.num_described} intervals described, "
        f"{summary.num_kept} were there, {len(summary.failures)} video(s) failed",
        markup=False,
    )
    console.print(f"report: {results / 'report.html'}", markup=False)
    if summary.failures:
        raise typer.Exit(EXIT_SOME_FAILED)
