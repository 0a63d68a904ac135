"""A store's folder as Zarr sees it: small files are compared with their digests, and staged.

Small files are the metadata and the chunks of the index arrays and of `layer`. Shards pass through:
`shards` and `checked_arrays` compare those.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.buffer.core import default_buffer_prototype
from zarr.storage import LocalStore

from hiprobe.store.digests import Digests, digest_of
from hiprobe.store.durable_files import PARTIAL, open_plain, read_at, read_plain, write_files
from hiprobe.store.errors import StoreError

ROOT_METADATA = "zarr.json"
# No small file of ours comes near: 4,096 descriptions of videos, 65,536 numbers.
MAX_BYTES = 2**28
SHARD = re.compile(r"(prompts/[^/]+/)?(hidden_states|taps/[^/]+)/c/.|thumbnail/c/.")


class SmallFiles(LocalStore):
    """Zarr's access to a store's folder.

    Parameters
    ----------
    root : Path
    read_only : bool
    digests : Digests, optional
        What the journals say of the small files; nothing is known of them without.
    """

    def __init__(
        self, root: Path | str, *, read_only: bool = False, digests: Digests | None = None
    ) -> None:
        super().__init__(root, read_only=read_only)
        self.digests = digests or Digests()
        self._staged: dict[str, bytes] = {}

    def with_read_only(self, read_only: bool = False) -> SmallFiles:  # type: ignore[override]
        """The same folder, for reading only."""
        return type(self)(self.root, read_only=read_only, digests=self.digests)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read a file or a part; None if it is not there."""
        if is_shard(key):
            return await asyncio.to_thread(self.get_sync, key, prototype=prototype,
                                           byte_range=byte_range)  # fmt: skip
        return self.get_sync(key, prototype=prototype, byte_range=byte_range)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read a file or a part; None if it is not there.

        Raises
        ------
        StoreError
            It is not what the journals say, or no regular file.
        """
        content: bytes | None
        try:
            if is_shard(key):
                content = _read_part(self.root / key, byte_range)
            else:
                content = self.checked(key)
                if content is not None and byte_range is not None:
                    content = content[_as_slice(byte_range, len(content))]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise StoreError(f"{error}: damaged. Restore it from a copy.") from error
        if content is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(content)

    def checked(self, key: str) -> bytes | None:
        """The content of a small file, staged or on the disk, if it is the right one.

        Raises
        ------
        StoreError
            It is not.
        """
        if key in self._staged:
            return self._staged[key]
        content = self.on_disk(key)
        accepted = self.digests.accepts(key, content)
        if accepted is None and self.digests.is_complete and content is None and "/c/" in key:
            # But a new one that was announced, and whose writer was killed before it came.
            accepted = None if key in self.digests.in_doubt() else False
        if accepted is False and key == ROOT_METADATA and content is not None:
            accepted = self.digests.accepts(key, _without_consolidated(content))
        if accepted is False:
            what = "is missing" if content is None else "is not what was written there"
            raise StoreError(
                f"{self.root / key}: damaged: it {what}, the journals say. "
                "Restore the store's folder from a copy."
            )
        return content

    def on_disk(self, key: str) -> bytes | None:
        """The content of a small file, right or not; None if it is not there."""
        try:
            return read_plain(self.root / key, MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise StoreError(f"{error}: damaged. Restore it from a copy.") from error

    async def exists(self, key: str) -> bool:
        """Whether a file is there, staged or on the disk."""
        return key in self._staged or await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Stage a small file; write a shard."""
        if is_shard(key):
            await super().set(key, value)
        else:
            self._check_writable()
            self._staged[key] = value.to_bytes()

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Stage a small file that is not there."""
        if not await self.exists(key):
            await self.set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Stage a small file; write a shard."""
        if is_shard(key):
            super().set_sync(key, value)
        else:
            self._check_writable()
            self._staged[key] = value.to_bytes()

    def commit(
        self,
        announce: Callable[[dict[str, Any]], None],
        journals: dict[str, int],
        *,
        is_complete: bool = False,
    ) -> None:
        """Write what is staged, after the journal has told of it.

        Parameters
        ----------
        announce : callable
            Appends an entry to the journal.
        journals : dict of str to int
            Sizes of journals, to be told of.
        is_complete : bool
            From now on every small file has a digest.
        """
        # Nothing may stay staged that the disk refused: it would hide what is there.
        staged, self._staged = self._staged, {}
        staged = {
            key: content
            for key, content in staged.items()
            if not self.digests.is_settled_as(key, content)
        }
        new = {key: digest_of(content) for key, content in staged.items()}
        # Of a change that a killed writer, or a full disk, broke off: what it came to.
        came_to = {key: digest_of(self.checked(key)) for key in self.digests.in_doubt()}
        if is_complete:
            came_to |= {key: digest_of(self.on_disk(key)) for key in self._unknown()}
        if not (new or came_to or is_complete):
            return
        entry: dict[str, Any] = {"event": "files", "digests": came_to | new}
        if journals:
            entry["journals"] = journals
        if is_complete:
            entry["complete"] = True
        announce(entry)
        self.digests.announce(came_to | new, is_complete)
        write_files(self.root, staged, last=ROOT_METADATA)
        announce({"event": "written"})
        self.digests.settle()

    def _unknown(self) -> list[str]:
        """Small files that have no digest."""
        known = {*self.digests.names()}
        paths = [*self.root.glob("zarr.json"), *self.root.glob("*/zarr.json"),
                 *self.root.glob("taps/*/zarr.json"), *self.root.glob("prompts/**/zarr.json"),
                 *self.root.glob("*/c/*"), *self.root.glob("answer_head/c/*/*")]  # fmt: skip
        keys = [path.relative_to(self.root).as_posix() for path in paths if path.is_file()]
        return [key for key in keys if key not in known and not key.endswith(PARTIAL)]


def is_shard(key: str) -> bool:
    """Whether a file is a shard of one of the large arrays."""
    return SHARD.match(key) is not None


def _read_part(path: Path, byte_range: ByteRequest | None) -> bytes:
    with open_plain(path) as (descriptor, size):
        part = slice(0, size) if byte_range is None else _as_slice(byte_range, size)
        start, stop, _ = part.indices(size)
        return read_at(descriptor, max(0, stop - start), start)


def _as_slice(byte_range: ByteRequest, size: int) -> slice:
    match byte_range:
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, size)
        case SuffixByteRequest(suffix):
            return slice(max(0, size - suffix), size)
    raise TypeError(f"unexpected {byte_range = }")


def _without_consolidated(content: bytes) -> bytes | None:
    """The group's metadata as it was before somebody's `zarr.consolidate_metadata`."""
    try:
        metadata = json.loads(content)
        metadata.pop("consolidated_metadata")
        return json.dumps(metadata, indent=2).encode()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
