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
LENGTH = typer.Option(help="Frames of a video that count: true, cut-16 or pad-16.")
ENDS = typer.Option(help="Ends of annotations: exclusive or inclusive.")
RESAMPLES = typer.Option(min=0, help="Bootstrap resamples over videos.")
SEED = typer.Option(help="Of the bootstrap.")


def evaluate(
    store: Annotated[Path, typer.Argument(help="The store that `hiprobe extract` wrote.")],
    probe: Annotated[Path, typer.Argument(help="The probe that `hiprobe probe` wrote.")],
    results: Annotated[Path, typer.Argument(help="Folder for metrics, scores and report.")],
    split: Annotated[str, typer.Option(help="Videos to evaluate: test or train.")] = "test",
    sigma: Annotated[float, typer.Option(min=0, help="Smoothing, in segments; 0: none.")] = 0.4,
    threshold: Annotated[str, typer.Option(help="'auto' (the probe's), or a number.")] = "auto",
    resamples: Annotated[int, RESAMPLES] = 1000,
    seed: Annotated[int, SEED] = 0,
    manifest: Annotated[
        Path | None, typer.Option(help="Take labels and annotations from here.")
    ] = None,
    length: Annotated[str, LENGTH] = "true",
    ends: Annotated[str, ENDS] = "exclusive",
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
        convention=_convention(length, ends),
    )
    with Console(stderr=True).status("evaluating") as status:
        metrics = run_evaluate(config, lambda step: status.update(f"evaluating: {step}"))
    _print_metrics(metrics, results)


def evaluate_scores(
    scores: Annotated[
        Path, typer.Argument(help="CSV video_id,start_frame,stop_frame,score; later rows win.")
    ],
    manifest: Annotated[Path, typer.Argument(help="The videos, with lengths and annotations.")],
    results: Annotated[Path, typer.Argument(help="Folder for metrics, scores and report.")],
    split: Annotated[str, typer.Option(help="Videos to evaluate: test or train.")] = "test",
    sigma: Annotated[float, typer.Option(min=0, help="Smoothing, in rows; 0: none.")] = 0.0,
    threshold: Annotated[float, typer.Option(help="Above it, a row is anomalous.")] = 0.5,
    resamples: Annotated[int, RESAMPLES] = 1000,
    seed: Annotated[int, SEED] = 0,
    length: Annotated[str, LENGTH] = "true",
    ends: Annotated[str, ENDS] = "exclusive",
) -> None:
    """Evaluate the scores of any method, without its videos; the same measures and report."""
    from rich.console import Console

    from hiprobe.evaluate.external import ScoresConfig, run_evaluate_scores

    config = ScoresConfig(
        scores=scores,
        manifest=manifest,
        results=results,
        split=split,
        sigma=sigma,
        threshold=threshold,
        num_resamples=resamples,
        seed=seed,
        convention=_convention(length, ends),
    )
    with Console(stderr=True).status("evaluating") as status:
        metrics = run_evaluate_scores(config, lambda step: status.update(f"evaluating: {step}"))
    _print_metrics(metrics, results)


def report(
    results: Annotated[Path, typer.Argument(help="A results' folder.")],
) -> None:
    """Make report.html again, with what `explain` or `layers` have added to the folder."""
    from rich.console import Console

    from hiprobe.evaluate.report import render_results

    render_results(results)
    Console(highlight=False).print(f"report: {results / 'report.html'}", markup=False)


def compare(
    results_a: Annotated[Path, typer.Argument(help="A results' folder.")],
    results_b: Annotated[Path, typer.Argument(help="Another, of the same videos.")],
    scores: Annotated[str, typer.Option(help="smoothed or raw.")] = "smoothed",
    common_videos: Annotated[
        bool, typer.Option("--common-videos", help="Leave out videos that only one has.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Paired bootstrap over videos.")] = 2000,
    seed: Annotated[int, SEED] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the comparison as JSON.")] = None,
) -> None:
    """Say whether a difference between two results is real: a paired bootstrap over videos."""
    import json

    from rich.console import Console
    from rich.progress import Progress

    from hiprobe.evaluate.comparison import SCORES
    from hiprobe.evaluate.comparison import compare as run_compare

    if scores not in SCORES:
        raise typer.BadParameter(f"--scores {scores!r}: expected {' or '.join(SCORES)}")
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("resamples", total=resamples)
        content = run_compare(
            results_a,
            results_b,
            scores=scores,
            common_videos=common_videos,
            num_resamples=resamples,
            seed=seed,
            on_resample=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1) + "\n")
    _print_comparison(content)


def _convention(length: str, ends: str) -> Any:
    from hiprobe.evaluate.test_set import ENDS as ENDS_OF_ANNOTATIONS
    from hiprobe.evaluate.test_set import LENGTHS as LENGTHS_OF_VIDEOS
    from hiprobe.evaluate.test_set import Convention

    for option, value, allowed in (
        ("--length", length, LENGTHS_OF_VIDEOS),
        ("--ends", ends, ENDS_OF_ANNOTATIONS),
    ):
        if value not in allowed:
            raise typer.BadParameter(f"{option} {value!r}: expected {', '.join(allowed)}")
    return Convention(length, ends)


def manifest_ucf_crime(
    annotations: Annotated[Path, ANNOTATIONS],
    out: Annotated[Path, OUT],
    root: Annotated[Path | None, ROOT] = None,
    train_list: Annotated[Path | None, TRAIN_LIST] = None,
    lengths: Annotated[Path | None, LENGTHS] = None,
) -> None:
    """Build UCF-Crime's manifest from its original files."""
    from hiprobe.manifest.benchmarks import ucf_crime

    write(ucf_crime(annotations, root=root, train_list=train_list, lengths=lengths), out)


def manifest_xd_violence(
    annotations: Annotated[Path, ANNOTATIONS],
    out: Annotated[Path, OUT],
    root: Annotated[Path | None, ROOT] = None,
    train_list: Annotated[Path | None, TRAIN_LIST] = None,
    lengths: Annotated[Path | None, LENGTHS] = None,
) -> None:
    """Build XD-Violence's manifest from its original files."""
    from hiprobe.manifest.benchmarks import xd_violence

    write(xd_violence(annotations, root=root, train_list=train_list, lengths=lengths), out)


def manifest_shanghaitech(
    masks: Annotated[Path, typer.Option(help="Folder of the test videos' masks (01_0014.npy).")],
    out: Annotated[Path, OUT],
    root: Annotated[Path | None, ROOT] = None,
    train_list: Annotated[Path | None, TRAIN_LIST] = None,
    lengths: Annotated[Path | None, LENGTHS] = None,
) -> None:
    """Build ShanghaiTech's manifest from its per-frame masks."""
    from hiprobe.manifest.benchmarks import shanghaitech

    write(shanghaitech(masks, root=root, train_list=train_list, lengths=lengths), out)


def write(manifest: Any, out: Path) -> None:
    """Write a `Draft`; print its warnings and totals."""
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


def _print_comparison(content: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = {"auc": "AUC", "ap": "AP", "pr_auc_trapezoid": "PR trapezoid"}
    table = Table(title=f"B − A on the same {content['num_videos']} videos, {content['scores']}")
    for column in ("", "A", "B", "B − A, 95 % interval", "p"):
        table.add_column(column, justify="right" if column else "left")
    for key, name in names.items():
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
    console = Console(highlight=False)
    console.print(table)
    if content["num_videos_left_out"]:
        console.print(
            f"warning: {content['num_videos_left_out']} videos are in one of the results only and "
            "take no part",
            style="yellow",
        )
    for key, name in list(names.items())[:2]:
        better = "B" if content[key]["difference"] > 0 else "A"
        console.print(
            f"{name}: {better} is better; the interval leaves 0 out."
            if content[key]["is_clear"]
            else f"{name}: no difference that these videos could show; the interval holds 0."
        )


def _area(areas: dict[str, Any], name: str) -> str:
    if areas[name] is None:
        return "undefined"
    interval = areas.get(f"{name}_ci")
    return f"{areas[name]:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
