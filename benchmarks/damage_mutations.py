"""Damaging one or two files of a world, and mending them again; part of `stress_damage`."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.damage_world import EARLIER, HDF5, PROBE, RESULTS, STORE

# Content by path relative to the world; None: no such file.
Content = dict[str, bytes | None]

# How often each kind is chosen: what is small and plenty of kinds, more often.
WEIGHTS = {
    "group's zarr.json": 9,
    "array's zarr.json": 14,
    "index chunk": 27,
    "layer's chunk": 4,
    "states' shard": 14,
    "thumbnails' shard": 10,
    "journal": 16,
    "lock": 1,
    "probe.json": 2,
    "metrics.json": 1,
    "scores.csv": 1,
    "intervals.json": 1,
    "thumbnails.json": 1,
    "HDF5": 4,
}


def kind_of(path: str) -> str:
    """Kind of a world's file."""
    folder, _, rest = path.partition("/")
    if folder == PROBE:
        return "probe.json"
    if folder == HDF5:
        return "HDF5"
    if folder == RESULTS:
        return rest
    if rest.endswith("zarr.json"):
        return "group's zarr.json" if rest.count("/") == 0 else "array's zarr.json"
    first = rest.partition("/")[0]
    if first == "journal":
        return "lock" if rest.endswith("lock") else "journal"
    kinds = {
        "hidden_states": "states' shard",
        "thumbnail": "thumbnails' shard",
        "layer": "layer's chunk",
    }
    return kinds.get(first, "index chunk")


@dataclass(frozen=True)
class Mutation:
    """What is done to a world.

    Attributes
    ----------
    kind : str
        Of the file, a key of `WEIGHTS`.
    how : str
        Name of the damage.
    content : dict
        New content of the files that change.
    special : str
        'folder' or 'fifo' where one of these takes the file's place; else empty.
    """

    kind: str
    how: str
    content: Content
    special: str = ""

    @property
    def domain(self) -> str:
        """`STORE`, `PROBE`, `RESULTS` or `HDF5`."""
        return next(iter(self.content)).partition("/")[0]


class World:
    """A world that is damaged and mended in place.

    Parameters
    ----------
    folder, sister : Path
        The world, and one that another seed made; the sister is only read.
    kind : str
        Only kinds of files with this in their name are damaged.
    """

    def __init__(self, folder: Path, sister: Path, kind: str = "") -> None:
        self.folder = folder
        self._kinds = [one for one in WEIGHTS if kind in one]
        everything = _contents(folder)
        self.pristine = {
            path: data for path, data in everything.items() if not path.startswith(EARLIER)
        }
        # By the place that a file would take: journals have names of their own in each store, and
        # are told by their order.
        places = _by_place(self.pristine)
        self._foreign = {places.get(place): data for place, data in _by_place(
            _contents(sister), content=True).items()}  # fmt: skip
        earlier = {
            STORE + path[len(EARLIER) :]: data
            for path, data in everything.items()
            if path.startswith(EARLIER)
        }
        self._earlier = {path: data for path, data in earlier.items() if path in self.pristine}
        self._of_kind: dict[str, list[str]] = {}
        for path in sorted(self.pristine):
            self._of_kind.setdefault(kind_of(path), []).append(path)

    def choose(self, rng: random.Random) -> Mutation:
        """Choose a file and what happens to it; one that changes nothing may come out."""
        kinds = [kind for kind in self._kinds if kind in self._of_kind]
        (kind,) = rng.choices(kinds, [WEIGHTS[kind] for kind in kinds])
        path = rng.choice(self._of_kind[kind])
        if rng.random() < 0.004:
            return Mutation(kind, "special", {path: None}, rng.choice(["folder", "fifo"]))
        (how,) = rng.choices([*_ONE_FILE, *self._others(path, kind)], k=1)
        if how in _ONE_FILE:
            return Mutation(kind, how, {path: _ONE_FILE[how](self.pristine[path], rng)})
        return Mutation(kind, how, self._others(path, kind)[how](rng))

    def _others(self, path: str, kind: str) -> Mapping[str, Callable[[random.Random], Content]]:
        """What can happen to a file that takes others, by its name."""
        own, alike = self.pristine[path], [p for p in self._of_kind[kind] if p != path]
        ways: dict[str, Callable[[random.Random], Content]] = {}
        if alike:

            def swap(rng: random.Random) -> Content:
                other = rng.choice(alike)
                return {path: self.pristine[other], other: own}

            ways["swap"] = swap
            ways["duplicate"] = lambda rng: {path: self.pristine[rng.choice(alike)]}
        # Another whole probe or export in the place of one is no damage.
        if path in self._foreign and path not in (PROBE, HDF5):
            ways["foreign"] = lambda rng: {path: self._foreign[path]}
        if path in self._earlier:
            ways["earlier"] = lambda rng: {path: self._earlier[path]}
        if kind == "journal":
            ways |= {name: (lambda rng, f=f: {path: f(own, rng)}) for name, f in _LINES.items()}
        if kind in ("states' shard", "thumbnails' shard"):
            ways["swap blocks"] = lambda rng: self._swap_blocks(path, rng.choice(alike))
            ways["foreign block"] = lambda rng: {
                both: self._foreign[both] for both in self._block(path)
            }
        return ways

    def _block(self, path: str) -> list[str]:
        """Both shards of the block that a shard belongs to."""
        parts = path.split("/")
        number = parts[-2] if parts[1] == "hidden_states" else parts[3]
        return [f"{STORE}/hidden_states/c/0/{number}/0", f"{STORE}/thumbnail/c/{number}/0/0/0"]

    def _swap_blocks(self, one: str, other: str) -> Content:
        pairs = list(zip(self._block(one), self._block(other), strict=True))
        forth = {left: self.pristine[right] for left, right in pairs}
        return forth | {right: self.pristine[left] for left, right in pairs}

    def apply(self, mutation: Mutation) -> None:
        """Damage the files."""
        for path, data in mutation.content.items():
            file = self.folder / path
            file.unlink()
            if mutation.special == "folder":
                file.mkdir()
            elif mutation.special == "fifo":
                os.mkfifo(file)
            elif data is not None:
                file.write_bytes(data)

    def mend(self, mutation: Mutation) -> None:
        """Write back what was there."""
        for path in mutation.content:
            file = self.folder / path
            if file.is_dir():
                shutil.rmtree(file)
            with contextlib.suppress(FileNotFoundError):
                file.unlink()
            file.write_bytes(self.pristine[path] or b"")

    def changes(self, mutation: Mutation) -> bool:
        """Whether anything is other than it was; the lock's existence means nothing."""
        return mutation.kind != "lock" and any(
            data != self.pristine[path] for path, data in mutation.content.items()
        )

    def check_pristine(self) -> None:
        """Make sure that every mutation was mended, and that reading wrote nothing."""
        now = {p: d for p, d in _contents(self.folder).items() if p.split("/")[0] not in
               (EARLIER, "imported.zarr")}  # fmt: skip
        assert now == self.pristine, [p for p in now.keys() | self.pristine.keys()
                                      if now.get(p) != self.pristine.get(p)]  # fmt: skip

    def lost_lines(self, mutation: Mutation) -> tuple[bool, bool]:
        """Whether only journals were touched, and whether that is what a writer may leave.

        A kill may leave any journal without its last line; the last journal, whose run was not
        sealed, is with fewer lines what an earlier kill would have left; and all lines together,
        one of them twice or in another order, are what two workers may have written.
        """
        if mutation.kind != "journal" or mutation.special:
            return False, False
        (path, data), *more = mutation.content.items()
        if more or not path.endswith(".jsonl"):
            return True, False
        before, after = _lines(self.pristine[path] or b""), _lines(data or b"")
        kept = [line for line in after if line in before]
        last = max(one for one in self._of_kind["journal"] if one.endswith(".jsonl"))
        whole_lines = kept == before[: len(kept)] and after[: len(kept)] == kept
        fewest = 0 if path == last else len(before) - 1
        return True, set(before) == set(after) or (whole_lines and fewest <= len(kept))


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _by_place(files: Mapping[str, bytes], content: bool = False) -> dict[str, str]:
    """Files by their place: journals by their number in the order of names."""
    journals = sorted(path for path in files if path.endswith(".jsonl"))
    named = {path: f"journal {n}" for n, path in enumerate(p for p in journals if STORE in p)}
    return {
        named.get(path, path): files[path] if content else path  # type: ignore[misc]
        for path in files
    }


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def _flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(max(1, len(data)))
    return (
        data[:at]
        + bytes(byte ^ rng.randrange(1, 256) for byte in data[at : at + 1])
        + data[at + 1 :]
    )


def _bit(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(max(1, len(data)))
    flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at : at + 1])
    return data[:at] + flipped + data[at + 1 :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(max(1, len(data)))]


def _zero(data: bytes, rng: random.Random) -> bytes:
    start, stop = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return data[:start] + bytes(stop - start) + data[stop:]


def _append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 64))


def _delete(data: bytes, rng: random.Random) -> None:
    return None


def _drop_line(data: bytes, rng: random.Random) -> bytes:
    lines = _lines(data)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def _double_line(data: bytes, rng: random.Random) -> bytes:
    lines = _lines(data)
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return b"".join(lines)


def _swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = _lines(data)
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


_ONE_FILE: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "flip byte": _flip,
    "flip bit": _bit,
    "truncate": _truncate,
    "zero": _zero,
    "append": _append,
    "delete": _delete,
}
_LINES = {"drop line": _drop_line, "double line": _double_line, "swap lines": _swap_lines}
