"""What users read of each kind of file, in a form that compares; part of `stress_damage`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.damage_world import FEATURES, HDF5, PROBE, RESULTS, STORE
from hiprobe.store import DONE, PENDING, FeatureStore, HiProbeError, Probe
from hiprobe.store.hdf5 import import_hdf5
from hiprobe.store.results import Results
from hiprobe.store.verify import verify

# Reading is a dict of what was asked for to what came: equal things are equal pickles of plain
# values. An error takes the value's place.
Reading = dict[str, Any]


class HangError(BaseException):
    """The alarm: no ``except Exception`` on the way may take it for damage."""


def read_store(path: Path) -> Reading:
    """Read a store as its users do; each question alone: one refusal hides no wrong answer."""
    reading: Reading = {}
    store = _ask(reading, "open", lambda: FeatureStore.open(path))
    if store is None:
        return reading
    reading["open"] = True
    _ask(reading, "provenance", lambda: repr(store.provenance))
    _ask(reading, "thumbnail_size", lambda: store.thumbnail_size)
    layers = _ask(reading, "layers", lambda: list(store.layers))
    table = _ask(reading, "videos", lambda: _rows(store.videos.reset_index()))
    segments = _ask(reading, "segments", lambda: _rows(store.segments))
    if layers is None or table is None or segments is None:
        return reading
    owners = [row["video_id"] for row in segments]
    done = [row["video_id"] for row in table if row["status"] == DONE]
    for layer in layers:
        # Whole, as every command reads it; kept by video, as one that is lost may be compared.
        states = _ask(reading, f"layer {layer}", lambda layer=layer: store.layer(layer))
        if states is not None:
            reading[f"layer {layer}"] = _by_video(states, owners)
    for video_id in done:
        _ask(reading, f"video {video_id}", lambda v=video_id: _bytes(store.video(v)))
        if reading.get("thumbnail_size"):
            _ask(reading, f"thumbnails {video_id}", lambda v=video_id: _bytes(store.thumbnails(v)))
    return reading


def read_probe(path: Path) -> Reading:
    """Load a probe and score with it."""
    reading: Reading = {}
    probe = _ask(reading, "probe", lambda: Probe.load(path))
    if probe is not None:
        states = np.linspace(-2, 2, 4 * FEATURES, dtype=np.float32).reshape(4, FEATURES)
        reading["probe"] = repr(probe)
        _ask(reading, "scores", lambda: _bytes(probe.score(states)))
        _ask(reading, "origin", lambda: repr(probe.origin))
    return reading


def read_results(path: Path) -> Reading:
    """Read a results' folder."""
    reading: Reading = {}
    results = _ask(reading, "results", lambda: Results.read(path))
    if results is not None:
        parts = (results.metrics, results.threshold, results.videos, results.thumbnails)
        reading["results"] = repr(parts)
        reading["segments"] = _rows(results.segments)
    return reading


def read_hdf5(path: Path) -> Reading:
    """Import an export and read the store that comes out."""
    out = path.with_name("imported.zarr")
    shutil.rmtree(out, ignore_errors=True)
    reading: Reading = {}
    _ask(reading, "import", lambda: import_hdf5(path, out))
    return reading if isinstance(reading["import"], Exception) else read_store(out)


READERS: dict[str, Callable[[Path], Reading]] = {
    STORE: read_store,
    PROBE: read_probe,
    RESULTS: read_results,
    HDF5: read_hdf5,
}


def outcome_of(reading: Reading, truth: Reading, may_lose_videos: bool) -> tuple[str, str]:
    """Name the class of a reading, the worst of its answers, and what tells.

    Parameters
    ----------
    reading, truth : dict
        After the mutation, and before it.
    may_lose_videos : bool
        A journal lost its end: videos may read as unfinished, and everything else as before.
    """
    errors = {name: value for name, value in reading.items() if isinstance(value, Exception)}
    different = [
        name
        for name, value in reading.items()
        if name not in errors and (name not in truth or value != truth[name])
    ]
    if different:
        lost = may_lose_videos and _only_unfinished(reading, truth, different)
        if not lost:
            return "read_wrong_silently", _difference(reading, truth, different[0])
    for name, error in errors.items():
        if not isinstance(error, HiProbeError):
            return "traceback", f"{name}: {error!r}"
    if errors:
        name, error = next(iter(errors.items()))
        return "refused", f"{name}: {error}"
    if different or truth.keys() - reading.keys():
        return "unfinished", ", ".join(different)
    return "harmless", ""


def verify_store(path: Path) -> tuple[str, str]:
    """Say whether `verify` finds something: 'found', 'clean' or 'traceback', and what."""
    try:
        problems = verify(path).problems
    except HiProbeError as error:
        return "found", str(error)
    except Exception as error:
        return "traceback", repr(error)
    return ("found", problems[0]) if problems else ("clean", "")


def _ask(reading: Reading, name: str, question: Callable[[], Any]) -> Any:
    """Put the answer, or the error, under its name; return the answer, None for an error."""
    try:
        reading[name] = question()
    except Exception as error:
        reading[name] = error
        return None
    return reading[name]


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows; NaN as a word, because it does not equal itself."""
    return [
        {
            str(name): "nan" if isinstance(value, float) and np.isnan(value) else value
            for name, value in row.items()
        }
        for row in table.to_dict("records")
    ]


def _bytes(array: np.ndarray) -> tuple[Any, ...]:
    return array.shape, str(array.dtype), array.tobytes()


def _by_video(states: np.ndarray, owners: list[str]) -> dict[str, Any]:
    """Give each video its rows of a layer; more rows or fewer than segments are kept as such."""
    if len(states) != len(owners):
        return {"shape": states.shape}
    rows: dict[str, list[bytes]] = {}
    for owner, row in zip(owners, states, strict=True):
        rows.setdefault(owner, []).append(row.tobytes())
    return dict(rows)


def _only_unfinished(reading: Reading, truth: Reading, different: list[str]) -> bool:
    """Whether a reading is the truth with some videos not finished (yet)."""
    if not {"videos", "segments"} <= reading.keys():
        return False
    then, now = truth["videos"], reading["videos"]
    # A video that had failed and was planned again may stand with its first, failed entry.
    by_id = {row["video_id"]: row for row in then}
    fixed = ("path", "split", "label", "category", "annotations")
    if len({row["video_id"] for row in now}) != len(now):
        return False
    for row in now:
        was = by_id.get(row["video_id"])
        if was is None or any(row[name] != was[name] for name in fixed):
            return False
        if row != was and row["status"] == DONE:
            return False
        if row["status"] not in (was["status"], PENDING):
            return False
    done = {row["video_id"] for row in now if row["status"] == DONE}
    expected = {
        "videos": now,
        "segments": [row for row in truth["segments"] if row["video_id"] in done],
    }
    for name in different:
        if name.startswith("layer "):
            expected[name] = {video: own for video, own in truth[name].items() if video in done}
    return all(reading[name] == expected.get(name) for name in different)


def _difference(reading: Reading, truth: Reading, name: str) -> str:
    """The first difference in few words."""
    now, then = reading[name], truth.get(name)
    if name in ("videos", "segments") and then is not None:
        if len(now) != len(then):
            return f"{name}: {len(now)} rows, not {len(then)}"
        for one, other in zip(now, then, strict=True):
            for key in other:
                if one.get(key) != other[key]:
                    return f"{name}: {key} is {one.get(key)!r}, not {other[key]!r}"
    if isinstance(now, dict) and isinstance(then, dict):
        keys = [key for key in now.keys() | then.keys() if now.get(key) != then.get(key)]
        return f"{name}: other states of {sorted(keys)}"
    if isinstance(now, str) and isinstance(then, str):
        at = next((i for i, (a, b) in enumerate(zip(now, then, strict=False)) if a != b), 0)
        return (
            f"{name}: …{now[max(0, at - 20) : at + 20]!r}, not …{then[max(0, at - 20) : at + 20]!r}"
        )
    return f"{name}: other content"
