"""`hiprobe probe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiprobe.cli import options
from hiprobe.cli.output import progress, say, terminal, warn
from hiprobe.store.scorers import DEFAULT_L2

if TYPE_CHECKING:
    from hiprobe.store import Probe


def probe(
    store: options.StorePath,
    out: Annotated[Path, typer.Argument(help="The probe to write, for example probe.json.")],
    split: options.Split = "train",
    fraction: Annotated[
        float,
        typer.Option(min=0, max=1, help="Train on this share of the videos; the paper: 0.01."),
    ] = 1.0,
    num_videos: Annotated[
        int | None, typer.Option(min=2, help="Train on so many videos instead of a share of them.")
    ] = None,
    seed: options.Seed = 0,
    layer: options.LayerChoice = "auto",
    samples_per_video: options.SamplesPerVideo = 1,
    labels: options.Labels = "video",
    scorer: options.Scorer = "logistic",
    kappa: options.Kappa = 0.2,
    bins: options.Bins = 50,
    l2: options.L2 = DEFAULT_L2,
    mil: options.Mil = 0,
    manifest: options.Manifest = None,
) -> None:
    """Choose layers, train a scorer on each and calibrate the threshold (CPU only)."""
    from hiprobe.probe.pipeline import ProbeConfig, run_probe
    from hiprobe.store.scorers import scorer_class

    if l2 == 0 and scorer_class(scorer).needs_penalty:
        raise typer.BadParameter(f"--scorer {scorer} needs a penalty: give --l2 above 0")
    config = ProbeConfig(
        store=store,
        split=split,
        fraction=fraction,
        num_videos=num_videos,
        seed=seed,
        layer=layer,
        labels=labels,
        samples_per_video=samples_per_video,
        scorer=scorer,
        kappa=kappa,
        num_bins=bins,
        l2=l2,
        manifest=manifest,
        mil=mil,
    )
    with progress("layer saliency") as on_layer:
        result = run_probe(config, on_layer)
    result.save(out)
    warn(result.training.get("warnings", ()))
    _print_result(result, out)


def _print_result(result: Probe, out: Path) -> None:
    """Print the saliency of all layers, and what was trained on those chosen."""
    from rich.table import Table

    from hiprobe.store.probe_members import layer_list

    table = Table(title="Layer saliency (DLSP); layer 0 is never chosen")
    names = ("kl_divergence", "ldr", "entropy", "saliency")
    for name in ("layer", *names):
        table.add_column(name, justify="right")
    for layer, values in enumerate(zip(*(result.layers[name] for name in names), strict=True)):
        if values[0] is not None:
            style = "bold green" if layer in result.layers_read else None
            table.add_row(str(layer), *map(_cell, values), style=style)
    terminal().print(table)
    threshold, training = result.threshold, result.training
    layers = layer_list(result.layers_read)
    say(
        f"layer{'s' * (len(result.layers_read) > 1)} {layers} ({training['layer_choice']}), "
        f"trained on {len(training['video_ids'])} videos ({training['num_samples']} samples, "
        f"{training['num_anomalous_samples']} anomalous)\n"
        f"threshold {threshold['value']:.4f} = {threshold['mean']:.4f} + {threshold['kappa']:g} · "
        f"{threshold['std']:.4f}\nwrote {out}; of other videos it needs `hiprobe extract --layers "
        f"{layers}`"
    )


def _cell(value: float | None) -> str:
    """Write a figure; one that is not defined is a dash."""
    return "–" if value is None else f"{value:.4f}"
