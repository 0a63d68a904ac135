"""Commands of the extraction stage. Heavy imports stand inside the commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hiprobe.store.errors import HiProbeError

EXIT_SOME_FAILED = 3
DEFAULT_PROMPT_HELP = 'Default: "Is anything abnormal happening in this video? Describe it."'


def extract(
    manifest: Annotated[Path, typer.Argument(help="CSV or JSON Lines: the videos.")],
    store: Annotated[Path, typer.Argument(help="The store's folder, made or gone on with.")],
    model: Annotated[str, typer.Option(help="Hub id, or a local folder.")],
    revision: Annotated[str | None, typer.Option(help="Hub revision of the model.")] = None,
    keyframes: Annotated[int, typer.Option(min=1, help="Keyframes per segment, K.")] = 8,
    segment_frames: Annotated[
        str, typer.Option(help="Frames of a segment, or 'whole' for one segment a video.")
    ] = "24",
    thumbnails: Annotated[
        bool,
        typer.Option("--thumbnails", help="Keep a picture of each segment, for the report."),
    ] = False,
    prompt: Annotated[
        str | None, typer.Option(help=f"Text after the video. {DEFAULT_PROMPT_HELP}")
    ] = None,
    layers: Annotated[
        str,
        typer.Option(
            help="'all', or layers such as 0,8,16-24 (0 = embedding). The model stops after the "
            "highest."
        ),
    ] = "all",
    batch_size: Annotated[
        str, typer.Option(help="Segments per forward pass; auto: as many as the GPU holds.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0, …")] = "auto",
    attention: Annotated[
        str, typer.Option(help="auto, sdpa, flash_attention_2 or eager.")
    ] = "auto",
    load_in: Annotated[str, typer.Option(help="full, 8bit or 4bit (bitsandbytes).")] = "full",
    compile_layers: Annotated[
        bool, typer.Option("--compile", help="torch.compile the decoder layers.")
    ] = False,
    readers: Annotated[
        int, typer.Option(min=1, help="Threads that decode ahead of the model.")
    ] = 2,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes on this machine, a model each; 0: this one.")
    ] = 0,
    scheduler: Annotated[
        str | None, typer.Option(help="A running Dask cluster: tcp://HOST:8786")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Part of the videos; default: Slurm's task.")
    ] = None,
    world_size: Annotated[
        int | None, typer.Option(min=1, help="Number of parts, each to a store of its own.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many videos now.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only these video ids (or patterns with *) now.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try the failed videos again.")] = False,
    parity: Annotated[
        int, typer.Option(min=0, help="Segments to compute again at the end, one by one.")
    ] = 4,
    log_json: Annotated[
        Path | None, typer.Option(help="Append one JSON line an event to this file.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be done.")] = False,
) -> None:
    """Write every layer's first-token hidden state of every segment to a store.

    Interrupted, or with more videos in the manifest: the same command goes on where it was.
    """
    require_extract()
    from hiprobe.extract.backbone import DEFAULT_PROMPT, DTYPES, BackboneConfig
    from hiprobe.extract.pipeline import ExtractConfig, parse_layers

    check_choice("--dtype", dtype, ("auto", *DTYPES))
    check_choice("--attention", attention, ("auto", "sdpa", "flash_attention_2", "eager"))
    check_choice("--load-in", load_in, ("full", "8bit", "4bit"))
    try:
        wanted_layers = parse_layers(layers)
    except ValueError as error:
        raise typer.BadParameter(f"--layers {layers!r}: expected all or 0,8,16-24") from error
    rank, world_size = _share_of_videos(rank, world_size)
    if world_size > 1:
        store = store.with_name(f"{store.stem}.{rank}-of-{world_size}{store.suffix}")
    config = ExtractConfig(
        manifest=manifest,
        store=store,
        backbone=BackboneConfig(
            model=model,
            revision=revision,
            prompt=DEFAULT_PROMPT if prompt is None else prompt,
            layers=wanted_layers,
            dtype=dtype,
            device=device,
            attention=attention,
            load_in=load_in,
            compile=compile_layers,
        ),
        segment_frames=_number_or("whole", "--segment-frames", segment_frames),
        keyframes=keyframes,
        thumbnails=thumbnails,
        batch_size=_number_or("auto", "--batch-size", batch_size),
        num_readers=readers,
        num_workers=workers,
        scheduler=scheduler,
        rank=rank,
        world_size=world_size,
        limit=limit,
        only=tuple(only or ()),
        retry_failed=retry_failed,
        parity=parity,
    )
    from hiprobe.cli import extract_progress as terminal

    if dry_run:
        terminal.print_dry_run(config)
        return
    summary = terminal.run_with_progress(config, log_json)
    terminal.print_summary(summary, store)
    if summary.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


def detect(
    video: Annotated[Path, typer.Argument(help="A video file.")],
    probe: Annotated[Path, typer.Argument(help="The probe that `hiprobe probe` wrote.")],
    model: Annotated[str, typer.Option(help="The probe's model: hub id, or a local folder.")],
    revision: Annotated[str | None, typer.Option(help="Hub revision of the model.")] = None,
    explain_intervals: Annotated[
        bool, typer.Option("--explain", help="Let the model describe what was found.")
    ] = False,
    sigma: Annotated[float, typer.Option(min=0, help="Smoothing, in segments; 0: none.")] = 0.4,
    threshold: Annotated[str, typer.Option(help="'auto' (the probe's), or a number.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (that of the probe's store), float32, …")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0, …")] = "auto",
    attention: Annotated[
        str, typer.Option(help="auto, sdpa, flash_attention_2 or eager.")
    ] = "auto",
    load_in: Annotated[str, typer.Option(help="full, 8bit or 4bit (bitsandbytes).")] = "full",
    out: Annotated[Path | None, typer.Option(help="Write what was found as JSON.")] = None,
) -> None:
    """Find the anomalies of one video as it is read; the model stops at the probe's layer."""
    require_extract()
    from hiprobe.cli import detect_live as live
    from hiprobe.extract.backbone import DTYPES, BackboneConfig
    from hiprobe.extract.detect import DetectConfig, describe_intervals, write_detection
    from hiprobe.store import Probe

    check_choice("--dtype", dtype, ("auto", *DTYPES))
    check_choice("--attention", attention, ("auto", "sdpa", "flash_attention_2", "eager"))
    check_choice("--load-in", load_in, ("full", "8bit", "4bit"))
    try:
        fixed_threshold = None if threshold == "auto" else float(threshold)
    except ValueError as error:
        raise typer.BadParameter(f"--threshold {threshold!r}: expected auto or a number") from error
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
        threshold=fixed_threshold,
    )
    trained = Probe.load(probe)
    limit = trained.threshold["value"] if fixed_threshold is None else fixed_threshold
    detection = live.detect_live(config, limit)
    descriptions = []
    if explain_intervals:
        prompt = trained.store["provenance"]["prompt"]
        descriptions = describe_intervals(config, detection, prompt)
    live.print_detection(detection, descriptions, video)
    if out is not None:
        write_detection(out, detection, descriptions)


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that an option does not know."""
    if value not in choices:
        raise typer.BadParameter(f"{option} {value!r}: expected {', '.join(choices)}")


def _number_or(word: str, option: str, value: str) -> int | None:
    """Read a count; the word means None."""
    if value == word:
        return None
    if not (value.isdecimal() and int(value)):
        raise typer.BadParameter(f"{option} {value!r}: expected a number, or {word}")
    return int(value)


def _share_of_videos(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Which part of the videos is ours; without options, Slurm's environment tells."""
    num_tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if world_size is None:
        world_size = num_tasks
    if rank is None:
        rank = int(os.environ.get("SLURM_PROCID", "0")) if num_tasks > 1 else 0
    if rank >= world_size:
        raise typer.BadParameter(f"--rank {rank}: expected 0 to {world_size - 1} (--world-size)")
    return rank, world_size


def manifest_folder(
    root: Annotated[
        Path, typer.Argument(help="Holds [train|test]/normal/… and [train|test]/CATEGORY/…")
    ],
    out: Annotated[Path, typer.Option(help="The manifest to write.")],
    annotations: Annotated[
        Path | None,
        typer.Option(help="CSV video_id,annotations with frame ranges 120:480;900:1010"),
    ] = None,
    whole_video: Annotated[
        bool, typer.Option(help="Anomalous videos without annotations are anomalous throughout.")
    ] = False,
    test_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Of the videos in neither train/ nor test/.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(help="Of that random split.")] = 0,
) -> None:
    """List a folder's videos; the folders' names give split, label and category."""
    require_video()
    from rich.console import Console

    from hiprobe.extract.video import inspect_video
    from hiprobe.manifest.folder import folder_manifest
    from hiprobe.store import write_manifest

    draft = folder_manifest(
        root,
        inspect=inspect_video,
        annotations=annotations,
        whole_video=whole_video,
        test_fraction=test_fraction,
        seed=seed,
    )
    write_manifest(out, draft.records)
    console = Console(highlight=False)
    for warning in draft.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    for split in ("train", "test"):
        labels = [record.label for record in draft.records if record.split == split]
        anomalous = labels.count("anomalous")
        console.print(f"{split}: {len(labels)} videos, {anomalous} of them anomalous")
    console.print(f"wrote {out}", markup=False)


def require_extract() -> None:
    """Fail with the install command if the libraries of the GPU job are missing."""
    _require("torch", "torchvision", "transformers", "av")


def require_video() -> None:
    """Fail with the install command if the video decoder is missing."""
    _require("av")


def _require(*modules: str) -> None:
    from importlib.util import find_spec

    if missing := [name for name in modules if find_spec(name) is None]:
        raise HiProbeError(
            f"this command needs {', '.join(missing)}, which the CPU-only install leaves out. "
            "Install them with: pip install 'hiprobe[extract]'"
        )
