"""Commands of the probing stage. Heavy imports stand inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hiprobe.store import Probe


def probe(
    store: Annotated[Path, typer.Argument(help="The store that `hiprobe extract` wrote.")],
    out: Annotated[Path, typer.Argument(help="The probe to write, for example probe.json.")],
    split: Annotated[str, typer.Option(help="Videos to train on: train or test.")] = "train",
    fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Few-shot share of them (the paper: 0.01).")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the few-shot draw.")] = 0,
    layer: Annotated[str, typer.Option(help="'auto' (DLSP), or a layer.")] = "auto",
    samples_per_video: Annotated[
        int, typer.Option(min=1, help="Temporal bins a video is averaged into.")
    ] = 1,
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
    from hiprobe.probe.scorers import DEFAULT_L2

    if layer != "auto" and not layer.isdecimal():
        raise typer.BadParameter(f"--layer {layer!r}: expected auto or a layer's number")
    config = ProbeConfig(
        store=store,
        split=split,
        fraction=fraction,
        seed=seed,
        layer=None if layer == "auto" else int(layer),
        samples_per_video=samples_per_video,
        kappa=kappa,
        num_bins=bins,
        l2=DEFAULT_L2 if l2 is None else l2,
        manifest=manifest,
    )
    result = _run_with_progress(config)
    result.save(out)
    _print_result(result, out)


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
