"""Lazy views of a store's states, for notebooks: Dask arrays and a labelled dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import zarr

from hiprobe.store.taps import Tap, dimension_prefix
from hiprobe.store.windows import COLUMNS

if TYPE_CHECKING:
    import xarray
    from dask.array import Array

# Blocks of a lazy array's chunk: large enough that the task graph of a full-size store is small.
BLOCKS_PER_DASK_CHUNK = 16


def lazy_states(states: zarr.Array[Any], row_block: int) -> Array:
    """The array `hidden_states` as a (layer, row, feature) Dask array, padding included."""
    import dask.array

    rows = row_block * BLOCKS_PER_DASK_CHUNK
    return dask.array.from_zarr(states, chunks=(1, rows, states.shape[2]))


def labelled_dataset(
    states: Mapping[str, tuple[Tap, Array]],
    *,
    segments: pd.DataFrame,
    videos: pd.DataFrame,
    attributes: Mapping[str, Any],
) -> xarray.Dataset:
    """Label states; see `FeatureStore.to_xarray`.

    Parameters
    ----------
    states : mapping of str to (Tap, Dask array)
        By the arrays' names, each (layer, segment, feature).
    segments, videos : DataFrame
        As `FeatureStore` has them.
    attributes : mapping
    """
    import xarray

    of_video = videos.loc[segments["video_id"]]
    along_segment = {
        "video_id": segments["video_id"],
        "segment_in_video": segments["segment"],
        "start_frame": segments["start_frame"],
        "stop_frame": segments["stop_frame"],
        **{name: segments[name] for name in COLUMNS if name in segments},
        **{name: of_video[name] for name in ("split", "label", "category")},
    }
    variables, layers = {}, {}
    for tap, values in states.values():
        own = dimension_prefix(tap)
        variables[tap.name.replace("/", "_")] = (
            (f"{own}layer", "segment", f"{own}feature"), values
        )  # fmt: skip
        layers[f"{own}layer"] = list(tap.layers)
    return xarray.Dataset(
        variables,
        coords={
            **layers,
            **{name: ("segment", values.to_numpy()) for name, values in along_segment.items()},
        },
        attrs=attributes,
    )
