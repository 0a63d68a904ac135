"""Commands of the extraction stage. Heavy imports stand inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiprobe.store.errors import HiProbeError

if TYPE_CHECKING:
    from hiprobe.extract.pipeline import ExtractSummary

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
    prompt: Annotated[
        str | None, typer.Option(help=f"Text after the video. {DEFAULT_PROMPT_HELP}")
    ] = None,
    layers: Annotated[
        str, typer.Option(help="'all', or layers such as 0,8,16-24 (0 = embedding).")
    ] = "all",
    batch_size: Annotated[int, typer.Option(min=1, help="Segments per forward pass.")] = 8,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0, …")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many videos now.")] = None,
) -> None:
    """Write every layer's first-token hidden state of every segment to a store.

    Interrupted, or with more videos in the manifest: the same command goes on where it was.
    """
    require_extract()
    from hiprobe.extract.backbone import DEFAULT_PROMPT, DTYPES, BackboneConfig
    from hiprobe.extract.pipeline import ExtractConfig, parse_layers

    if dtype not in ("auto", *DTYPES):
        raise typer.BadParameter(f"{dtype!r}: expected auto, {', '.join(DTYPES)}")
    if segment_frames != "whole" and not (segment_frames.isdecimal() and int(segment_frames)):
        raise typer.BadParameter(f"--segment-frames {segment_frames!r}: expected 24, say, or whole")
    try:
        wanted_layers = parse_layers(layers)
    except ValueError as error:
        raise typer.BadParameter(f"--layers {layers!r}: expected all or 0,8,16-24") from error
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
        ),
        segment_frames=None if segment_frames == "whole" else int(segment_frames),
        keyframes=keyframes,
        batch_size=batch_size,
        limit=limit,
    )
    summary = _run_with_progress(config)
    _print_summary(summary, store)
    if summary.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


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
    _require("av")
    from rich.console import Console

    from hiprobe.extract.manifests import folder_manifest
    from hiprobe.store import write_manifest

    records, warnings = folder_manifest(
        root,
        annotations=annotations,
        whole_video=whole_video,
        test_fraction=test_fraction,
        seed=seed,
    )
    write_manifest(out, records)
    console = Console(highlight=False)
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    for split in ("train", "test"):
        labels = [record.label for record in records if record.split == split]
        anomalous = labels.count("anomalous")
        console.print(f"{split}: {len(labels)} videos, {anomalous} of them anomalous")
    console.print(f"wrote {out}", markup=False)


def require_extract() -> None:
    """Fail with the install command if the libraries of the GPU job are missing."""
    _require("torch", "torchvision", "transformers", "av")


def _require(*modules: str) -> None:
    from importlib.util import find_spec

    if missing := [name for name in modules if find_spec(name) is None]:
        raise HiProbeError(
            f"this command needs {', '.join(missing)}, which the CPU-only install leaves out. "
            "Install them with: pip install 'hiprobe[extract]'"
        )


def _run_with_progress(config) -> ExtractSummary:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from hiprobe.extract import pipeline

    console = Console(stderr=True)
    columns = (
        TextColumn("extract"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("segments · left"),
        TimeRemainingColumn(),
        TextColumn("· {task.fields[video]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("extract", total=None, video="loading the model")

        def show(progress: pipeline.Progress) -> None:
            bar.update(
                task,
                completed=progress.num_segments_done,
                total=progress.num_segments,
                video=progress.video_id,
            )

        return pipeline.extract(config, show)


def _print_summary(summary: ExtractSummary, store: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for video_id, note in summary.notes.items():
        console.print(f"note: {video_id}: {note}", style="yellow", markup=False)
    for video_id, reason in summary.failures.items():
        console.print(f"failed: {video_id}: {reason}", style="red", markup=False)
    pending = f", {summary.num_pending} pending" if summary.num_pending else ""
    console.print(
        f"{store}: {summary.num_done} videos done, {len(summary.failures)} failed{pending}; "
        f"{summary.num_segments} segments",
        markup=False,
    )
