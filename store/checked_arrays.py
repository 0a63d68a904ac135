"""Reading the large arrays of a store: damage is an error that says where, never a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zarr

from hiprobe.store import shards
from hiprobe.store.errors import StoreError
from hiprobe.store.index import StoreIndex
from hiprobe.store.taps import HIDDEN_STATES, StatesArray


class CheckedArrays:
    """The arrays of states and `thumbnail` of a store, by videos and positions.

    Parameters
    ----------
    path : Path
        The store's folder.
    index : StoreIndex
    row_block : int
    states : mapping of str to StatesArray
        By name.
    thumbnails : zarr.Array or None
        None where the store keeps none.
    """

    def __init__(
        self,
        path: Path,
        index: StoreIndex,
        row_block: int,
        states: Mapping[str, StatesArray],
        thumbnails: zarr.Array | None,
    ) -> None:
        self._path = path
        self._index = index
        self._row_block = row_block
        self._states = states
        self._thumbnails = thumbnails
        # A store that another program wrote may have other codecs: Zarr reads whatever it knows.
        self._own_layouts = {name for name, one in states.items() if shards.can_read(one.array)}

    def is_own_layout(self, name: str) -> bool:
        """Whether an array of states is stored as `schema` writes it."""
        return name in self._own_layouts

    def read(
        self, positions: Sequence[int], videos: Sequence[int], name: str = HIDDEN_STATES
    ) -> np.ndarray:
        """Read some layers of some videos: (layer, row, feature) float32."""
        known = [one for video in videos for one in self._index.checksums(video, name)]
        return self.read_rows(positions, [*map(self._index.video_rows, videos)], known, name)

    def read_rows(
        self,
        positions: Sequence[int],
        rows: Sequence[slice],
        checksums: Sequence[tuple[str, ...]],
        name: str = HIDDEN_STATES,
    ) -> np.ndarray:
        """Read some layers of some rows, as `shards.read_states` does."""
        array = self._states[name].array
        num_layers, _, num_features = array.shape
        with self._damage("in its states: "):
            if not self.is_own_layout(name):
                chosen = slice(positions[0], positions[-1] + 1)  # one, or all
                parts = [np.asarray(array[chosen, own]) for own in rows]
                return np.concatenate(
                    [np.empty((len(positions), 0, num_features), np.float32), *parts], axis=1
                )
            shape = (num_layers, self._row_block, num_features)
            return shards.read_states(self._path / name, shape, positions, rows, checksums)

    def states_shard(self, row: int, name: str = HIDDEN_STATES) -> Path:
        """The file of a row in an array of states."""
        return self._path / f"{name}/c/0/{row // self._row_block}/0"

    def thumbnails(self, video: int, segments: Sequence[int] | None) -> np.ndarray:
        """Read some pictures, or all, of one video: (segment, y, x, 3) uint8."""
        assert self._thumbnails is not None
        rows = self._index.video_rows(video)
        numbers = np.arange(rows.start, rows.stop)
        chosen = numbers if segments is None else numbers[list(segments)]
        with self._damage(f"at rows {rows.start}:{rows.stop}: "):
            for number in {*((chosen - rows.start) // self._row_block).tolist()}:
                self.check_thumbnail_shard(video, number)
            return np.asarray(self._thumbnails.oindex[chosen])

    def check_thumbnail_shard(self, video: int, block: int) -> None:
        """Compare a shard of pictures with the journals.

        Raises
        ------
        ValueError
            It is another one, or missing: Zarr would read it as black pictures.
        """
        file = self.thumbnail_shard(video, block)
        if not file.exists():
            raise ValueError(f"{file} is missing")
        known = {line.thumbnail for line in self._index.lines(video, block)}
        if known and "" not in known and shards.shard_digest(file) not in known:
            raise ValueError(f"{file} holds another block than the journals say")

    def thumbnail_shard(self, video: int, block: int) -> Path:
        """The file of a block's pictures."""
        number = self._index.video_rows(video).start // self._row_block + block
        return self._path / f"thumbnail/c/{number}/0/0/0"

    @contextmanager
    def _damage(self, where: str) -> Iterator[None]:
        """Say of a failed checksum where it is: Zarr's and Blosc's own messages do not."""
        try:
            yield
        except MemoryError as error:
            raise StoreError(
                f"{self._path}: this does not fit into memory. Read fewer videos at once: "
                "`iter_layer` reads a layer in parts."
            ) from error
        except (ValueError, RuntimeError, OSError, TypeError) as error:
            raise StoreError(
                f"{self._path}: damaged {where}{error}. "
                "Extract these videos again, or restore the folder from a copy."
            ) from error
