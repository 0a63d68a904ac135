"""The parity certificate: stored states against those of one segment at a time.

Batching, padding, other processes and the way to the disk must not change the numbers. So some
segments, chosen at random, are decoded and computed again one by one, and compared with the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from pandas.util import hash_pandas_object

from hiprobe.extract.backbone import Backbone, States
from hiprobe.extract.changed_files import changed_file
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.prompts import further_taps, texts_of
from hiprobe.extract.recipe import Recipe, compare_with_model
from hiprobe.extract.video import inspect_video
from hiprobe.store import FeatureStore, ModelError, StoreError, StoreWriter, VideoError
from hiprobe.store.provenance import ModelRecord, Purpose
from hiprobe.store.state_distances import (
    TINY,
    distances_between,
    indistinct_layers,
    relative_l2,
    tolerance_of,
)
from hiprobe.store.taps import HIDDEN_STATES

DIGESTS = {
    "model.weights_digest": "weights",
    "model.files_digest": "configuration, tokenizer, processor or chat template",
}


def recompute(path: Path, backbone: Backbone, num_segments: int, seed: int) -> dict[str, Any]:
    """Compute random segments of a store again and measure the differences.

    Parameters
    ----------
    path : Path
        The store.
    backbone : Backbone
        The model that made it.
    num_segments : int
        At most so many.
    seed : int
        Of their choice.

    Returns
    -------
    dict
        ``segments``: video id and number of each; per layer, the greatest over segments of
        ``relative_l2``, ``‖stored - again‖ / ‖again‖``, and of ``max_relative_difference``,
        ``max |stored - again| / max |again|``; ``taps``, the greatest relative L2 of each further
        array of states; ``tolerance`` and the segments that ``exceeded`` it in some layer;
        ``between_segments``, the control: per layer the median relative L2 between two different
        ones of these segments; ``seed``, ``created``; ``warnings`` where videos had to be passed
        over, because their files are gone or have changed, and where a segment differs from itself
        nearly as much as from another.

    Raises
    ------
    StoreError
        It has no finished videos.
    """
    store = FeatureStore.open(path)
    recipe = Recipe.of(store.origin, path)
    if store.segments.empty:
        raise StoreError(f"{path}: no finished videos to compute again.")
    order = _drawn_order(store.segments, seed)
    # The first ones in the store's order: they are read one after the other.
    order[:num_segments].sort()
    tolerance = tolerance_of(store.origin.model)
    measured: list[_Measured] = []
    passed_over: dict[str, str] = {}
    for video_id, segment in store.segments.iloc[order][["video_id", "segment"]].to_numpy():
        if len(measured) == num_segments:
            break
        if video_id in passed_over:
            continue
        try:
            again = _states_again(store, backbone, recipe, str(video_id), int(segment))
        except VideoError as error:
            passed_over[str(video_id)] = str(error)
            continue
        measured.append(_Measured.of(store, str(video_id), int(segment), again))
    differences = _greatest(store, [one.of_l2 for one in measured])
    control = distances_between(store.layers, [one.again for one in measured])
    certificate = {
        "segments": [[one.video_id, one.segment] for one in measured],
        "max_relative_difference": _greatest(store, [one.of_max for one in measured]),
        "relative_l2": differences,
        "between_segments": control,
        "tolerance": tolerance,
        "exceeded": [
            # Written so that nan, of which every comparison is false, exceeds it.
            [one.video_id, one.segment]
            for one in measured
            if not (one.of_l2 <= tolerance).all()
            or not all(distance <= tolerance for distance in one.of_taps.values())
        ],
        "seed": seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if of_taps := _greatest_of_taps(measured):
        certificate["taps"] = of_taps
    warnings = [*passed_over.values(), *indistinct_layers(differences, control)]
    return certificate | ({"warnings": warnings} if warnings else {})


@dataclass(frozen=True)
class _Measured:
    """How a segment's stored states differ from those computed again, per layer."""

    video_id: str
    segment: int
    of_max: np.ndarray
    of_l2: np.ndarray
    of_taps: dict[str, float]
    again: np.ndarray

    @classmethod
    def of(cls, store: FeatureStore, video_id: str, segment: int, states: States) -> Self:
        """Compare (layer, segment, feature) of one segment with what the store has of it."""
        stored = store.video(video_id)[:, segment]
        again = states[HIDDEN_STATES][:, 0].astype(np.float64)
        greatest = np.maximum(np.abs(again).max(axis=1), TINY)
        of_max = np.abs(stored - again).max(axis=1) / greatest
        of_taps = {
            tap.name: float(
                relative_l2(
                    store.video(video_id, tap=tap.tap, prompt=tap.prompt)[:, segment],
                    states[tap.name][:, 0],
                ).max()
            )
            for tap in store.further_taps_of(video_id)
            if tap.name in states
        }
        return cls(video_id, segment, of_max, relative_l2(stored, again), of_taps, again)


def _drawn_order(segments: pd.DataFrame, seed: int) -> np.ndarray:
    """Put segments in an order that is random, but the same whenever they are drawn.

    By their names' hashes and not by a permutation: a store that has grown keeps those that were
    drawn from it before, but for what is new among the first.
    """
    hashes = hash_pandas_object(
        segments[["video_id", "segment"]].astype(str), index=False, hash_key=f"{seed:016d}"
    )
    return np.argsort(hashes.to_numpy(), kind="stable")


def _greatest(store: FeatureStore, differences: Sequence[np.ndarray]) -> dict[str, float]:
    """Per layer, the greatest of all segments; nothing of none."""
    if not differences:
        return {}
    greatest = np.max(differences, axis=0)
    return {str(layer): float(value) for layer, value in zip(store.layers, greatest, strict=True)}


def _greatest_of_taps(measured: Sequence[_Measured]) -> dict[str, float]:
    """Per tap, the greatest of all layers and segments."""
    names = dict.fromkeys(name for one in measured for name in one.of_taps)
    return {
        name: max(one.of_taps[name] for one in measured if name in one.of_taps) for name in names
    }


def certify(
    path: Path, num_segments: int, *, model: str | None = None, device: str = "auto", seed: int = 0
) -> dict[str, Any]:
    """Load the store's own model, `recompute`, and keep the certificate in the store.

    Parameters
    ----------
    path : Path
    num_segments : int
    model : str, optional
        Where the model is now; default: where it was.
    device : str
    seed : int

    Returns
    -------
    dict
        As `recompute` has it; with ``warnings`` where the model runs in another way than it did.

    Raises
    ------
    ModelError
        The model cannot be loaded, or its weights are not the store's.
    StoreError
        The store does not record how its states were made.
    VideoError
        No video can be read any more, or all have changed.
    """
    store = FeatureStore.open(path)
    recorded, recipe = store.origin.model, Recipe.of(store.origin, path)
    if model is None and recorded.id == ModelRecord.id:
        raise StoreError(f"{path}: does not record its model. Give it with --model.")
    config = BackboneConfig(
        model=model or recorded.id,
        revision=recorded.revision,
        layers=tuple(store.layers),
        dtype=recorded.dtype or "auto",
        device=device,
        attention=recorded.attention or "auto",
        load_in=recorded.load_in or "full",
        compile=bool(recorded.compile),
        taps=further_taps({tap.tap for tap in store.further_taps}),
        further_prompts=tuple(texts_of(store.further_taps).items()),
    )
    backbone = Backbone(recipe.fill(config))
    comparison = compare_with_model(store.origin, backbone, Purpose.AGAIN)
    for one in comparison.refused:
        name = DIGESTS.get(one.name, one.name)
        raise ModelError(
            f"{backbone.config.model}: has {name} {one.second}, the store was made with "
            f"{one.first}. Give that model with --model."
        )
    certificate = recompute(path, backbone, num_segments, seed)
    if comparison.warned:
        certificate.setdefault("warnings", []).extend(
            f"{one.name}: store {one.first!r}, now {one.second!r}" for one in comparison.warned
        )
    if not certificate["segments"]:
        raise VideoError(certificate["warnings"][0])
    with StoreWriter(path) as writer:
        writer.record("parity", certificate)
    return certificate


def _states_again(
    store: FeatureStore, backbone: Backbone, recipe: Recipe, video_id: str, segment: int
) -> States:
    """Decode and compute one segment."""
    video = store.videos.loc[video_id]
    if changed := changed_file(store.file(video_id), video["path"]):
        raise VideoError(changed)
    # As it was planned: the store's own number of frames is what could be decoded.
    num_frames = inspect_video(video["path"]).num_frames
    fps = float(video["fps"])
    wanted = next(iter(recipe.reader(video["path"], num_frames, fps, segment)))
    return backbone.all_states(backbone.prepare([wanted], fps))
