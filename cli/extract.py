"""`hiprobe extract`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hiprobe.cli import options
from hiprobe.cli.output import EXIT_SOME_FAILED, check_parity
from hiprobe.cli.requirements import require_extract

if TYPE_CHECKING:
    from hiprobe.store.windows import Window


def extract(
    context: typer.Context,
    manifest: Annotated[
        Path, typer.Argument(help="The manifest of the videos, CSV or JSON Lines.")
    ],
    store: Annotated[Path, typer.Argument(help="The store's folder, made or gone on with.")],
    model: options.Model,
    revision: options.Revision = None,
    keyframes: options.Keyframes = 8,
    segment_frames: options.SegmentFrames = "24",
    window_frames: Annotated[
        int | None,
        typer.Option(
            min=1, help="Let the model see so many frames around each segment's middle instead."
        ),
    ] = None,
    window_seconds: Annotated[
        float | None, typer.Option(min=0.001, help="Let it see so many seconds.")
    ] = None,
    thumbnails: Annotated[
        bool,
        typer.Option("--thumbnails", help="Keep a picture of each segment, for the report."),
    ] = False,
    prompt: options.Prompts = None,
    taps: options.Taps = "",
    min_pixels: options.MinPixels = None,
    max_pixels: options.MaxPixels = None,
    fps_shown: options.FpsShown = None,
    frames_on_device: options.FramesOnDevice = None,
    layers: options.Layers = "all",
    layers_from: options.LayersFrom = None,
    answer: Annotated[
        list[str] | None,
        typer.Option(help="Keep this word's row of the LM head too, beside Yes, No and others."),
    ] = None,
    batch_size: Annotated[
        Any,
        options.number(
            "auto", "Give the model so many segments at once; auto fills the GPU.", int, 1
        ),
    ] = "auto",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    share_gpu: options.ShareGpu = False,
    attention: options.Attention = "auto",
    load_in: options.LoadIn = "full",
    compile_layers: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the decoder and the vision tower with torch.compile."
        ),
    ] = False,
    readers: Annotated[
        int, typer.Option(min=1, help="Decode ahead of the model with so many threads.")
    ] = 2,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    rank: Annotated[
        int | None,
        typer.Option(
            min=0, help="Take this part of the videos, from 0; the default is Slurm's task."
        ),
    ] = None,
    world_size: Annotated[
        int | None,
        typer.Option(min=1, help="Divide the videos into so many parts, a store for each."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take at most so many videos this time.")
    ] = None,
    split: Annotated[
        Literal["train", "test"] | None,
        typer.Option(help="Take only the videos of this split this time."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Take only the video of this id, or of this pattern with *, this time."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option(help="Try the videos that failed once more.")
    ] = False,
    replace_changed: Annotated[
        bool, typer.Option(help="Extract the videos again whose files have changed.")
    ] = False,
    parity: Annotated[
        int, typer.Option(min=0, help="Compute so many segments again at the end, one by one.")
    ] = 4,
    log_json: Annotated[
        Path | None, typer.Option(help="Append each event to this file as a line of JSON.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what would be done, and how long it would take.")
    ] = False,
) -> None:
    """Write every layer's first-token hidden state of every segment to a store.

    Interrupted, or with more videos in the manifest: the same command goes on where it was. What is
    not given is as in the store, where there is one.
    """
    rank, world_size = _share_of_videos(rank, world_size)
    require_extract()
    from hiprobe.cli import extract_progress
    from hiprobe.extract.config import BackboneConfig, ExtractConfig
    from hiprobe.extract.prompts import (
        as_asked,
        parse_prompts,
        with_probes_first_prompt,
        with_probes_taps,
    )
    from hiprobe.extract.settings import as_in_store
    from hiprobe.store import Probe
    from hiprobe.store.store_folder import is_store

    try:
        prompts = parse_prompts(prompt or [])
    except ValueError as error:
        raise typer.BadParameter(f"--prompt: {error}") from error

    if world_size > 1:
        store = store.with_name(f"{store.stem}.{rank}-of-{world_size}{store.suffix}")
    config = ExtractConfig(
        manifest=manifest,
        store=store,
        backbone=BackboneConfig(
            model=model,
            revision=revision,
            taps=taps,
            layers=options.chosen_layers(layers, layers_from),
            dtype=dtype,
            device=device,
            share_gpu=share_gpu,
            attention=attention,
            load_in=load_in,
            compile=compile_layers,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            fps_shown=fps_shown,
            frames_on_device=frames_on_device,
            answers=tuple(answer or ()),
        ),
        segment_frames=segment_frames,
        keyframes=keyframes,
        window=_window(window_frames, window_seconds),
        thumbnails=thumbnails,
        batch_size=batch_size,
        num_readers=readers,
        num_workers=workers,
        scheduler=scheduler,
        rank=rank,
        world_size=world_size,
        limit=limit,
        split=split,
        only=tuple(only or ()),
        retry_failed=retry_failed,
        replace_changed=replace_changed,
        parity=parity,
        layers_from=layers_from,
    )
    backbone = as_asked(config.backbone, prompts)
    if layers_from is not None:
        probe = Probe.load(layers_from)
        read = probe.inputs_of_all_draws
        backbone = with_probes_first_prompt(
            backbone, probe, read, is_first=not prompts and not is_store(config.store)
        )
        backbone = with_probes_taps(backbone, probe, read)
    config = replace(config, backbone=backbone)
    config = as_in_store(config, _given(context))
    if dry_run:
        extract_progress.print_dry_run(config)
        return
    summary = extract_progress.run_with_progress(config, log_json)
    extract_progress.print_summary(summary, store)
    if summary.parity:
        check_parity(summary.parity, store)
    if summary.failures or summary.changed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _window(frames: int | None, seconds: float | None) -> Window | None:
    """What keyframes are taken from; None: the segments."""
    from hiprobe.store.windows import Window

    if frames is not None and seconds is not None:
        raise typer.BadParameter("give --window-frames or --window-seconds, not both")
    return None if frames is None and seconds is None else Window(frames, seconds)


def _given(context: typer.Context) -> set[str]:
    """Names of the options that the user has given, as the configuration has them."""
    names = {"compile_layers": "compile", "layers_from": "layers"}
    return {
        names.get(name, name)
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name != "DEFAULT"
    }


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
