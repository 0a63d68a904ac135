"""What a store or a probe records of how its states were made, for who makes more of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.chat_template import WRAPPED_VIDEO
from hiprobe.extract.config import OWN_PIXELS, BackboneConfig, ExtractConfig
from hiprobe.extract.prompts import with_stores_taps
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.video import SegmentReader
from hiprobe.store import StoreError
from hiprobe.store.opened import OpenedStore
from hiprobe.store.provenance import Comparison, Provenance, Purpose
from hiprobe.store.store_folder import is_store
from hiprobe.store.windows import Window


@dataclass(frozen=True)
class Recipe:
    """What must be known, beside the model, to make states like those of a store.

    Attributes
    ----------
    prompt : str
    segment_frames : int or None
        None: a whole video is a segment.
    keyframes : int
    window : Window or None
    origin : Provenance
        Where the rest of it is.
    """

    prompt: str
    segment_frames: int | None
    keyframes: int
    window: Window | None
    origin: Provenance

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
        frames = origin.frames_per_segment
        return cls(origin.prompt, frames, origin.keyframes, origin.window, origin)

    def reader(
        self, path: str | Path, num_frames: int, fps: float, first_segment: int = 0
    ) -> SegmentReader:
        """Read a video's segments, and of each what the store's model saw of it."""
        ranges = segment_ranges(num_frames, self.segment_frames)
        seen = None if self.window is None else self.window.of_segments(ranges, num_frames, fps)
        return SegmentReader(path, ranges, self.keyframes, first_segment, seen)

    def fill(self, config: BackboneConfig) -> BackboneConfig:
        """Ask for the recipe's prompt, and for its frames where nothing else is asked for."""
        return replace(_shown_alike(config, self.origin), prompt=self.prompt)


def gone_on_with(config: ExtractConfig) -> ExtractConfig:
    """Show frames as those of the store that is there already, where nothing else is asked for.

    What it keeps beside ``hidden_states`` is asked for too: each video must have all of it.

    A store of before there was a choice records none: its frames are as the processor came, and
    its prompt tells whether Qwen3-VL's vision tokens were around the whole video.
    """
    if not is_store(config.store):
        return config
    opened = OpenedStore(config.store)
    backbone = _shown_alike(config.backbone, Provenance.of(opened.attributes))
    return replace(config, backbone=with_stores_taps(backbone, opened))


def _shown_alike(config: BackboneConfig, origin: Provenance) -> BackboneConfig:
    config = replace(config, keep_wrapped=WRAPPED_VIDEO in (origin.prompt_text or ""))
    if config.fps_shown is None:
        config = replace(config, fps_shown=origin.fps_shown)
    if config.frames_on_device is None:
        config = replace(config, frames_on_device=origin.frames_on_device)
    if (config.min_pixels, config.max_pixels) != (None, None):
        return config
    low, high = origin.frame_pixels or (OWN_PIXELS, OWN_PIXELS)
    return replace(config, min_pixels=low, max_pixels=high)


def compare_with_model(origin: Provenance, backbone: Backbone, purpose: Purpose) -> Comparison:
    """Compare recorded states with those that a loaded model gives by the same `Recipe`."""
    attributes = {**origin.attributes, **backbone.describe().provenance}
    return origin.compare(Provenance.of(attributes, backbone.num_features), purpose)
