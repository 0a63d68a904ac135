"""Settings of a run that goes on with a store: what was not asked for is as it is there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from hiprobe.extract.config import OWN_PIXELS, BackboneConfig, ExtractConfig
from hiprobe.extract.thumbnails import THUMBNAIL_SIZE
from hiprobe.store import StoreError
from hiprobe.store.opened import OpenedStore
from hiprobe.store.provenance import Provenance, Purpose, segment_frames_attribute
from hiprobe.store.store_folder import is_store
from hiprobe.store.windows import window_record

# What `--dtype` and so on take; a store may record what another program called it.
DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "flash_attention_2", "eager")
QUANTISATIONS = ("full", "int8", "fp8", "8bit", "4bit")


def as_in_store(config: ExtractConfig, given: Collection[str]) -> ExtractConfig:
    """Take the store's settings, if there is one, for those that the user did not give.

    Parameters
    ----------
    config : ExtractConfig
    given : collection of str
        Fields of it, and of its `BackboneConfig`, that the user has asked for.
    """
    if not is_store(config.store):
        return config
    opened = OpenedStore(config.store)
    origin = Provenance.of(opened.attributes)
    model = origin.model
    of_run = {
        "keyframes": origin.keyframes,
        "thumbnails": opened.thumbnail_size is not None,
    }
    if origin.segment_frames is not None and "segment_frames" not in given:
        config = replace(config, segment_frames=origin.frames_per_segment)
    if not {"window_frames", "window_seconds"} & {*given}:
        config = replace(config, window=origin.window)
    of_model: dict[str, Any] = {
        "prompt": origin.prompt,
        "layers": origin.layers,
        "dtype": model.dtype if model.dtype in DTYPES else None,
        "attention": model.attention if model.attention in ATTENTIONS else None,
        "load_in": model.load_in if model.load_in in QUANTISATIONS else None,
        "compile": model.compile,
    }
    if origin.frame_pixels is not None:
        # Where one bound is given, the other one is the store's, not a default.
        of_model |= dict(zip(("min_pixels", "max_pixels"), origin.frame_pixels, strict=True))
    return replace(
        config,
        backbone=replace(config.backbone, **_wanted(of_model, given)),
        **_wanted(of_run, given),
    )


def _wanted(recorded: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    """What is recorded, and was not asked for otherwise."""
    return {
        name: value for name, value in recorded.items() if value is not None and name not in given
    }


def check_settings(config: ExtractConfig) -> None:
    """Refuse what contradicts the store, as far as it is known before the model is loaded.

    Raises
    ------
    StoreError
        It names each difference.
    """
    if not is_store(config.store):
        return
    attributes, backbone = OpenedStore(config.store).attributes, config.backbone
    model = {"load_in": backbone.load_in, "compile": backbone.compile}
    model |= {} if backbone.dtype == "auto" else {"dtype": backbone.dtype}
    model |= {} if backbone.attention == "auto" else {"attention": backbone.attention}
    stored, recorded = Provenance.of(attributes), attributes.get("model")
    asked: dict[str, Any] = {
        "prompt": backbone.prompt,
        "fps_shown": backbone.fps_shown,
        "frame_pixels": _asked_pixels(backbone, stored),
        "keyframes": config.keyframes,
        "window": window_record(config.window),
        "segment_frames": segment_frames_attribute(config.segment_frames),
        "thumbnails": list(THUMBNAIL_SIZE) if config.thumbnails else None,
    }
    if backbone.layers is not None:
        asked["layers"] = list(backbone.layers)
    known = recorded if isinstance(recorded, dict) else {}
    refuse_other_settings(
        config.store, stored, Provenance.of({**attributes, **asked, "model": {**known, **model}})
    )


def _asked_pixels(backbone: BackboneConfig, stored: Provenance) -> list[int | None] | None:
    """The frames' range as asked for; a bound that is not is taken to be the store's."""
    asked = (backbone.min_pixels, backbone.max_pixels)
    if OWN_PIXELS in asked:
        return None
    if asked == (None, None):
        return None if stored.frame_pixels is None else list(stored.frame_pixels)
    bounds = zip(asked, stored.frame_pixels or (None, None), strict=True)
    return [wanted or recorded for wanted, recorded in bounds]


def refuse_other_settings(path: Path, stored: Provenance, own: Provenance) -> None:
    """Refuse to fill a store with states that are made otherwise.

    Raises
    ------
    StoreError
        It names each difference.
    """
    if differences := stored.compare(own, Purpose.FILL).refused:
        raise StoreError(
            f"{path}: was made with other settings:\n"
            + "\n".join(
                f"  {one.name}: store {one.first!r}, this run {one.second!r}" for one in differences
            )
            + "\nRun with the store's settings, or write to another store."
        )
