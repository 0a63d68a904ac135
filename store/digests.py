"""Which content each small file of a store may have, as the journals say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

ABSENT = ""  # the digest of a file that is not there
Accepted = tuple[str | None, ...]


def digest_of(content: bytes | None) -> str:
    """BLAKE2b of a file's content as 16 hex digits.

    No CRC-32C: what ends with its own has the same one whatever it holds, so each of Zarr's chunks
    with that codec would be as good as any other.
    """
    return ABSENT if content is None else hashlib.blake2b(content, digest_size=8).hexdigest()


class Digests:
    """Digests of the small files, as announced and as settled.

    A change of files is announced before it is made, and settled after: in between, and for good
    where the writer was killed, each of its files may be the old one or the new one.

    Attributes
    ----------
    is_complete : bool
        Every small file has a digest; else one that has none is older than they are.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self._accepted: dict[str, Accepted] = {}

    def announce(self, digests: Mapping[str, str], is_complete: bool) -> None:
        """Files are about to be written."""
        for name, digest in digests.items():
            self._accepted[name] = (*self._accepted.get(name, (None,)), digest)
        self.is_complete |= is_complete

    def settle(self) -> None:
        """All that was announced is on the disk."""
        for name in self.in_doubt():
            self._accepted[name] = self._accepted[name][-1:]

    def in_doubt(self) -> list[str]:
        """Files of changes that were announced and not settled."""
        return [name for name, accepted in self._accepted.items() if len(accepted) > 1]

    def names(self) -> list[str]:
        """All files that have a digest."""
        return list(self._accepted)

    def accepts(self, name: str, content: bytes | None) -> bool | None:
        """Whether a file's content is right; None where nothing is known of it."""
        accepted = self._accepted.get(name, (None,))
        if None in accepted:
            # Of an older store. A file that a complete one knows nothing of is a stranger's.
            known = len(accepted) == 1 and self.is_complete and content is not None
            return False if known else None
        return digest_of(content) in accepted

    def is_settled_as(self, name: str, content: bytes) -> bool:
        """Whether a file is known to be on the disk with this content."""
        return self._accepted.get(name) == (digest_of(content),)
