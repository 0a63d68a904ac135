"""The parity certificate: stored states against those of one segment at a time.

Batching, padding, other processes and the way to the disk must not change the numbers. So some
segments, chosen at random, are decoded and computed again one by one, and compared with the store.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.recipe import Recipe, compare_with_model
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.video import SegmentReader, inspect_video
from hiprobe.store import FeatureStore, ModelError, StoreError, StoreWriter
from hiprobe.store.provenance import ModelRecord, Purpose


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
        ``segments``: video id and number of each; ``max_relative_difference``: per layer, the
        greatest over segments of ``max |stored - again| / max |again|``; ``seed``, ``created``.

    Raises
    ------
    StoreError
        It has no finished videos.
    VideoError
        A video cannot be read any more.
    """
    store = FeatureStore.open(path)
    recipe = Recipe.of(store.origin, path)
    if store.segments.empty:
        raise StoreError(f"{path}: no finished videos to compute again.")
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(store.segments))[:num_segments])
    chosen = [
        (str(video_id), int(segment))
        for video_id, segment in store.segments.iloc[rows][["video_id", "segment"]].to_numpy()
    ]
    differences = []
    for video_id, segment in chosen:
        again = _states_again(store, backbone, recipe, video_id, segment)
        stored = store.video(video_id)[:, segment]
        scale = np.maximum(np.abs(again).max(axis=1), np.finfo(np.float32).tiny)
        differences.append(np.abs(stored - again).max(axis=1) / scale)
    return {
        "segments": [list(one) for one in chosen],
        "max_relative_difference": {
            str(layer): float(value)
            for layer, value in zip(store.layers, np.max(differences, axis=0), strict=True)
        },
        "seed": seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
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
    """
    store = FeatureStore.open(path)
    recorded, recipe = store.origin.model, Recipe.of(store.origin, path)
    if model is None and recorded.id == ModelRecord.id:
        raise StoreError(f"{path}: does not record its model. Give it with --model.")
    backbone = Backbone(
        BackboneConfig(
            model=model or recorded.id,
            revision=recorded.revision,
            prompt=recipe.prompt,
            layers=tuple(store.layers),
            dtype=recorded.dtype or "auto",
            device=device,
            attention=recorded.attention or "auto",
            load_in=recorded.load_in or "full",
            compile=bool(recorded.compile),
        )
    )
    comparison = compare_with_model(store.origin, backbone, Purpose.AGAIN)
    for one in comparison.refused:
        name = "weights" if one.name == "model.weights_digest" else one.name
        raise ModelError(
            f"{backbone.config.model}: has {name} {one.second}, the store was made with "
            f"{one.first}. Give that model with --model."
        )
    certificate = recompute(path, backbone, num_segments, seed)
    if comparison.warned:
        certificate["warnings"] = [
            f"{one.name}: store {one.first!r}, now {one.second!r}" for one in comparison.warned
        ]
    with StoreWriter(path) as writer:
        writer.record("parity", certificate)
    return certificate


def _states_again(
    store: FeatureStore, backbone: Backbone, recipe: Recipe, video_id: str, segment: int
) -> np.ndarray:
    """Decode and compute one segment: (layer, feature) float32."""
    video = store.videos.loc[video_id]
    # As it was planned: the store's own number of frames is what could be decoded.
    num_frames = inspect_video(video["path"]).num_frames
    ranges = segment_ranges(num_frames, recipe.segment_frames)
    reader = SegmentReader(video["path"], ranges, recipe.keyframes, first_segment=segment)
    wanted = next(iter(reader))
    return backbone.states(backbone.prepare([wanted], float(video["fps"])))[:, 0]
