"""`hiprobe probe`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    target_far: options.TargetFar = None,
    calibrate: options.Calibrate = None,
    bins: options.Bins = 50,
    l2: options.L2 = DEFAULT_L2,
    mil: options.Mil = 0,
    method: options.Method = "hiprobe",
    tap: options.Tap = None,
    prompt: options.PromptName = "",
    manifest: options.Manifest = None,
    repeats: Annotated[
        int,
        typer.Option(
            min=1,
            help="Fit the same recipe on so many draws in all; `evaluate` then shows how much the "
            "choice of training videos matters.",
        ),
    ] = 1,
) -> None:
    """Choose layers, train a scorer on each and calibrate the threshold (CPU only)."""
    from hiprobe.probe.further_draws import run_repeats
    from hiprobe.probe.pipeline import ProbeConfig
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
        target_far=target_far,
        calibration=calibrate,
        method=method,
        tap=tap,
        prompt=prompt,
    )
    with progress("layer saliency") as on_layer:
        result = run_repeats(config, repeats, on_layer)
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
    # Without anomalous videos there is no saliency.
    columns = [result.layers.get(name, []) for name in names]
    for layer, values in enumerate(zip(*columns, strict=True)):
        if values[0] is not None:
            style = "bold green" if layer in result.layers_read else None
            table.add_row(str(layer), *map(_cell, values), style=style)
    if result.layers:
        terminal().print(table)
    training = result.training
    layers = layer_list(result.layers_read)
    reads = "" if all(one.is_plain for one in result.inputs) else _reads(result)
    say(
        f"layer{'s' * (len(result.layers_read) > 1)} {layers} ({training['layer_choice']}), "
        f"{_trained(training)}\n{reads}threshold {_threshold(result)}\n{_calibration(result)}\n"
        f"wrote {out}" + _needed(result, out)
    )


def _trained(training: Mapping[str, Any]) -> str:
    """Say on what it was trained."""
    if not training["video_ids"]:
        return "the model's own answer: nothing is trained"
    return (
        f"trained on {len(training['video_ids'])} videos ({training['num_samples']} samples, "
        f"{training['num_anomalous_samples']} anomalous)"
    )


def _reads(result: Probe) -> str:
    """Say what is read beside hidden states, in a line."""
    listed = [str(one) for member in result.members for one in member.inputs]
    return f"reads {'; '.join(listed)}\n"


def _needed(result: Probe, out: Path) -> str:
    """Say how other videos get what is read; not of features that no model of ours made."""
    if "imported" in result.store["provenance"]:
        return ""
    return f"; of other videos it needs `hiprobe extract {_needs(result, out)}`"


def _needs(result: Probe, out: Path) -> str:
    """Write the options of `extract` that fill what is read."""
    from hiprobe.store.probe_members import layer_list

    inputs = result.inputs_of_all_draws
    if any(one.prompt for one in inputs):
        return f"--layers-from {out}"  # it knows the prompts' texts, too
    taps = ",".join(dict.fromkeys(one.tap for one in inputs))
    layers = layer_list(result.layers_of_all_draws)
    return f"--layers {layers}" + (f" --taps {taps}" if taps != "hidden_states" else "")


def _threshold(result: Probe) -> str:
    """Write the threshold, and how it came about."""
    threshold = result.threshold
    if threshold.get("kind") == "target-far":
        return (
            f"{threshold['value']:.4f}: {threshold['target_far']:g} of {threshold['num_segments']} "
            "held-out normal segments lie above"
        )
    if threshold.get("kind") == "even-odds":
        return f"{threshold['value']:.4f}: yes is as likely as no"
    mean, kappa, std = (threshold[name] for name in ("mean", "kappa", "std"))
    return f"{threshold['value']:.4f} = {mean:.4f} + {kappa:g} · {std:.4f}"


def _calibration(result: Probe) -> str:
    """Say whether scores are probabilities, and of what."""
    if result.calibration is None and not result.training["video_ids"]:
        return "scores are the model's p(yes): how often it is right, they do not say"
    if result.calibration is None:
        return "scores are not calibrated: no probabilities (--calibrate platt)"
    slope, intercept = result.calibration["slope"], result.calibration["intercept"]
    return f"calibrated on held-out segments: logistic of {slope:.3g} · log odds {intercept:+.3g}"


def _cell(value: float | None) -> str:
    """Write a figure; one that is not defined is a dash."""
    return "–" if value is None else f"{value:.4f}"
