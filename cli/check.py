"""`hiprobe check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiprobe.cli import options
from hiprobe.cli.output import say, status, terminal
from hiprobe.cli.requirements import require_extract
from hiprobe.store.errors import HiProbeError, listing

if TYPE_CHECKING:
    from hiprobe.extract.check import CheckReport

STYLES = {"passed": "green", "FAILED": "red", "skipped": "yellow"}


def check(
    model: Annotated[str, typer.Argument(help="A hub id or a local folder.")],
    videos: Annotated[
        list[Path] | None, typer.Argument(help="Some of your videos; none: made-up patterns.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Say how long the videos of this manifest will take.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Write what was found to this file.")] = Path(
        "check.json"
    ),
    revision: options.Revision = None,
    keyframes: Annotated[
        int, typer.Option(min=1, help="Show the model so many frames of a segment, K.")
    ] = 8,
    segment_frames: Annotated[
        Any,
        options.number("whole", "Cut videos into segments of so many frames.", int, 1),
    ] = "24",
    prompt: Annotated[
        str | None, typer.Option(help="Put this text after the video instead of the default.")
    ] = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = "auto",
    load_in: options.LoadIn = "full",
) -> None:
    """Check that a model gives the right numbers on this machine, and how fast.

    A few minutes before days of extraction. Exit code 1 where something is not as it should be.
    """
    require_extract()
    from hiprobe.extract.backbone import DEFAULT_PROMPT, BackboneConfig
    from hiprobe.extract.check import CheckConfig
    from hiprobe.extract.check import check as check_model

    backbone = BackboneConfig(
        model, revision, DEFAULT_PROMPT if prompt is None else prompt,
        dtype=dtype, device=device, attention=attention, load_in=load_in,
    )  # fmt: skip
    config = CheckConfig(backbone, tuple(videos or ()), manifest, segment_frames, keyframes)
    with status("checking") as on_step:
        report = check_model(config, on_step)
    report.save(out)
    _print(report)
    say(f"{out}: written, after {report.seconds:.0f} s")
    if report.failed:
        raise HiProbeError(
            f"{model}: {len(report.failed)} of {len(report.findings)} checks failed:\n"
            + listing([f"{one.name}: {one.text}" for one in report.failed])
            + f"\nDo not extract with it yet; {out} has all the figures."
        )


def _print(report: CheckReport) -> None:
    """Print everything, in the order in which a user asks."""
    _print_machine(report)
    for one in report.inputs:
        say(
            f"\n{one['name']} ({one['width']}×{one['height']}, {one['fps']:.3g} fps): "
            f"{one['tokens_per_segment']:,} tokens a segment. The model reads:"
        )
        say(one["text"].rstrip("\n"), style="dim")
    if report.description:
        say(f"It says: {report.description}")
    say("")
    for finding in report.findings:
        say(f"{finding.status}: {finding.name}: {finding.text}", style=STYLES[finding.status])
    _print_layers(report)
    _print_speed(report)


def _print_machine(report: CheckReport) -> None:
    found = report.machine
    parts = [f"{found['name']} ({found['device']})"]
    if "gpu_bytes" in found:
        parts.append(f"{found['gpu_bytes'] / 2**30:.1f} GiB, driver {found['driver']}")
        parts.append(f"CUDA {found['cuda']}, capability {found['compute_capability']}")
    else:
        parts.append(f"{found['threads']} threads, {found['memory_bytes'] / 2**30:.1f} GiB")
    libraries = ", ".join(f"{name} {version}" for name, version in found["libraries"].items())
    say(f"{'; '.join(parts)}; {libraries}")
    model = report.model.get("model", {})
    say(
        f"{model.get('class')}, {report.model['num_parameters'] / 1e6:,.1f} M parameters, "
        f"{model.get('dtype')}, attention {model.get('attention')}, {model.get('load_in')} weights"
    )


def _print_layers(report: CheckReport) -> None:
    """Print the relative L2 of each comparison by layer, beside the control."""
    from rich.table import Table

    if not report.agreement:
        return
    names = list(report.agreement)
    table = Table("layer", *names, "different segments", title="relative L2")
    control = report.agreement[names[0]]
    for layer in control.relative_l2:
        figures = [report.agreement[name].relative_l2.get(layer) for name in names]
        between = control.between_segments.get(layer)
        cells = ["–" if one is None else f"{one:.1e}" for one in (*figures, between)]
        table.add_row(layer, *cells)
    terminal().print(table)


def _print_speed(report: CheckReport) -> None:
    from rich.table import Table

    table = Table("batch", "s a segment", "preparing it", "memory", "busy", title="speed")
    for row in report.batches:
        if row["fits"]:
            table.add_row(
                str(row["batch_size"]),
                f"{row['seconds_per_segment']:.4f}",
                f"{row['prepare_seconds_per_segment']:.4f}",
                f"{row['peak_bytes'] / 2**30:.2f} GiB",
                f"{row['utilisation']:.0%}",
            )
        else:
            table.add_row(str(row["batch_size"]), "does not fit", "", "", "")
    terminal().print(table)
    if report.kernels:
        attention = ", ".join(report.kernels["attention"]) or "no kernel of that name"
        say(f"attention runs by: {attention}")
        top = "; ".join(f"{name[:60]} {share:.0%}" for name, share in report.kernels["top"][:4])
        say(f"{report.kernels['num_calls']:,} kernel calls a pass, most time in {top}")
    if report.projection:
        plan = report.projection
        whose = "of the manifest" if plan["is_of_manifest"] else "(an example; --manifest counts)"
        say(
            f"{plan['num_segments']:,} segments {whose}: {plan['hours']:.2g} hours of the model, "
            f"at most {plan['max_bytes'] / 1e9:.2g} GB of states in all layers"
        )
