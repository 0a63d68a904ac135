"""Files that are whole or not there: read only where they are plain files, written by renaming."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

PARTIAL = ".partial"


@contextmanager
def open_plain(path: Path) -> Iterator[tuple[int, int]]:
    """Open a file for reading: (descriptor, bytes).

    Raises
    ------
    ValueError
        It is a pipe, a device or a folder, which would block, never end or not be read.
    OSError
        It is not there, or not readable.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a regular file")
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def read_plain(path: Path, max_bytes: int) -> bytes:
    """Read a whole file of at most `max_bytes`; raises as `open_plain`."""
    with open_plain(path) as (descriptor, size):
        if size > max_bytes:
            raise ValueError(f"{path} has {size} bytes, expected at most {max_bytes}")
        return read_at(descriptor, size, 0)


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Read `length` bytes at `offset`, fewer at the file's end: one call reads 2 GiB at most."""
    part = os.pread(descriptor, length, offset)
    if len(part) == length:
        return part
    parts = [part]
    while part and sum(map(len, parts)) < length:
        read = sum(map(len, parts))
        part = os.pread(descriptor, length - read, offset + read)
        parts.append(part)
    return b"".join(parts)


def write_files(root: Path, contents: Mapping[str, bytes], last: str) -> None:
    """Write files so that each is the old or the new one, and `last` is only new with all others.

    Parameters
    ----------
    root : Path
    contents : mapping
        Content by the path below `root`.
    last : str
        The file, if it is among them, that makes the others count.
    """
    temporary: dict[str, Path] = {}
    try:
        # Everything that a full disk may refuse comes first: until then nothing has changed.
        for name, content in contents.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            temporary[name] = root / f"{name}.{uuid4().hex}{PARTIAL}"
            _write(temporary[name], content)
        others = [name for name in contents if name != last]
        for names in (others, [last] * (last in contents)):
            for name in names:
                temporary.pop(name).replace(root / name)
            # The folders above too: they may be new.
            folders = {parent for name in names for parent in (root / name).parents
                       if parent == root or root in parent.parents}  # fmt: skip
            for folder in folders:
                sync_folder(folder)
    finally:
        for path in temporary.values():
            with suppress(OSError):
                path.unlink()


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        written = 0
        while written < len(content):
            count = os.write(descriptor, content[written:])
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += count
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names of new files in `folder` durable."""
    _sync(folder)


def sync_file(path: Path) -> None:
    """Make a file's content and its name durable."""
    _sync(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
