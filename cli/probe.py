"""Commands of the probing stage. Heavy imports stand inside the commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hiprobe.probe.layers import LayerAnalysis
    from hiprobe.store import Probe


def probe(
    store: Annotated[Path, typer.Argument(help="The store that `hiprobe extract` wrote.")],
    out: Annotated[Path, typer.Argument(help="The probe to write, for example probe.json.")],
    split: Annotated[str, typer.Option(help="Videos to train on: train or test.")] = "train",
    fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Few-shot share of them (the paper: 0.01).")
    ] = 1.0,
    num_videos: Annotated[
        int | None, typer.Option(min=2, help="So many of them, instead of a share.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the few-shot draw.")] = 0,
    layer: Annotated[str, typer.Option(help="'auto' (DLSP), or a layer.")] = "auto",
    samples_per_video: Annotated[
        int, typer.Option(min=1, help="Temporal bins a video is averaged into.")
    ] = 1,
    labels: Annotated[
        str, typer.Option(help="video: a video's label for all of it; segment: from annotations.")
    ] = "video",
    scorer: Annotated[str, typer.Option(help="logistic, svm or distance.")] = "logistic",
    kappa: Annotated[float, typer.Option(help="κ of the threshold μ + κσ.")] = 0.2,
    bins: Annotated[int, typer.Option(min=2, help="Bins of the entropy.")] = 50,
    l2: Annotated[
        float | None,
        typer.Option(min=0, help="L2 penalty of the scorer; 0 is the paper's setting."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Take labels and splits from here, not from the store.")
    ] = None,
) -> None:
    """Choose a layer by DLSP, train the scorer on it and calibrate the threshold (CPU only)."""
    from hiprobe.probe.pipeline import ProbeConfig
    from hiprobe.store.scorers import DEFAULT_L2, SCORERS

    check_choice("--scorer", scorer, SCORERS)
    check_choice("--labels", labels, ("video", "segment"))
    if scorer == "svm" and l2 == 0:
        raise typer.BadParameter("--scorer svm needs a penalty: give --l2 above 0")
    if layer != "auto" and not layer.isdecimal():
        raise typer.BadParameter(f"--layer {layer!r}: expected auto or a layer's number")
    config = ProbeConfig(
        store=store,
        split=split,
        fraction=fraction,
        num_videos=num_videos,
        seed=seed,
        layer=None if layer == "auto" else int(layer),
        labels=labels,
        samples_per_video=samples_per_video,
        scorer=scorer,
        kappa=kappa,
        num_bins=bins,
        l2=DEFAULT_L2 if l2 is None else l2,
        manifest=manifest,
    )
    result = _run_with_progress(config)
    result.save(out)
    _print_result(result, out)


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices (exit code 2)."""
    if value not in choices:
        raise typer.BadParameter(f"{option} {value!r}: expected {', '.join(choices)}")


def _run_with_progress(config) -> Probe:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import Progress

    from hiprobe.probe.pipeline import run_probe

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("layer saliency", total=None)
        return run_probe(config, lambda done, total: bar.update(task, completed=done, total=total))


def _print_result(result: Probe, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Layer saliency (DLSP); layer 0 is never chosen")
    names = ("kl_divergence", "ldr", "entropy", "saliency")
    for name in ("layer", *names):
        table.add_column(name, justify="right")
    for layer, values in enumerate(zip(*(result.layers[name] for name in names), strict=True)):
        if values[0] is not None:
            style = "bold green" if layer == result.layer else None
            table.add_row(str(layer), *map(_cell, values), style=style)
    console = Console(highlight=False)
    console.print(table)
    threshold, training = result.threshold, result.training
    console.print(
        f"layer {result.layer} ({training['layer_choice']}), trained on "
        f"{len(training['video_ids'])} videos ({training['num_samples']} samples, "
        f"{training['num_anomalous_samples']} anomalous)\n"
        f"threshold {threshold['value']:.4f} = {threshold['mean']:.4f} + {threshold['kappa']:g} · "
        f"{threshold['std']:.4f}\nwrote {out}",
        markup=False,
    )


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def layers(
    store: Annotated[Path, typer.Argument(help="The store that `hiprobe extract` wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder for tables and figures.")],
    split: Annotated[str, typer.Option(help="Videos to analyse: train or test.")] = "train",
    labels: Annotated[str, typer.Option(help="video, or segment (from annotations).")] = "video",
    samples_per_video: Annotated[int, typer.Option(min=1, help="Temporal bins.")] = 1,
    scorer: Annotated[str, typer.Option(help="logistic, svm or distance.")] = "logistic",
    draws: Annotated[int, typer.Option(min=1, help="Few-shot draws: how stable is DLSP?")] = 20,
    draw_fraction: Annotated[float, typer.Option(min=0, max=1, help="Videos in each.")] = 0.5,
    tsne: Annotated[
        str, typer.Option(help="Layers for t-SNE; auto: first, DLSP's, last.")
    ] = "auto",
    bins: Annotated[int, typer.Option(min=2, help="Bins of the entropy.")] = 50,
    seed: Annotated[int, typer.Option(help="Of folds and t-SNE.")] = 0,
    manifest: Annotated[Path | None, typer.Option(help="Take labels from here.")] = None,
) -> None:
    """Compare all layers: saliency, silhouette, cross-validated AUC, t-SNE (CPU only)."""
    from rich.console import Console
    from rich.progress import Progress

    from hiprobe.probe.layers import analyse_layers
    from hiprobe.probe.pipeline import ProbeConfig
    from hiprobe.store.scorers import SCORERS

    check_choice("--scorer", scorer, SCORERS)
    check_choice("--labels", labels, ("video", "segment"))
    if tsne != "auto" and not all(part.isdecimal() for part in tsne.split(",")):
        raise typer.BadParameter(f"--tsne {tsne!r}: expected auto or 4,8")
    config = ProbeConfig(
        store=store,
        split=split,
        labels=labels,
        samples_per_video=samples_per_video,
        scorer=scorer,
        num_bins=bins,
        seed=seed,
        manifest=manifest,
    )
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("layers", total=None)
        analysis = analyse_layers(
            config,
            num_draws=draws,
            draw_fraction=draw_fraction,
            tsne_layers=None if tsne == "auto" else [int(part) for part in tsne.split(",")],
            on_layer=lambda done, total: bar.update(task, completed=done, total=total),
        )
    from hiprobe.probe.layer_plots import write_analysis

    written = write_analysis(analysis, out)
    _print_analysis(analysis, written)


def _print_analysis(analysis: LayerAnalysis, written: Sequence[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    summary = analysis.summary
    table = Table("layer", "saliency", "silhouette", "AUC over samples", "chosen by DLSP")
    for layer, row in analysis.table.iterrows():
        style = "bold green" if layer == summary["dlsp_layer"] else None
        table.add_row(
            str(layer),
            f"{row['saliency']:+.3f}",
            f"{row['silhouette']:.3f}",
            f"{row['cv_auc']:.3f} ± {row['cv_auc_std']:.3f}",
            f"{row['chosen_share']:.0%} of draws",
            style=style,
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"DLSP chooses layer {summary['dlsp_layer']} (AUC {summary['cv_auc_at_dlsp_layer']:.3f}); "
        f"the best by cross-validation is {summary['best_cv_layer']} "
        f"({summary['cv_auc_at_best_layer']:.3f}); rank correlation of saliency and AUC "
        f"{summary['spearman']:+.2f}\nwrote {', '.join(path.name for path in written)} in "
        f"{written[0].parent}",
        markup=False,
    )
