"""The commit log of a store: what has been written, one line each, safe against ``kill -9``.

A block of states counts as committed when its line is in a journal, and its line is appended
only after the block's file has reached the disk. Every writing process has a journal file of
its own, so no two processes ever append to one file.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class JournalWriter:
    """Appends entries to a new journal file in `folder`; the file is made by the first one.

    Each line is a transaction of its own, whole or skipped: after a crash there is no header to
    mend and nothing to roll back.
    """

    def __init__(self, folder: Path) -> None:
        # The time first: files are read in the order of their names, later runs after earlier ones.
        name = f"{time.time_ns()}-{socket.gethostname()}-{os.getpid()}.jsonl"
        self._path = folder / name

    def append(self, entry: dict[str, Any]) -> None:
        """Append one entry and wait until it is on the disk."""
        is_new = not self._path.exists()
        body = json.dumps(entry, ensure_ascii=False, sort_keys=True)
        line = f"{_checksum(body)} {body}\n".encode()
        # Opened anew each time: lines are rare, and no process has a file to close when it ends.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # One write, so that a killed process leaves a whole line or a torn one, never a mix.
            size = os.fstat(descriptor).st_size
            if os.write(descriptor, line) != len(line):
                # Else the next line would go on where this one broke off, and be lost with it.
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # A file's content and its name reach the disk separately.
        if is_new:
            sync_folder(self._path.parent)


def read_journal(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of all journals in `folder`, oldest file first; torn lines are skipped."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            # A torn line may end inside a character; its checksum then does not match either.
            checksum, _, body = line.decode(errors="replace").partition(" ")
            if checksum == _checksum(body):
                yield json.loads(body)


def sync_folder(folder: Path) -> None:
    """Make the names of new files in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's content and its name durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def _checksum(body: str) -> str:
    """CRC-32, against torn lines; it need not withstand anybody's intent."""
    return f"{zlib.crc32(body.encode()):08x}"
