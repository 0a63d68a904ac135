"""Files that are read and written whole: one way to read them, one to replace them, one to wait.

Every writer of a single file (manifest, probe, results, tables, reports) writes through here: under
a temporary name, brought to the disk, renamed. So a full disk or a kill leaves the old file as it
was, and nobody reads half a new one. Readers refuse what would make them wait or fill the memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hiprobe.store.durable_files import sync_file
from hiprobe.store.errors import StoreError, write_errors

MAX_BYTES = 2**30
MAX_DEPTH = 100


def check_file(path: str | Path, max_bytes: int = MAX_BYTES) -> None:
    """Refuse what is no file of a sane size: a FIFO would wait, a device would fill the memory.

    Raises
    ------
    OSError
        There is none, or it is something else.
    ValueError
        It is too large, or its name is impossible.
    """
    path = Path(path)
    size = path.stat().st_size
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a device, a pipe or a socket"
        raise OSError(f"it is {what}, expected a file")
    if size > max_bytes:
        raise ValueError(f"it has {size:,} bytes, expected at most {max_bytes:,}")


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """Read UTF-8 text, line ends as they are, without the mark that Windows puts in front.

    Raises
    ------
    OSError
        It cannot be read, or is no file.
    ValueError
        It is no UTF-8 text, or too large.
    """
    check_file(path, max_bytes)
    text = Path(path).read_bytes().decode("utf-8-sig")
    if "\0" in text:
        raise ValueError(f"no text: byte {text.index(chr(0))} is NUL")
    return text


def read_json(path: str | Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file.

    Raises
    ------
    OSError, ValueError
        As `read_text`; or it is no JSON, too deep, or has a name twice in an object.
    """
    return parse_json(read_text(path, max_bytes))


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; whatever is wrong with it is a `ValueError`."""
    try:
        content = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [content]
    for _ in range(MAX_DEPTH):
        containers = [value for value in level if isinstance(value, dict | list)]
        if not containers:
            return content
        level = list(chain.from_iterable(map(_children, containers)))
    raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; of two values of one name, nobody can tell which is meant."""
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:60]!r} stands twice in one object")
    return content


def check_target(path: str | Path) -> Path:
    """Give the file that a path leads to; where something else lies, it is a `StoreError`."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise StoreError(
            f"{path}: cannot write: it is {'a folder' if target.is_dir() else 'no regular file'}, "
            "expected a file's name. Choose another."
        )
    return target


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Hand out a temporary path; what was written there takes the file's place at the end.

    Raises
    ------
    StoreError
        The disk is full or refuses, or something else than a file lies there. An old file is then
        as it was.
    """
    # A link stays a link: the file that it points to is replaced.
    target = check_target(path)
    make_folder(target.parent)
    # Two processes that write one file each have a temporary one of their own.
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    with write_errors(Path(path)):
        try:
            yield partial
            # A rename may reach the disk before the content does.
            sync_file(partial)
            partial.replace(target)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def write_text(path: str | Path, text: str) -> None:
    r"""Write text as UTF-8, line ends as they are; see `replaced`.

    A lone surrogate (a byte of a file's name that is no UTF-8) becomes ``\udcff``, which in JSON is
    the very same character.
    """
    with replaced(path) as partial:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, content: Any, *, end: str = "") -> None:
    """Write JSON as all our files have it; see `write_text`."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + end)


def make_folder(folder: Path) -> None:
    """Make a folder with those above it; what is in the way is a `StoreError`."""
    with write_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StoreError(
                f"{folder}: cannot be made: it, or something above it, is a file and no folder. "
                "Choose another place, or move the file away."
            ) from None


@contextmanager
def only_writer(path: Path, *, waits: bool = False) -> Iterator[None]:
    """Let no second process write the same output meanwhile.

    Parameters
    ----------
    path : Path
        A folder, or a file that need not be there yet. The lock lies in it, or beside it, and is
        removed at the end.
    waits : bool
        Wait for the other one, for work of seconds, instead of refusing.

    Raises
    ------
    StoreError
        Another process is writing, or no lock can be made.
    """
    make_folder(path.parent)
    lock = FileLock(path / ".lock" if path.is_dir() else path.with_name(f"{path.name}.lock"))
    with write_errors(path):
        # The kernel drops the lock with its process: after a kill the file means nothing.
        try:
            lock.acquire(blocking=waits)
        except Timeout:
            raise StoreError(
                f"{path}: another process is writing it. Wait for it, or stop it; the same "
                "command then goes on where it was."
            ) from None
    try:
        yield
    finally:
        # While it is still ours: filelock looks whether the file that it got still has a name.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
