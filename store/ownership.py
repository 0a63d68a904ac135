"""Owning a store's folder: the lock, and what killed owners left."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from hiprobe.store import answer_rows, schema
from hiprobe.store.durable_files import PARTIAL
from hiprobe.store.errors import StoreError, write_errors
from hiprobe.store.index import StoreIndex
from hiprobe.store.taps import HIDDEN_STATES

# Where small files are; looking everywhere would look through all shards.
SMALL_FOLDERS = (
    *("", "*/", "taps/*/", "prompts/*/"),
    *("prompts/*/hidden_states/", "prompts/*/taps/", "prompts/*/taps/*/"),
)


def lock_store(path: Path) -> FileLock:
    """Become the owner of a store, or say that another process is."""
    file = path / schema.JOURNAL / "lock"
    with write_errors(path):
        if file.exists() and not file.is_file():
            raise StoreError(f"{file}: damaged: it is no regular file. Delete it.")
        lock = FileLock(file)
        # The kernel drops a `flock` with its process: a kill leaves no lock behind.
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise StoreError(
                f"{path}: another process is writing this store. "
                "Wait for it, or stop it; the same command then goes on where it was."
            ) from None
    return lock


def clear(path: Path) -> None:
    """Delete what a killed `create` left; the lock is held."""
    for entry in [*path.iterdir(), *(path / schema.JOURNAL).iterdir()]:
        if entry.name in (schema.JOURNAL, "lock"):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def sweep(path: Path, index: StoreIndex, states: Iterable[str]) -> None:
    """Delete what a killed writer had not renamed yet; committed blocks need no look."""
    leftovers = [file for folder in SMALL_FOLDERS for file in path.glob(f"{folder}*{PARTIAL}")]
    for name in (array.name for array in (*schema.INDEX_ARRAYS, *schema.WINDOW_ARRAYS)):
        leftovers += (path / name / "c").glob(f"*{PARTIAL}")
    for name in ("layer", *answer_rows.ARRAYS):
        leftovers += (path / name / "c").glob(f"**/*{PARTIAL}")
    folders = {path / name / "c/0": name for name in states}
    folders[path / schema.THUMBNAIL / "c"] = HIDDEN_STATES
    for folder, name in folders.items():
        for number in folder.glob("*"):
            if not (number.name.isdecimal() and index.is_committed_shard(int(number.name), name)):
                leftovers += number.glob(f"**/*{PARTIAL}")
    for leftover in leftovers:
        leftover.unlink()
