"""Commands of the evaluation stage. Heavy imports stand inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

ANNOTATIONS = typer.Option(help="The benchmark's original annotation file.")
OUT = typer.Option(help="The manifest to write.")
ROOT = typer.Argument(help="Folder of the videos; without it, only labels are listed.")
TRAIN_LIST = typer.Option(help="The benchmark's list of training videos.")
LENGTHS = typer.Option(help="CSV video_id,num_frames,fps: true lengths.")


def evaluate(
    store: Annotated[Path, typer.Argument(help="The store that `hiprobe extract` wrote.")],
    probe: Annotated[Path, typer.Argument(help="The probe that `hiprobe probe` wrote.")],
    results: Annotated[Path, typer.Argument(help="Folder for metrics, scores and report.")],
    split: Annotated[str, typer.Option(help="Videos to evaluate: test or train.")] = "test",
    sigma: Annotated[float, typer.Option(min=0, help="Smoothing, in segments; 0: none.")] = 0.4,
    threshold: Annotated[str, typer.Option(help="'auto' (the probe's), or a number.")] = "auto",
    resamples: Annotated[int, typer.Option(min=0, help="Bootstrap resamples over videos.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    manifest: Annotated[
        Path | None, typer.Option(help="Take labels and annotations from here.")
    ] = None,
) -> None:
    """Score the test videos, localize anomalies, measure AUC and AP, write a report (CPU only)."""
    from rich.console import Console

    from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate

    try:
        fixed_threshold = None if threshold == "auto" else float(threshold)
    except ValueError as error:
        raise typer.BadParameter(f"--threshold {threshold!r}: expected auto or a number") from error
    config = EvaluateConfig(
        store=store,
        probe=probe,
        results=results,
        split=split,
        sigma=sigma,
        threshold=fixed_threshold,
        num_resamples=resamples,
        seed=seed,
        manifest=manifest,
    )
    with Console(stderr=True).status("evaluating") as status:
        metrics = run_evaluate(config, lambda step: status.update(f"evaluating: {step}"))
    _print_metrics(metrics, results)


def manifest_ucf_crime(
    annotations: Annotated[Path, ANNOTATIONS],
    out: Annotated[Path, OUT],
    root: Annotated[Path | None, ROOT] = None,
    train_list: Annotated[Path | None, TRAIN_LIST] = None,
    lengths: Annotated[Path | None, LENGTHS] = None,
) -> None:
    """Build UCF-Crime's manifest from its original files."""
    from hiprobe.evaluate.protocols import ucf_crime

    _write(ucf_crime(annotations, root=root, train_list=train_list, lengths=lengths), out)


def manifest_xd_violence(
    annotations: Annotated[Path, ANNOTATIONS],
    out: Annotated[Path, OUT],
    root: Annotated[Path | None, ROOT] = None,
    train_list: Annotated[Path | None, TRAIN_LIST] = None,
    lengths: Annotated[Path | None, LENGTHS] = None,
) -> None:
    """Build XD-Violence's manifest from its original files."""
    from hiprobe.evaluate.protocols import xd_violence

    _write(xd_violence(annotations, root=root, train_list=train_list, lengths=lengths), out)


def _write(manifest: Any, out: Path) -> None:
    from rich.console import Console

    from hiprobe.store import write_manifest

    write_manifest(out, manifest.records)
    console = Console(highlight=False)
    for warning in manifest.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    for split in ("train", "test"):
        records = [record for record in manifest.records if record.split == split]
        if records:
            anomalous = sum(record.label == "anomalous" for record in records)
            frames = sum(record.num_frames or 0 for record in records)
            flagged = sum(b - a for record in records for a, b in record.annotations)
            console.print(
                f"{split}: {len(records)} videos, {anomalous} of them anomalous"
                + (f"; {frames:,} frames, {flagged:,} of them anomalous" if frames else "")
            )
    console.print(f"wrote {out}", markup=False)


def _print_metrics(metrics: dict[str, Any], results: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Frame level, all test videos together; 95 % intervals over videos")
    for name in ("scores", "AUC", "AP"):
        table.add_column(name, justify="left" if name == "scores" else "right")
    for name in ("raw", "smoothed", "localized", "binary"):
        areas = metrics[name]
        style = "bold green" if name == "smoothed" else None
        table.add_row(name, _area(areas, "auc"), _area(areas, "ap"), style=style)
    table.add_section()
    for name, areas in metrics["controls"].items():
        table.add_row(f"control: {name}", _area(areas, "auc"), _area(areas, "ap"), style="dim")
    console = Console(highlight=False)
    for warning in metrics["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    console.print(table)
    smoothed = metrics["smoothed"]
    if smoothed["auc"] is None:
        console.print("AUC and AP are undefined: the test frames are of one class only.")
    else:
        console.print(f"AUC {smoothed['auc']:.4f}  AP {smoothed['ap']:.4f}  (smoothed scores)")
    console.print(f"report: {results / 'report.html'}", markup=False)


def _area(areas: dict[str, Any], name: str) -> str:
    if areas[name] is None:
        return "undefined"
    interval = areas.get(f"{name}_ci")
    return f"{areas[name]:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
