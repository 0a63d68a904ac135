"""Videos whose files are no longer those that were planned: their states must not be gone on with.

Another video under the same name would put its frames behind the old one's, or let a manifest say
one thing and the states another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hiprobe.store import DONE, PENDING, REPLACED, FileIdentity, StoreWriter, VideoRecord
from hiprobe.store.index import StoreIndex

CHANGED = "changed"


def changed_file(known: FileIdentity | None, path: str | Path) -> str:
    """Say how a file differs from the one that a store knows; empty where it is the same.

    Empty too where the store does not know the file (an earlier version made it), and where there
    is none any more: a video that is done needs it no longer, another one will say so itself.
    """
    if known is None:
        return ""
    try:
        status = Path(path).stat()
        if (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns):
            return ""
        now = FileIdentity.of(path)
    except OSError:
        return ""
    # Copied, moved or touched: the time tells nothing.
    if (now.size, now.digest) == (known.size, known.digest):
        return ""
    size = f"{known.size} bytes, now {now.size}" if now.size != known.size else "the same size"
    return (
        f"{path}: is another file than the store's states were made from ({size}, other content). "
        "Put the old file back, or extract it again with --replace-changed."
    )


def find_changed(index: StoreIndex, records: Sequence[VideoRecord]) -> dict[str, str]:
    """Name the videos, done or begun, whose files have changed, with how; by id."""
    positions, changed = index.positions(), {}
    for record in records:
        video = positions.get(record.video_id)
        # A failed video has no states: --retry-failed looks at the file anew.
        if video is None or index.status(video) not in (DONE, PENDING):
            continue
        if difference := changed_file(index.file(video), record.path):
            changed[record.video_id] = difference
    return changed


def find_moved(index: StoreIndex, records: Sequence[VideoRecord]) -> dict[int, str]:
    """Name the videos whose files the manifest has elsewhere than the store, by position.

    Parameters
    ----------
    index : StoreIndex
    records : sequence of VideoRecord
        Without those that have changed: another file is no moved one.

    Returns
    -------
    dict of int to str
        The new paths. Where nothing is there, the store's own stays.
    """
    positions, moved = index.positions(), {}
    for record in records:
        video = positions.get(record.video_id)
        if (
            video is None
            or index.status(video) == REPLACED
            or index.file_path(video) == record.path
        ):
            continue
        if Path(record.path).is_file():
            moved[video] = record.path
    return moved


def set_changed_aside(writer: StoreWriter, changed: dict[str, str]) -> None:
    """Mark these videos as replaced, so that they are planned anew; nobody reads their states."""
    positions = writer.index.positions()
    for video_id in changed:
        writer.replace_failed(positions[video_id])
