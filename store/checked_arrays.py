"""Reading the large arrays of a store: damage is an error that says where, never a number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from hiprobe.store import schema, shards
from hiprobe.store.errors import StoreError


class CheckedArrays:
    """The arrays `hidden_states` and `thumbnail` of a store, by positions and row numbers."""

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self._path = path
        self._group = group
        self.states = self._array("hidden_states")

    def layer(self, position: int, row_slices: Sequence[slice]) -> np.ndarray:
        """Read one layer of some videos' rows: (row, feature) float32."""
        num_layers, _, num_features = self.states.shape
        # A store that another program wrote may have other codecs: Zarr reads whatever it knows.
        if not shards.can_read(self.states):
            parts = [self.video(rows, slice(position, position + 1))[0] for rows in row_slices]
            return np.concatenate([np.empty((0, num_features), np.float32), *parts])
        shape = (num_layers, self.states.shards[1], num_features)  # type: ignore[index]
        try:
            return shards.read_layer(self._path / "hidden_states", shape, position, row_slices)
        except (ValueError, RuntimeError) as error:
            raise self._damaged(f"in its states: {error}") from error

    def video(self, rows: slice, layers: slice = slice(None)) -> np.ndarray:
        """Read some layers of one video's rows: (layer, row, feature) float32."""
        with self._damage_as_error(rows):
            return np.asarray(self.states[layers, rows])

    def thumbnails(self, rows: slice, segments: Sequence[int] | None) -> np.ndarray:
        """Read some pictures, or all, of one video's rows: (segment, y, x, 3) uint8."""
        numbers = np.arange(rows.start, rows.stop)
        chosen = numbers if segments is None else numbers[list(segments)]
        with self._damage_as_error(rows):
            return np.asarray(self._array(schema.THUMBNAIL).oindex[chosen])

    @contextmanager
    def _damage_as_error(self, rows: slice) -> Iterator[None]:
        """Say of a failed checksum where it is: Zarr's and Blosc's own messages do not."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise self._damaged(f"at rows {rows.start}:{rows.stop}: {error}") from error

    def _damaged(self, what: str) -> StoreError:
        return StoreError(
            f"{self._path}: damaged {what}. "
            "Extract these videos again, or restore the folder from a copy."
        )

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array
