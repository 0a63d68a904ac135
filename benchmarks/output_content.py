"""What a command wrote, in a form that compares: without times; part of `stress_full_disk`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from hiprobe.store import DONE, FeatureStore

# What may differ between two runs of one command.
VOLATILE = {"created", "seconds", "frames_per_second", "wall_seconds", "real_time_factor"}
TIMES = re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\+\d\d:\d\d|Z)?")


def content_of(folder: Path) -> dict[str, Any]:
    """Every output below a folder by its path; a store is one output."""
    contents: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".zarr":
            # By video, so that a part of them can be found in the whole.
            contents |= {f"{path.name}: {name}": one for name, one in store_content(path).items()}
        elif path.is_dir():
            contents |= {f"{path.name}/{name}": one for name, one in content_of(path).items()}
        else:
            contents[path.name] = _file_content(path)
    return contents


def store_content(path: Path) -> dict[str, Any]:
    """A store's finished videos, each with its states, thumbnails and rows of the tables."""
    store = FeatureStore.open(path)
    contents: dict[str, Any] = {}
    for video_id, row in store.videos.iterrows():
        if row["status"] == DONE:
            own = store.segments[store.segments["video_id"] == video_id]
            pictures = store.thumbnails(str(video_id)) if store.thumbnail_size else np.empty(0)
            contents[str(video_id)] = (
                repr(row.to_dict()),
                own.to_csv(index=False),
                store.video(str(video_id)).tobytes(),
                pictures.tobytes(),
            )
    return contents


def _file_content(path: Path) -> Any:
    try:
        if path.suffix == ".json":
            return _without_volatile(json.loads(path.read_bytes()))
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
            return table.drop(columns=[one for one in table if "second" in str(one)]).to_csv()
        if path.suffix in (".h5", ".hdf5"):
            return _hdf5_content(path)
        if path.suffix in (".png", ".svg", ".html"):  # made of the rest, with times and random ids
            return path.read_bytes().rstrip()[-6:]
    except (ValueError, OSError) as error:
        return f"not readable: {error!r}"
    return TIMES.sub(b"TIME", path.read_bytes())


def _hdf5_content(path: Path) -> dict[str, Any]:
    contents: dict[str, Any] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                contents.update({name: repr(item[()].tolist())})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return contents


def _without_volatile(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _without_volatile(v) for k, v in content.items() if k not in VOLATILE}
    if isinstance(content, list):
        return [_without_volatile(one) for one in content]
    return content
