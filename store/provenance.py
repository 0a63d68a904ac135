"""How states were made, typed, and the one comparison of two such records.

Whether two stores (or a store and a probe, or a store and a loaded model) fit together depends on
what is to be done with them: that is a `Purpose`. `RULES` says for every field and every purpose
whether a difference is refused, worth a warning, or nothing. No other module compares
provenance by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, IntEnum
from typing import Any, Literal, Self

from hiprobe.store.schema import STRUCTURE
from hiprobe.store.taps import ATTRIBUTE as TAPS
from hiprobe.store.windows import ATTRIBUTE as WINDOW
from hiprobe.store.windows import SEGMENT, Window

WHOLE: Literal["whole"] = "whole"


class Purpose(Enum):
    """What two records are compared for."""

    FILL = "two runs fill one store, or two stores are joined"
    SCORE = "a scorer of one's states reads the other's"
    AGAIN = "the same states are computed again"
    ABLATE = "stores that may differ in their keyframes only are put side by side"
    DESCRIBE = "a model describes what another's states have found"


class Verdict(IntEnum):
    """What a difference means."""

    IGNORE = 0
    WARN = 1
    REFUSE = 2


_I, _W, _R = Verdict.IGNORE, Verdict.WARN, Verdict.REFUSE
_PURPOSES = (Purpose.FILL, Purpose.SCORE, Purpose.AGAIN, Purpose.ABLATE, Purpose.DESCRIBE)
RULES = {
    # field                  fill score again ablate describe
    "model.weights_digest": (_R, _R, _R, _R, _W),
    # The same weights with another configuration, tokenizer or chat template give other states.
    "model.files_digest": (_R, _R, _R, _R, _W),
    # Only where no digest tells: a model that has moved, or has another name, is the same model.
    "model.id": (_R, _W, _W, _W, _W),
    # Who describes has its LM head on, and so is of another class.
    "model.class": (_R, _R, _R, _R, _I),
    "model.dtype": (_R, _W, _W, _W, _I),
    "model.attention": (_R, _W, _W, _W, _I),
    "model.load_in": (_R, _W, _W, _W, _I),
    "model.compile": (_R, _I, _W, _I, _I),
    "num_features": (_R, _R, _R, _R, _I),
    "prompt": (_R, _W, _R, _R, _I),
    "prompt_text": (_R, _I, _W, _I, _I),
    # Further ones, by name; of those that both have.
    "prompts": (_R, _W, _R, _R, _I),
    "processor": (_R, _I, _W, _I, _I),
    "segment_frames": (_R, _W, _R, _R, _I),
    "keyframes": (_R, _W, _R, _I, _I),
    "window": (_R, _W, _R, _R, _I),
    "frame_pixels": (_R, _W, _R, _R, _I),
    "fps_shown": (_R, _W, _R, _R, _I),
    "layers": (_R, _I, _I, _I, _I),
    "numerics": (_R, _I, _W, _I, _I),
    "thumbnails": (_R, _I, _I, _I, _I),
    "manifest.digest": (_I, _I, _I, _R, _I),
}
# Fields of later versions: what an earlier one made goes on without them, and only who computes the
# same states again is told that they could not be compared.
LATER = frozenset(["model.files_digest"])
# When, where and of what it was computed, not how: nothing that makes other numbers.
CIRCUMSTANCES = frozenset(
    [
        *STRUCTURE,
        "model.revision",
        "manifest",
        "prompt_name",
        "batch_size",
        "device",
        "libraries",
        "created",
        "parity",
        "runs",
        "merged_from",
        "subset_of",
        "relabelled",
    ]
)


@dataclass(frozen=True)
class Difference:
    """One setting that differs.

    Attributes
    ----------
    name : str
        Of the innermost setting, for example ``model.dtype`` or ``processor.video.size``.
    first, second : Any
        None where it is not recorded.
    verdict : Verdict
        `WARN` or `REFUSE`.
    """

    name: str
    first: Any
    second: Any
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """What differs between two records, for a purpose.

    Attributes
    ----------
    refused, warned : tuple of Difference
    """

    refused: tuple[Difference, ...]
    warned: tuple[Difference, ...]


@dataclass(frozen=True)
class ModelRecord:
    """Which model, and how it ran. A field is None where it is not recorded.

    Attributes
    ----------
    id : str
        Hub id or folder, as it was given.
    revision : str or None
    weights_digest : str or None
        SHA-256 over the weight files.
    files_digest : str or None
        SHA-256 over configuration, processor, tokenizer and chat template.
    model_class : str or None
        Transformers' class; ``class`` in the file.
    dtype, attention, load_in : str or None
    compile : bool or None
    """

    id: str = "an unknown model"
    revision: str | None = None
    weights_digest: str | None = None
    files_digest: str | None = None
    model_class: str | None = None
    dtype: str | None = None
    attention: str | None = None
    load_in: str | None = None
    compile: bool | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read the attribute ``model`` of a store."""
        values: dict[str, Any] = {one.name: content.get(one.name) for one in fields(cls)}
        values |= {"id": str(content.get("id") or cls.id), "model_class": content.get("class")}
        return cls(**values)


@dataclass(frozen=True)
class Provenance:
    """How a store's states were made. A field is None where it is not recorded.

    Attributes
    ----------
    model : ModelRecord
    prompt : str or None
        The user's text.
    prompt_text : str or None
        The whole text after the chat template.
    segment_frames : int or 'whole' or None
    keyframes : int or None
        Keyframes per segment, K.
    window : Window or None
        What the model sees of a segment; None: the segment.
    frame_pixels : (int, int) or None
        Fewest and most pixels of a frame; None also where the processor is used as it comes.
    fps_shown : float or None
        Rate at which keyframes were said to follow each other; None: the video's own.
    layers : tuple of int or None
        Layers kept.
    manifest_digest : str or None
        Of the first run's manifest. Stores of one manifest have the same videos by the same ids.
    num_features : int or None
        Width of the states; not an attribute, but the array's shape.
    attributes : mapping
        All that is recorded, as in the file.
    """

    model: ModelRecord = ModelRecord()
    prompt: str | None = None
    prompt_text: str | None = None
    segment_frames: int | Literal["whole"] | None = None
    keyframes: int | None = None
    window: Window | None = None
    frame_pixels: tuple[int, int] | None = None
    fps_shown: float | None = None
    layers: tuple[int, ...] | None = None
    manifest_digest: str | None = None
    num_features: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, attributes: Mapping[str, Any], num_features: int | None = None) -> Self:
        """Read a store's attributes, of which none needs to be there."""
        layers, pixels = _plain(attributes.get("layers")), _plain(attributes.get("frame_pixels"))
        return cls(
            model=ModelRecord.of(_mapping(attributes.get("model"))),
            prompt=attributes.get("prompt"),
            prompt_text=attributes.get("prompt_text"),
            segment_frames=attributes.get("segment_frames"),
            keyframes=attributes.get("keyframes"),
            window=Window.of_record(attributes.get(WINDOW)),
            frame_pixels=(pixels[0], pixels[1]) if isinstance(pixels, list) else None,
            fps_shown=attributes.get("fps_shown"),
            layers=tuple(layers) if isinstance(layers, list) else None,
            manifest_digest=_mapping(attributes.get("manifest")).get("digest"),
            num_features=num_features,
            attributes=dict(attributes),
        )

    @property
    def frames_per_segment(self) -> int | None:
        """Frames of a segment; None where a whole video is one, or `segment_frames` is None."""
        frames = self.segment_frames
        return None if frames is None or frames == WHOLE else int(frames)

    @property
    def frames_on_device(self) -> bool:
        """Whether frames became pixel values on the model's device, and not on the CPU before."""
        call = _mapping(self.attributes.get("processor")).get("call")
        return bool(_mapping(call).get("frames_on_device"))

    def compare(self, other: Provenance, purpose: Purpose) -> Comparison:
        """Compare with another record.

        Notes
        -----
        What one side does not record cannot be refused, only warned of; but nobody fills a store
        of which it is not known how it was made (`Purpose.FILL`). Filling also refuses what no rule
        names, a setting of another program's, where both record it and differ.
        """
        found = [
            Difference(path, one, two, _of_unknown(name, verdict, one, two, purpose))
            for name, verdict in self._verdicts(other, purpose)
            if verdict is not Verdict.IGNORE
            for path, one, two in _leaves(*self._pair(other, name), name)
        ]
        if purpose is Purpose.FILL:
            found += [
                Difference(path, one, two, Verdict.REFUSE)
                for name in sorted((self._names() & other._names()) - RULES.keys() - CIRCUMSTANCES)
                for path, one, two in _leaves(self._value(name), other._value(name), name)
            ]
        return Comparison(
            refused=tuple(one for one in found if one.verdict is Verdict.REFUSE),
            warned=tuple(one for one in found if one.verdict is Verdict.WARN),
        )

    def same_manifest(self, other: Provenance) -> bool:
        """Whether equal ids mean equal videos: of one manifest, or both of none that is known."""
        return self.manifest_digest == other.manifest_digest

    def _verdicts(self, other: Provenance, purpose: Purpose) -> Iterator[tuple[str, Verdict]]:
        """The rules that apply to these two, by field."""
        column = _PURPOSES.index(purpose)
        has_digests = self.model.weights_digest and other.model.weights_digest
        for name, verdicts in RULES.items():
            if name != "model.id" or not has_digests:
                yield name, verdicts[column]

    def _names(self) -> set[str]:
        """Names of what is recorded, the model's settings one by one, as `RULES` has them."""
        of_model = {f"model.{name}" for name in _mapping(self.attributes.get("model"))}
        return {*self.attributes} - {"model"} | of_model

    def _pair(self, other: Provenance, name: str) -> tuple[Any, Any]:
        """Both sides' values under a name of `RULES`."""
        if name != "prompts":
            return self._value(name), other._value(name)
        own, others = self._prompts(), other._prompts()
        common = own.keys() & others.keys()
        return {one: own[one] for one in common}, {one: others[one] for one in common}

    def _prompts(self) -> dict[str, Any]:
        """Texts of the prompts beside the first, by their names."""
        records = map(_mapping, _mapping(self.attributes.get(TAPS)).values())
        return {one["prompt"]: one.get("text") for one in records if one.get("prompt")}

    def _value(self, name: str) -> Any:
        """What is recorded under a name of `RULES`; None where nothing is."""
        if name == "num_features":
            return self.num_features
        if name == WINDOW:  # older stores, which have none, are silent about it
            return self.attributes.get(name) or SEGMENT
        value: Any = self.attributes
        for key in name.split("."):
            value = _mapping(value).get(key)
        return value


def segment_frames_attribute(frames_per_segment: int | None) -> int | Literal["whole"]:
    """Write frames of a segment, None for a whole video, as the attribute ``segment_frames``."""
    return WHOLE if frames_per_segment is None else frames_per_segment


def _mapping(value: Any) -> Mapping[str, Any]:
    """The value, or an empty mapping where another program wrote something else there."""
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> Any:
    """The value as JSON gives it back: a list for a tuple."""
    return list(value) if isinstance(value, tuple) else value


def _of_unknown(name: str, verdict: Verdict, one: Any, two: Any, purpose: Purpose) -> Verdict:
    """Soften a verdict where one side does not record the setting."""
    if one is not None and two is not None:
        return verdict
    if name in LATER:
        return Verdict.WARN if purpose is Purpose.AGAIN else Verdict.IGNORE
    return verdict if purpose is Purpose.FILL else Verdict.WARN


def _leaves(one: Any, two: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Name each setting that differs, down to the innermost one."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for key in sorted({*one, *two}):
            yield from _leaves(one.get(key), two.get(key), f"{name}.{key}")
    elif _plain(one) != _plain(two):
        yield name, one, two
