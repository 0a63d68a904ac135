"""`hiprobe store …`: look into stores, check, join and export them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hiprobe.cli import options
from hiprobe.cli.output import (
    check_parity,
    folder_bytes,
    progress,
    say,
    say_parity,
    size,
    terminal,
    warn,
)
from hiprobe.cli.requirements import require_extract
from hiprobe.store.errors import HiProbeError, listing
from hiprobe.store.windows import SEGMENT, window_record

if TYPE_CHECKING:
    from hiprobe.store import FeatureStore


def info(
    store: options.StorePath,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all of it as JSON, with how it was made.")
    ] = False,
) -> None:
    """Say what a store holds: videos done and failed, taps, prompts, bytes, percent."""
    from rich.table import Table

    from hiprobe.store import FeatureStore

    features = FeatureStore.open(store)
    content = _content(features)
    if as_json:
        print(json.dumps(content | {"provenance": features.provenance}, indent=2))
        return
    table = Table("split", "label", "status", "videos", "segments", title=str(store))
    groups = features.videos.groupby(["split", "label", "status"])["num_segments"]
    for (split, label, status), counts in groups:
        table.add_row(split, label, status, str(len(counts)), str(counts.sum()))
    terminal().print(table)
    say(
        f"layers {features.layers[0]} to {features.layers[-1]} ({len(features.layers)}), "
        f"{features.num_features} features{_further(content)}"
    )
    say(
        f"{content['num_done']} videos done, {content['num_failed']} failed, "
        f"{content['num_pending']} pending: {content['percent']:.0f} % of "
        f"{content['num_segments']:,} segments, {size(content['num_bytes'])}; "
        "--json tells the rest"
    )
    if failures := content["failures"]:
        say(listing([f"failed: {name}: {reason}" for name, reason in failures.items()]))


def _content(features: FeatureStore) -> dict[str, Any]:
    """Count what a store holds."""
    videos = features.videos
    counts = videos["status"].value_counts()
    planned, done = int(videos["num_segments"].sum()), len(features.segments)
    remarks = {status: videos[videos["status"] == status]["error"] for status in ("done", "failed")}
    return {
        **{f"num_{status}": int(counts.get(status, 0)) for status in ("done", "failed", "pending")},
        "num_segments": planned,
        "num_segments_done": done,
        "percent": 100 * done / max(planned, 1),
        "num_bytes": sum(
            file.stat().st_size for file in features.path.rglob("*") if file.is_file()
        ),
        "layers": features.layers,
        "num_features": features.num_features,
        "taps": features.taps,
        "prompts": features.prompts,
        "answers": [] if features.answers is None else [*features.answers.words],
        "window": window_record(features.origin.window),
        "failures": dict(remarks["failed"]),
        "notes": {name: note for name, note in remarks["done"].items() if note},
    }


def _further(content: Mapping[str, Any]) -> str:
    """Name what there is beside the paper's states: lines, each after a line's end."""
    lines = []
    if len(content["taps"]) > 1:
        lines.append(f"taps {', '.join(content['taps'])}")
    if content["prompts"] != [""]:
        lines.append(f"prompts {', '.join(name or '(the first)' for name in content['prompts'])}")
    if content["answers"]:
        lines.append(f"answers {', '.join(map(repr, content['answers']))}")
    if content["window"] != SEGMENT:
        (unit, length), *_ = content["window"].items()
        lines.append(f"windows of {length:g} {unit} around the segments' middles")
    return "".join(f"\n{line}" for line in lines)


def verify(
    store: options.StorePath,
    seal: Annotated[
        bool, typer.Option("--seal", help="Give an older store the digests that it lacks.")
    ] = False,
    parity: Annotated[
        int, typer.Option(min=0, help="Compute so many segments again with the model, one by one.")
    ] = 0,
    model: Annotated[
        str | None,
        typer.Option(help="Load the model for --parity from here, if it has moved."),
    ] = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
) -> None:
    """Read everything back: checksums, missing blocks, values that are not finite.

    With --parity, exit code 1 where states computed again differ by more than their tolerance.
    """
    from hiprobe.store.verify import verify as verify_store

    with progress("reading") as on_done:
        found = verify_store(store, on_done)
    for problem in found.problems:
        say(problem, style="red")
    say(
        f"{store}: {found.num_videos} finished videos, {found.num_blocks} blocks, "
        f"{found.num_bytes / 1e6:.1f} MB read; {len(found.problems)} problems"
    )
    if found.problems:
        raise HiProbeError(
            f"{store}: damaged, see above. Restore the named files from a copy, or extract the "
            "named videos to another store."
        )
    for note in found.notes:
        say(note)
    if seal:
        from hiprobe.store.verify import seal_digests

        num_blocks = seal_digests(store)
        say(f"{store}: sealed: {num_blocks} blocks and the index have digests now")
    if parity:
        _certify(store, parity, model, device, seed)


def relabel(
    store: options.StorePath,
    manifest: Annotated[Path, typer.Argument(help="The manifest with the right labels.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be changed.")
    ] = False,
) -> None:
    """Write a manifest's splits, labels, categories and annotations into a store.

    What they were is kept in the store's attributes. Probes and results made before are of the
    old labels.
    """
    from hiprobe.store.relabel import describe
    from hiprobe.store.relabel import relabel as relabel_store

    found = relabel_store(store, manifest, dry_run=dry_run)
    for line in describe(found.changes):
        say(line)
    for video_ids, where in (
        (found.only_in_store, "the store"), (found.only_in_manifest, "the manifest"),
    ):  # fmt: skip
        if video_ids:
            warn([f"{len(video_ids)} videos are only in {where}:\n{listing(video_ids)}"])
    say(
        f"{store}: {len(found.changes)} videos "
        + ("would be relabelled" if dry_run else "relabelled")
    )


def merge(
    out: Annotated[Path, typer.Argument(help="The store to make.")],
    parts: Annotated[list[Path], typer.Argument(help="The stores of one extraction's parts.")],
) -> None:
    """Join the stores that `hiprobe extract --rank …` wrote."""
    from hiprobe.store.merge import merge as merge_stores

    warnings: list[str] = []
    with progress("copying") as on_done:
        num_videos = merge_stores(out, parts, on_done, warnings.append)
    warn(warnings)
    say(f"{out}: {num_videos} finished videos of {len(parts)} stores")


def subset(
    store: options.StorePath,
    out: Annotated[Path, typer.Argument(help="The store to make.")],
    layers: Annotated[
        Any,
        options.layers("all", "Keep these layers, such as 0,8,16-24, where 0 is the embedding."),
    ] = "all",
    layers_from: options.LayersFrom = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Keep only the video of this id, or of this pattern with *."),
    ] = None,
    split: Annotated[
        Literal["train", "test"] | None, typer.Option(help="Keep only the videos of this split.")
    ] = None,
) -> None:
    """Copy some layers of some videos into another, smaller store.

    `hiprobe extract … --layers-from PROBE.json` goes on with it for the other videos.
    """
    from hiprobe.store import Probe
    from hiprobe.store.subset import subset as make_subset

    kept = options.chosen_layers(layers, layers_from)
    inputs = None if layers_from is None else Probe.load(layers_from).inputs_of_all_draws
    with progress("copying") as on_done:
        num_videos = make_subset(
            store, out, layers=kept, only=only or (), split=split, inputs=inputs, on_video=on_done
        )
    sizes = [f"{folder_bytes(one) / 1e6:.1f}" for one in (store, out)]
    say(f"{out}: {num_videos} videos; {sizes[1]} MB, of {sizes[0]} MB in {store}")


def export(
    store: options.StorePath,
    out: Annotated[Path, typer.Argument(help="The HDF5 file to write.")],
) -> None:
    """Write a whole store to one HDF5 file."""
    from hiprobe.store.hdf5 import export_hdf5

    with progress("layers") as on_done:
        export_hdf5(store, out, on_done)
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def import_(
    file: Annotated[Path, typer.Argument(help="A file of `hiprobe store export`.")],
    store: Annotated[Path, typer.Argument(help="The store to make.")],
) -> None:
    """Make a store of an exported HDF5 file."""
    from hiprobe.store.hdf5 import import_hdf5

    warnings: list[str] = []
    with progress("videos") as on_done:
        import_hdf5(file, store, on_done, on_warning=warnings.append)
    warn(warnings)
    say(f"{store}: imported")


def import_features(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder with a file of features a video, .npy, .npz, .h5 or .safetensors, named "
            "by the video's id; or one such file with an array a video."
        ),
    ],
    manifest: Annotated[Path, typer.Argument(help="The manifest, with num_frames.")],
    store: Annotated[Path, typer.Argument(help="The store to make.")],
    unit_frames: Annotated[
        int | None,
        typer.Option(min=1, help="Rows are of so many frames each, one after the other."),
    ] = None,
    equal_parts: Annotated[
        bool, typer.Option("--equal-parts", help="Rows are equal parts of the video.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help="What made the features, such as I3D; by default SOURCE's name."),
    ] = None,
    name_ending: Annotated[
        str, typer.Option(help="What names have behind the video's id, such as _i3d.")
    ] = "",
    crop_axis: Annotated[
        Literal["first", "second"],
        typer.Option(help="The axis of crops, where there are any: their mean is taken."),
    ] = "first",
) -> None:
    """Make a store of features that other programs made, such as I3D, C3D or CLIP.

    Arrays are (rows, features), or have crops. Of files with several arrays each becomes a layer.
    """
    from hiprobe.store.import_features import FeatureImport
    from hiprobe.store.import_features import import_features as import_all

    if (unit_frames is None) != equal_parts:
        raise typer.BadParameter(
            "say what a row is: either --unit-frames, such as 16, or --equal-parts"
        )
    config = FeatureImport(
        source, manifest, store, unit_frames, name or source.stem, name_ending, crop_axis
    )
    warnings: list[str] = []
    with progress("videos") as on_done:
        num_videos, layers = import_all(config, on_done, warnings.append)
    warn(warnings)
    say(
        f"{store}: {num_videos} videos; "
        + ", ".join(f"layer {layer} is {name!r}" for layer, name in layers.items())
    )


def _certify(store: Path, num_segments: int, model: str | None, device: str, seed: int) -> None:
    """Compute random segments again, print the differences, and keep them in the store."""
    require_extract()
    from hiprobe.extract.parity import certify

    certificate = certify(store, num_segments, model=model, device=device, seed=seed)
    for layer, difference in certificate["relative_l2"].items():
        say(f"layer {layer}: {difference:.1e}")
    say_parity(certificate)
    check_parity(certificate, store)
