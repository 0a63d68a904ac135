"""`hiprobe detect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiprobe.cli import options
from hiprobe.cli.requirements import require_extract


def detect(
    video: Annotated[Path, typer.Argument(help="The video file.")],
    probe: options.ProbePath,
    model: options.Model,
    revision: options.Revision = None,
    explain_intervals: Annotated[
        bool, typer.Option("--explain", help="Let the model describe what was found.")
    ] = False,
    sigma: options.Sigma = 0.4,
    threshold: options.Threshold = "auto",
    trust: options.Trust = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    attention: options.Attention = "auto",
    load_in: options.LoadIn = "full",
    out: Annotated[
        Path | None, typer.Option(help="Write what was found to this file, as JSON.")
    ] = None,
) -> None:
    """Find a video's anomalies as it is read; the model stops at the probe's highest layer."""
    require_extract()
    from hiprobe.cli import detect_live as live
    from hiprobe.extract.backbone import BackboneConfig
    from hiprobe.extract.detect import DetectConfig, describe_intervals, write_detection
    from hiprobe.store import Probe
    from hiprobe.store.scorers import trust as trust_types

    trust_types(*(trust or ()))
    trained = Probe.load(probe)
    config = DetectConfig(
        video=video,
        probe=probe,
        backbone=BackboneConfig(
            model=model,
            revision=revision,
            dtype=dtype,
            device=device,
            attention=attention,
            load_in=load_in,
        ),
        sigma=sigma,
        threshold=threshold,
    )
    detection = live.detect_live(
        config,
        trained.threshold["value"] if threshold is None else threshold,
        trained.origin.window,
    )
    descriptions = []
    if explain_intervals:
        prompt = trained.origin.prompt or config.backbone.prompt
        descriptions = describe_intervals(config, detection, prompt)
    live.print_detection(detection, descriptions, video)
    if out is not None:
        write_detection(out, detection, descriptions)
