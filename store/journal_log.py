"""What a store's journals say, read once and then only what they gained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hiprobe.store.digests import Digests
from hiprobe.store.errors import StoreError
from hiprobe.store.journal import journal_files, read_lines
from hiprobe.store.schema import STATUSES
from hiprobe.store.taps import HIDDEN_STATES


@dataclass(frozen=True)
class Block:
    """A journal's ``block`` line; `crc` and `thumbnail` are "" in an older one.

    `taps` has the checksums of the arrays of states beside `hidden_states`, by their names.
    """

    video: int
    block: int
    crc: str = ""
    thumbnail: str = ""
    taps: Mapping[str, str] = field(default_factory=dict)

    def as_entry(self) -> dict[str, Any]:
        """The line, without what it does not know."""
        known = {name: value for name, value in asdict(self).items() if value not in ("", {})}
        return {"event": "block", **known}

    def checksums(self, name: str) -> str | None:
        """Those of the layers in an array of states; None where it has no such block."""
        return self.crc if name == HIDDEN_STATES else self.taps.get(name)


@dataclass
class Gained:
    """What the journals gained: blocks in order, and of each video the last outcome.

    `is_plan_new`: small files were written since, the plan perhaps.
    """

    blocks: list[Block] = field(default_factory=list)
    outcomes: dict[int, dict[str, Any]] = field(default_factory=dict)
    is_plan_new: bool = False


class JournalLog:
    """Reads the journals of a store.

    Attributes
    ----------
    digests : Digests
        What the small files must be.
    ends : dict of str to int
        How far each journal has been read, in bytes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.digests = Digests()
        self.ends: dict[str, int] = {}
        self._promised: dict[str, int] = {}

    def read(self) -> Gained:
        """Read what the journals gained since the last call.

        Raises
        ------
        StoreError
            A journal is damaged, cut, or gone.
        """
        gained = Gained()
        for path in journal_files(self._folder):
            start = self.ends.setdefault(path.name, 0)
            try:
                for entries, end in read_lines(path, start):
                    if not self.ends[path.name]:
                        _check_name(path, entries[0])
                    for entry in entries:
                        self._apply(entry, gained)
                    self.ends[path.name] = end
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise StoreError(
                    f"{path}: damaged: {error!s}. Restore the store's folder from a copy."
                ) from error
        for name, size in self._promised.items():
            if self.ends.get(name, 0) < size:
                raise StoreError(
                    f"{self._folder / name}: damaged: {self.ends.get(name, 0)} of {size} bytes "
                    "are there. Restore it from a copy."
                )
        return gained

    def has_grown(self) -> bool:
        """Whether a journal has more than was read."""
        return any(
            path.stat().st_size > self.ends.get(path.name, 0)
            for path in journal_files(self._folder)
        )

    def promise(self) -> dict[str, int]:
        """Sizes of the journals that no ``files`` line has told of yet, to be told of."""
        return {name: end for name, end in self.ends.items() if end != self._promised.get(name, 0)}

    def _apply(self, entry: dict[str, Any], gained: Gained) -> None:
        match entry["event"]:
            case "block":
                gained.blocks.append(_block(entry))
            case "video":
                gained.outcomes[_number(entry["video"])] = _outcome(entry)
            case "files":
                self.digests.announce(_texts(entry["digests"]), bool(entry.get("complete")))
                for name, size in entry.get("journals", {}).items():
                    self._promised[name] = _number(size)
            case "written":
                self.digests.settle()
                gained.is_plan_new = True
            case _:
                pass  # of a later version, which says more


def _check_name(path: Path, entry: Mapping[str, Any]) -> None:
    if entry["event"] == "run" and entry["journal"] != path.name:
        raise ValueError(f"it is {entry['journal']}, under another name")


def _block(entry: Mapping[str, Any]) -> Block:
    crc, thumbnail = entry.get("crc", ""), entry.get("thumbnail", "")
    if not (isinstance(crc, str) and isinstance(thumbnail, str)):
        raise ValueError("a block's crc is no text")
    taps = _texts(entry.get("taps", {}))
    return Block(_number(entry["video"]), _number(entry["block"]), crc, thumbnail, taps)


def _outcome(entry: dict[str, Any]) -> dict[str, Any]:
    """Check the values of a ``video`` line: they go into tables."""
    entry["error"].encode()
    if _number(entry["num_frames"]) >= 2**31 or entry["status"] not in STATUSES:
        raise ValueError(f"no outcome of a video: {entry}"[:200])
    float(entry["fps"])
    return entry


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a number, got {value!r}"[:200])
    return value


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    if not all(isinstance(value, str) for value in values.values()):
        raise ValueError("a digest is no text")
    return dict(values)
