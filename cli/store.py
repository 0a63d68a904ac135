"""Commands that look into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiprobe.store.errors import HiProbeError


def info(store: Annotated[Path, typer.Argument(help="The store's folder.")]) -> None:
    """Say what a store holds and how it was made."""
    from rich.console import Console
    from rich.table import Table

    from hiprobe.store import FeatureStore

    features = FeatureStore.open(store)
    table = Table("split", "label", "status", "videos", "segments", title=str(store))
    groups = features.videos.groupby(["split", "label", "status"])["num_segments"]
    for (split, label, status), counts in groups:
        table.add_row(split, label, status, str(len(counts)), str(counts.sum()))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"layers {features.layers[0]} to {features.layers[-1]} ({len(features.layers)}), "
        f"{features.num_features} features"
    )
    console.print_json(data=features.provenance)
    for video_id, row in features.videos.iterrows():
        if row["error"]:
            console.print(f"{row['status']}: {video_id}: {row['error']}", markup=False)


def verify(
    store: Annotated[Path, typer.Argument(help="The store's folder.")],
    seal: Annotated[
        bool, typer.Option("--seal", help="Give an older store the digests that it lacks.")
    ] = False,
    parity: Annotated[
        int, typer.Option(min=0, help="Segments to compute again with the model, one by one.")
    ] = 0,
    model: Annotated[
        str | None, typer.Option(help="For --parity: the model, if it has moved.")
    ] = None,
    device: Annotated[str, typer.Option(help="For --parity: auto, cpu, cuda:0, …")] = "auto",
    seed: Annotated[int, typer.Option(help="For --parity: of the choice of segments.")] = 0,
) -> None:
    """Read everything back: checksums, missing blocks, values that are not finite."""
    from rich.console import Console
    from rich.progress import Progress

    from hiprobe.store.verify import verify as verify_store

    console = Console(highlight=False)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading")
        found = verify_store(
            store, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for problem in found.problems:
        console.print(problem, style="red", markup=False)
    console.print(
        f"{store}: {found.num_videos} finished videos, {found.num_blocks} blocks, "
        f"{found.num_bytes / 1e6:.1f} MB read; {len(found.problems)} problems",
        markup=False,
    )
    if found.problems:
        raise HiProbeError(
            f"{store}: damaged, see above. Restore the named files from a copy, or extract the "
            "named videos to another store."
        )
    for note in found.notes:
        console.print(note, markup=False)
    if seal:
        from hiprobe.store.verify import seal_digests

        num_blocks = seal_digests(store)
        print(f"{store}: sealed: {num_blocks} blocks and the index have digests now")
    if parity:
        _certify(store, parity, model, device, seed)


def merge(
    out: Annotated[Path, typer.Argument(help="The store to make.")],
    parts: Annotated[list[Path], typer.Argument(help="Stores of one extraction's parts.")],
) -> None:
    """Join the stores that `hiprobe extract --rank …` wrote."""
    from rich.console import Console
    from rich.progress import Progress

    from hiprobe.store.merge import merge as merge_stores

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("copying")
        num_videos = merge_stores(
            out, parts, lambda done, total: bar.update(task, completed=done, total=total)
        )
    print(f"{out}: {num_videos} finished videos of {len(parts)} stores")


def export(
    store: Annotated[Path, typer.Argument(help="The store's folder.")],
    out: Annotated[Path, typer.Argument(help="The HDF5 file to write.")],
) -> None:
    """Write a whole store to one HDF5 file."""
    from rich.console import Console
    from rich.progress import Progress

    from hiprobe.store.hdf5 import export_hdf5

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("layers")
        export_hdf5(store, out, lambda done, total: bar.update(task, completed=done, total=total))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def import_(
    file: Annotated[Path, typer.Argument(help="A file of `hiprobe store export`.")],
    store: Annotated[Path, typer.Argument(help="The store to make.")],
) -> None:
    """Make a store of an exported HDF5 file."""
    from rich.console import Console
    from rich.progress import Progress

    from hiprobe.store.hdf5 import import_hdf5

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("videos")
        import_hdf5(file, store, lambda done, total: bar.update(task, completed=done, total=total))
    print(f"{store}: imported")


def _certify(store: Path, num_segments: int, model: str | None, device: str, seed: int) -> None:
    """Compute random segments again, print the differences, and keep them in the store."""
    from hiprobe.cli.extract import require_extract

    require_extract()
    from hiprobe.extract.parity import certify

    certificate = certify(store, num_segments, model=model, device=device, seed=seed)
    for layer, difference in certificate["max_relative_difference"].items():
        print(f"layer {layer}: {difference:.1e}")
    print(f"parity: {len(certificate['segments'])} segments computed again one by one")
