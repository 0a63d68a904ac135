"""Is a folder a store? What is none is told before it counts as a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

from hiprobe.store import answer_rows, schema
from hiprobe.store.errors import StoreError
from hiprobe.store.small_files import ROOT_METADATA, SmallFiles
from hiprobe.store.taps import HIDDEN_STATES


def is_store(path: Path) -> bool:
    """Whether there is a store, or something else of Zarr, to go on with."""
    return (path / "zarr.json").exists()


def check_is_store(path: Path) -> None:
    """Refuse what is no store, or one of another schema version.

    Raises
    ------
    StoreError
        It says what there is instead.
    """
    if not path.exists():
        raise StoreError(f"{path}: no such store. Make one with `hiprobe extract MANIFEST {path}`.")
    if not path.is_dir():
        raise StoreError(_no_store(path, "a file"))
    content = SmallFiles(path, read_only=True).on_disk(ROOT_METADATA)
    if content is None:
        if is_half_created(path):
            raise StoreError(
                f"{path}: its making was interrupted and nothing is in it yet: the command that "
                "made it goes on, or delete it."
            )
        raise StoreError(_no_store(path, "a folder without one"))
    try:
        metadata = json.loads(content)
        attributes = metadata.get("attributes", {})
        if metadata["zarr_format"] != 3 or metadata["node_type"] != "group":
            raise StoreError(_no_store(path, "something else"))
        version = attributes.get("schema_version")
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{path / ROOT_METADATA}: damaged: it does not describe a Zarr group ({error!r:.200}). "
            "Restore it from a copy."
        ) from error
    if version is None:
        raise StoreError(f"{path}: a Zarr group, but not a hiprobe store: it has no schema_version")
    if version != schema.SCHEMA_VERSION:
        raise StoreError(
            f"{path}: schema version is {version!r:.20}, this hiprobe reads "
            f"{schema.SCHEMA_VERSION}. Upgrade hiprobe, or extract again with this version."
        )


def is_half_created(path: Path) -> bool:
    """Whether a folder has what a killed `create` leaves, and nothing else."""
    ours = {HIDDEN_STATES, "taps", "prompts", "layer", schema.THUMBNAIL, schema.JOURNAL}
    ours |= {array.name for array in (*schema.INDEX_ARRAYS, *schema.WINDOW_ARRAYS)}
    ours |= {*answer_rows.ARRAYS}
    names = {entry.name for entry in path.iterdir() if not entry.name.endswith(".partial")}
    return (
        schema.JOURNAL in names
        and names <= ours
        and not (path / "hidden_states/c").exists()
        and not (path / schema.THUMBNAIL / "c").exists()
    )


def _no_store(path: Path, got: str) -> str:
    return (
        f"{path}: not a feature store: expected a Zarr v3 group, got {got}. "
        "Give the folder that `hiprobe extract` wrote."
    )
