"""Which file a video was: what tells that another one took its name."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

MEBIBYTE = 2**20
# Up to here a digest of the whole file costs less than opening the video.
WHOLE_FILE_BYTES = 64 * MEBIBYTE
END_BYTES = 4 * MEBIBYTE
NUM_SAMPLES = 16


@dataclass(frozen=True)
class FileIdentity:
    """What a video file was when it was planned.

    Attributes
    ----------
    size : int
        Bytes; -1 where unknown.
    mtime_ns : int
        When it was last changed, in nanoseconds since 1970; -1 where unknown. A copy may have
        another: two files of one `size` and `digest` hold the same video.
    digest : str
        BLAKE2b-128 as 32 hex digits: of the whole file up to 64 MiB. Of a larger one it covers the
        size, the first and the last 4 MiB (where containers keep their index) and 16 ranges of
        1 MiB at equal distances between them, so an edit of a large file that keeps its size and
        lies between the ranges is not seen. "" where unknown.
    """

    size: int
    mtime_ns: int
    digest: str

    @classmethod
    def of(cls, path: str | Path) -> FileIdentity:
        """Look at a file.

        Raises
        ------
        OSError
            It is not there, not readable, or no regular file.
        """
        # Without waiting: a pipe of this name would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            digest = hashlib.blake2b(digest_size=16)
            if status.st_size > WHOLE_FILE_BYTES:
                digest.update(f"{status.st_size}\n".encode())
            for offset, length in _ranges(status.st_size):
                file.seek(offset)
                _update(digest, file, length)
        return cls(status.st_size, status.st_mtime_ns, digest.hexdigest())


def _ranges(size: int) -> list[tuple[int, int]]:
    """Which bytes of a file of `size` bytes its digest covers: (offset, length)."""
    if size <= WHOLE_FILE_BYTES:
        return [(0, size)]
    first, last = END_BYTES, size - END_BYTES
    step = (last - MEBIBYTE - first) // (NUM_SAMPLES - 1)
    samples = [(first + step * number, MEBIBYTE) for number in range(NUM_SAMPLES)]
    return [(0, END_BYTES), *samples, (last, END_BYTES)]


def _update(digest: hashlib.blake2b, file: FileIO, length: int) -> None:
    """Add the next `length` bytes of a file, some at a time."""
    while length and (part := file.read(min(length, MEBIBYTE))):
        digest.update(part)
        length -= len(part)
