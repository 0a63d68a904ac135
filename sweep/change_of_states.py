"""What another way of making states has changed: two stores of the same videos, side by side.

Run by ``hiprobe store compare-states``, for example on a store of quantised weights and one of full
ones. How far each layer's states are apart is held against how far different segments are; whether
it matters, against what the chosen layers and the scores become.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.evaluate.comparison import resample_videos
from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.evaluate.test_set import TestSet
from hiprobe.probe.layer_rules import DEFAULT_RULE
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import FeatureStore, HiProbeError, StoreError
from hiprobe.store.errors import listing
from hiprobe.store.probe_members import read_logits
from hiprobe.store.provenance import Purpose
from hiprobe.store.state_distances import MAX_CONTROL, distances_between, relative_l2

RULES = ("dlsp", DEFAULT_RULE)
NUM_RESAMPLES = 1000
OnDone = Callable[[int, int], None]


def compare_states(
    first: Path,
    second: Path,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    on_layer: OnDone = lambda done, total: None,
) -> dict[str, Any]:
    """Compare the second store's states with the first one's.

    Parameters
    ----------
    first, second : Path
        Stores of the same segments and width. Videos that only one has finished are left out.
    num_resamples, seed : int
        Of the paired bootstrap over test videos.
    on_layer : callable
        Called with (layers done, layers).

    Returns
    -------
    dict
        ``differences``: how they were made otherwise, each a ``name`` with ``first`` and
        ``second``; ``layers``: of each layer that both have, ``relative_l2_median`` and
        ``relative_l2_max``, ``‖second - first‖ / ‖first‖`` over segments, and the control
        ``between_segments``, the same between different segments of the first, its median;
        ``readings``: for each of `RULES` the ``layers`` that the first and the second store's own
        probe reads, and, ``by_rule`` and for the second store read at the first one's layers,
        ``same_layers``: the test ``auc`` of both, and of ``second - first`` the ``difference`` with
        its 95 % ``interval``;
        ``num_videos``, ``num_segments``; ``warnings``: what was left out, and why.

    Raises
    ------
    StoreError
        They have no finished video, no layer, or not even a width in common, or cut a video into
        other segments.
    """
    stores = FeatureStore.open(first), FeatureStore.open(second)
    found = stores[0].origin.compare(stores[1].origin, Purpose.FILL)
    videos, left_out = _common_videos(*stores)
    layers = [layer for layer in stores[0].layers if layer in stores[1].layers]
    if not layers or stores[0].num_features != stores[1].num_features:
        shapes = [f"layers {one.layers}, {one.num_features} features" for one in stores]
        raise StoreError(f"{second}: has {shapes[1]}; {first} has {shapes[0]}: nothing to compare.")
    table = {}
    for done, layer in enumerate(layers):
        on_layer(done, len(layers))
        table[str(layer)] = _change(*stores, layer, videos)
    on_layer(len(layers), len(layers))
    readings, warnings = [], []
    if left_out:
        warnings.append(
            f"{len(left_out)} videos are finished in one store only:\n{listing(left_out)}\n"
            "Layers and AUC are left out: probes of other videos differ by that too. `hiprobe "
            "store subset` cuts a store to the other one's videos."
        )
    for rule in () if left_out else RULES:
        try:
            readings.append(_reading(first, second, rule, num_resamples, seed))
        except HiProbeError as error:
            warnings.append(f"no probe by the rule {rule}: {error}")
    return {
        "stores": [str(first.absolute()), str(second.absolute())],
        "differences": [
            {"name": one.name, "first": one.first, "second": one.second} for one in found.refused
        ],
        "num_videos": len(videos),
        "num_segments": int(stores[0].segments["video_id"].isin(videos).sum()),
        "layers": table,
        "readings": readings,
        "bootstrap": {"num_resamples": num_resamples, "seed": seed, "unit": "video"},
        "warnings": warnings,
    }


def _common_videos(one: FeatureStore, two: FeatureStore) -> tuple[list[str], list[str]]:
    """Ids of the videos that both have finished, and of those that one has."""
    tables = [store.segments.set_index("video_id") for store in (one, two)]
    ids = [list(dict.fromkeys(table.index)) for table in tables]
    common = [video for video in ids[0] if video in {*ids[1]}]
    if not common:
        raise StoreError(f"{two.path}: has no finished video of {one.path}.")
    ranges = [
        table.loc[common, ["segment", "start_frame", "stop_frame"]].reset_index()
        for table in tables
    ]
    if not ranges[0].equals(ranges[1]):
        raise StoreError(
            f"{two.path}: its segments are not those of {one.path}: nothing to compare."
        )
    return common, sorted({*ids[0]} ^ {*ids[1]})


def _change(
    one: FeatureStore, two: FeatureStore, layer: int, videos: list[str]
) -> dict[str, float | None]:
    """How far one layer's states have moved, beside how far they are from each other."""
    distances, sample = [], []
    # Of each video its middle: neighbouring segments are too much alike to hold anything against.
    shown = {videos[i] for i in np.linspace(0, len(videos) - 1, MAX_CONTROL).astype(int)}
    for video in videos:
        states, others = (store.layer(layer, [video]) for store in (one, two))
        distances.append(relative_l2(others, states))
        if video in shown:
            sample.append(states[len(states) // 2][np.newaxis])
    moved = np.concatenate(distances)
    return {
        "relative_l2_median": float(np.median(moved)),
        "relative_l2_max": float(moved.max()),
        "between_segments": distances_between([layer], sample).get(str(layer)),
    }


def _reading(first: Path, second: Path, rule: str, num_resamples: int, seed: int) -> dict[str, Any]:
    """What each store's own probe reads, and how well it tells the test videos."""
    layers, scored = _scored(first, rule)
    # Whether another layer is chosen, and whether the same one tells less, are two questions.
    of_second = [_scored(second, rule), _scored(second, tuple(layers))]
    rankings = [one.ranking(one.smoothed) for one in (scored, *(one for _, one in of_second))]

    def measure(weights: np.ndarray | None) -> np.ndarray | None:
        metrics = [one.metrics(weights) for one in rankings]
        return np.array([one.auc for one in metrics if one]) if all(metrics) else None

    points = measure(None)
    if points is None:
        raise HiProbeError("the test videos' frames are of one class only: no AUC.")
    num_videos = len(scored.videos)
    draws = resample_videos(measure, num_videos, num_resamples, seed, lambda done, total: None)
    found = {"rule": rule, "layers": [layers, of_second[0][0]], "num_test_videos": num_videos}
    for number, name in ((1, "by_rule"), (2, "same_layers")):
        low, high = np.percentile(draws[:, number] - draws[:, 0], [2.5, 97.5])
        found[name] = {
            "auc": [float(points[0]), float(points[number])],
            "difference": float(points[number] - points[0]),
            "interval": [float(low), float(high)],
        }
    return found


def _scored(path: Path, layers: str | tuple[int, ...]) -> tuple[list[int], ScoredSegments]:
    """Train a probe on a store, by a rule or on given layers, and score its test videos."""
    probe = run_probe(ProbeConfig(path, layer=layers))
    test = TestSet.of_store(FeatureStore.open(path))
    test.require_frame_labels()
    raw = probe.scores_of(read_logits([probe.members], test.states)[0])
    return list(probe.layers_read), test.score(raw)
