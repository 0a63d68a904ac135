"""What a store or a probe records of how its states were made, for who makes more of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import OWN_PIXELS, BackboneConfig, ExtractConfig
from hiprobe.store import FeatureStore, StoreError
from hiprobe.store.provenance import Comparison, Provenance, Purpose


@dataclass(frozen=True)
class Recipe:
    """What must be known, beside the model, to make states like those of a store.

    Attributes
    ----------
    prompt : str
    segment_frames : int or None
        None: a whole video is a segment.
    keyframes : int
    frame_pixels : (int, int) or None
        None: as the processor comes.
    fps_shown : float or None
        None: the video's own.
    """

    prompt: str
    segment_frames: int | None
    keyframes: int
    frame_pixels: tuple[int, int] | None
    fps_shown: float | None

    @classmethod
    def of(cls, origin: Provenance, path: Path) -> Self:
        """Read it from the provenance that lies at `path`.

        Raises
        ------
        StoreError
            Something of it is not recorded: another program made the store.
        """
        names = ("prompt", "segment_frames", "keyframes")
        if missing := [name for name in names if getattr(origin, name) is None]:
            raise StoreError(
                f"{path}: does not record {' and '.join(missing)} of its states, so nothing can be "
                "computed alike. Add what is missing to the store's attributes, or extract again."
            )
        assert origin.prompt is not None
        assert origin.keyframes is not None
        return cls(
            origin.prompt,
            origin.frames_per_segment,
            origin.keyframes,
            origin.frame_pixels,
            origin.fps_shown,
        )

    def fill(self, config: BackboneConfig) -> BackboneConfig:
        """Ask for the recipe's prompt, and for its frames where nothing else is asked for."""
        return replace(_with_frames(config, self.frame_pixels, self.fps_shown), prompt=self.prompt)


def gone_on_with(config: ExtractConfig) -> ExtractConfig:
    """Show frames as those of the store that is there already, where nothing else is asked for.

    A store of before there was a choice records none: its frames are as the processor came.
    """
    if not (config.store / "zarr.json").exists():
        return config
    stored = FeatureStore.open(config.store).origin
    backbone = _with_frames(config.backbone, stored.frame_pixels, stored.fps_shown)
    return replace(config, backbone=backbone)


def _with_frames(
    config: BackboneConfig, pixels: tuple[int, int] | None, fps_shown: float | None
) -> BackboneConfig:
    if config.fps_shown is None:
        config = replace(config, fps_shown=fps_shown)
    if (config.min_pixels, config.max_pixels) != (None, None):
        return config
    low, high = (OWN_PIXELS, OWN_PIXELS) if pixels is None else pixels
    return replace(config, min_pixels=low, max_pixels=high)


def compare_with_model(origin: Provenance, backbone: Backbone, purpose: Purpose) -> Comparison:
    """Compare recorded states with those that a loaded model gives by the same `Recipe`."""
    attributes = {**origin.attributes, **backbone.describe().provenance}
    return origin.compare(Provenance.of(attributes, backbone.num_features), purpose)
