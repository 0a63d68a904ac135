"""`hiprobe check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiprobe.cli import options
from hiprobe.cli.check_report import print_report
from hiprobe.cli.output import say, status
from hiprobe.cli.requirements import require_extract
from hiprobe.store.errors import HiProbeError, listing


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
    keyframes: options.Keyframes = 8,
    segment_frames: options.SegmentFrames = "24",
    prompt: options.Prompt = None,
    min_pixels: options.MinPixels = None,
    max_pixels: options.MaxPixels = None,
    fps_shown: options.FpsShown = None,
    frames_on_device: options.FramesOnDevice = None,
    layers: options.Layers = "all",
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
        layers=layers, dtype=dtype, device=device, attention=attention, load_in=load_in,
        min_pixels=min_pixels, max_pixels=max_pixels, fps_shown=fps_shown,
        frames_on_device=frames_on_device,
    )  # fmt: skip
    config = CheckConfig(backbone, tuple(videos or ()), manifest, segment_frames, keyframes)
    with status("checking") as on_step:
        report = check_model(config, on_step)
    print_report(report)
    report.save(out)
    say(f"{out}: written, after {report.seconds:.0f} s")
    if report.failed:
        raise HiProbeError(
            f"{model}: {len(report.failed)} of {len(report.findings)} checks failed:\n"
            + listing([f"{one.name}: {one.text}" for one in report.failed])
            + f"\nDo not extract with it yet; {out} has all the figures."
        )
