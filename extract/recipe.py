"""What a store or a probe records of how its states were made, for who makes more of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hiprobe.extract.backbone import Backbone
from hiprobe.store import StoreError
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
    """

    prompt: str
    segment_frames: int | None
    keyframes: int

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
        return cls(origin.prompt, origin.frames_per_segment, origin.keyframes)


def compare_with_model(origin: Provenance, backbone: Backbone, purpose: Purpose) -> Comparison:
    """Compare recorded states with those that a loaded model gives by the same `Recipe`."""
    attributes = {**origin.attributes, **backbone.describe().provenance}
    return origin.compare(Provenance.of(attributes, backbone.num_features), purpose)
