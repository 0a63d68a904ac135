"""Errors that a user can fix.

The command line prints these as one plain message and exits with 1; every other exception is
a bug of ours and keeps its traceback. A message says where, what was expected, what was got
and what to do.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MAX_LISTED = 20


class HiProbeError(Exception):
    """Something the user can fix."""


class StoreError(HiProbeError):
    """A feature store is missing, of another schema, damaged, or cannot be written."""


class VideoError(HiProbeError):
    """One video cannot be read. It fails alone: the batch goes on."""


class ManifestError(HiProbeError):
    """A manifest or an annotation file is wrong; the message lists the lines."""


class ModelError(HiProbeError):
    """A backbone cannot be loaded, or gives numbers that cannot be stored."""


def listing(problems: Sequence[str]) -> str:
    """Lay problems out for a message: a line each, the first twenty, and how many more."""
    more = [f"… and {len(problems) - MAX_LISTED} more"] * (len(problems) > MAX_LISTED)
    return "\n".join(f"  {problem}" for problem in [*problems[:MAX_LISTED], *more])


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a message that says what is safe."""
    try:
        yield
    except OSError as error:
        # A folder may be meant to be written, and one file in it be what cannot.
        which = "" if error.filename in (None, str(path)) else f" {error.filename}"
        raise StoreError(
            f"{path}: cannot write{which}: {error.strerror or error}. What was committed is "
            "intact: free the space or give the permission, and the same command goes on "
            "where it was."
        ) from error
