"""`hiprobe evaluate-scores`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiprobe.cli import options
from hiprobe.cli.evaluate import print_metrics
from hiprobe.cli.output import status


def evaluate_scores(
    scores: Annotated[
        Path,
        typer.Argument(
            help="A CSV video_id,start_frame,stop_frame,score, whose later rows win; or a score a "
            "frame in one .npy, in the manifest's order, or in a folder of one .npy a video."
        ),
    ],
    manifest: Annotated[
        Path, typer.Argument(help="The manifest of the videos, with lengths and annotations.")
    ],
    results: options.NewResults,
    split: options.Split = "test",
    sigma: Annotated[
        float, typer.Option(min=0, help="Smooth the scores with a σ of so many rows; 0 does not.")
    ] = 0.0,
    threshold: Annotated[
        float, typer.Option(help="Call scores above this number anomalous.")
    ] = 0.5,
    resamples: options.Resamples = 1000,
    seed: options.Seed = 0,
    length: options.ScoredLength = "true",
    ends: options.Ends = "exclusive",
    repeat: Annotated[
        int, typer.Option(min=1, help="Take each value of a .npy for so many frames.")
    ] = 1,
) -> None:
    """Evaluate the scores of any method, without its videos; the same measures and report."""
    from hiprobe.evaluate.external import ScoresConfig, run_evaluate_scores
    from hiprobe.evaluate.test_set import Convention

    config = ScoresConfig(
        scores=scores,
        manifest=manifest,
        results=results,
        split=split,
        sigma=sigma,
        threshold=threshold,
        num_resamples=resamples,
        seed=seed,
        convention=Convention(length, ends),
        repeat=repeat,
    )
    with status("evaluating") as on_step:
        metrics = run_evaluate_scores(config, on_step)
    print_metrics(metrics, results)
