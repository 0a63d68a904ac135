"""`hiprobe explain`: descriptions by the extraction stage, into the evaluation's report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hiprobe.cli import options
from hiprobe.cli.output import EXIT_SOME_FAILED, progress, say, warn
from hiprobe.cli.requirements import require_extract


def explain(
    store: Annotated[Path, typer.Argument(help="The store that was evaluated.")],
    results: Annotated[Path, typer.Argument(help="The results of `hiprobe evaluate`.")],
    model: options.Model,
    revision: options.Revision = None,
    anomalous_prompt: Annotated[
        str | None,
        typer.Option(help="Ask this about anomalous intervals instead of the store's prompt."),
    ] = None,
    normal_prompt: Annotated[
        str | None,
        typer.Option(help="Ask this about normal intervals instead of the store's prompt."),
    ] = None,
    which: Annotated[
        Literal["both", "anomalous", "normal"],
        typer.Option(help="Describe intervals of this kind, or of both."),
    ] = "both",
    keyframes: Annotated[
        int, typer.Option(min=1, help="Show the model so many frames of an interval.")
    ] = 16,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Let no description be longer than so many tokens.")
    ] = 128,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Describe so many intervals of a video at once.")
    ] = 4,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = "auto",
    load_in: options.LoadIn = "full",
    only: Annotated[
        list[str] | None, typer.Option(help="Describe only the video of this id.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Drop descriptions made with other settings.")
    ] = False,
) -> None:
    """Let the model describe the detected intervals; the report shows what it says.

    Interrupted, the same command goes on where it was.
    """
    require_extract()
    from hiprobe.evaluate.report import render_results
    from hiprobe.extract.backbone import BackboneConfig
    from hiprobe.extract.explain import KINDS, ExplainConfig
    from hiprobe.extract.explain import explain as run_explain

    config = ExplainConfig(
        store=store,
        results=results,
        backbone=BackboneConfig(
            model=model,
            revision=revision,
            dtype=dtype,
            device=device,
            attention=attention,
            load_in=load_in,
        ),
        prompts={"anomalous": anomalous_prompt, "normal": normal_prompt},
        kinds=KINDS if which == "both" else (which,),
        keyframes=keyframes,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        only=tuple(only or ()),
        overwrite=overwrite,
    )
    with progress("intervals", stays=True, counts=True) as on_done:
        summary = run_explain(config, lambda done, total, _: on_done(done, total))
    render_results(results)
    warn(summary.warnings)
    for reason in summary.failures.values():
        say(f"failed: {reason}", style="red")
    say(
        f"{results / 'descriptions.jsonl'}: {summary.num_described} intervals described, "
        f"{summary.num_kept} were there, {len(summary.failures)} video(s) failed"
    )
    say(f"report: {results / 'report.html'}")
    if summary.failures:
        raise typer.Exit(EXIT_SOME_FAILED)
