"""Which states a store holds: those of every store, and those of further taps and prompts.

An array of states is (layer, row, feature) float32, whatever it is of: the same rows, the same
blocks, shards of its own. It is known by its place in the store's folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import zarr

HIDDEN_STATES = "hidden_states"
HEADS, FRAMES_MEAN, FRAMES_LAST = "heads", "frames_mean", "frames_last"
TAPS = (HIDDEN_STATES, HEADS, FRAMES_MEAN, FRAMES_LAST)
ATTRIBUTE = "taps"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Tap:
    """A place in the model where a vector is taken of every segment and layer.

    Attributes
    ----------
    tap : str
        One of `TAPS`.
    layers : tuple of int
        Ascending; 0 is the embedding output.
    num_features : int
    prompt : str
        The prompt's name; "" is the store's own, the first.
    text : str
        Of a further prompt; the first one's is the attribute ``prompt``.
    num_heads : int
        Of ``heads``: features are (head, feature of a head), head by head; else 0.
    site, position : str
        What is taken, and of which token.
    is_normed : bool
        Whether the last layer is taken after the final norm.
    """

    tap: str
    layers: tuple[int, ...]
    num_features: int
    prompt: str = ""
    text: str = ""
    num_heads: int = 0
    site: str = ""
    position: str = ""
    is_normed: bool = True

    @property
    def name(self) -> str:
        """Where its array is in the store's folder."""
        return array_name(self.tap, self.prompt)

    def fits(self, other: Tap) -> bool:
        """Whether it is the same, however it is described."""
        return replace(self, site=other.site, position=other.position) == other

    def as_record(self) -> dict[str, Any]:
        """What the store's attribute says of it."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def of_record(cls, name: str, record: Mapping[str, Any]) -> Self:
        """Read what the store's attribute says of the array `name`.

        Raises
        ------
        ValueError
            It cannot be.
        """
        fields = {key: record.get(key, default) for key, default in _DEFAULTS.items()}
        for key, value in fields.items():
            if type(value) is not type(_DEFAULTS[key]):
                raise ValueError(f"{name}: {key} is {value!r}"[:200])
        layers = fields["layers"]
        if (
            not layers
            or any(type(layer) is not int or not 0 <= layer < 2**15 for layer in layers)
            or layers != sorted({*layers})
        ):
            raise ValueError(f"{name}: no ascending layers: {layers}"[:200])
        found = cls(**{**fields, "layers": tuple(layers)})
        # They are names of folders; and what every store has is described elsewhere.
        is_named = NAME.fullmatch(found.tap) and (not found.prompt or NAME.fullmatch(found.prompt))
        if found.name != name or name == HIDDEN_STATES or not is_named:
            raise ValueError(f"{name}: is described as {found.name}"[:200])
        if found.num_heads and found.num_features % found.num_heads:
            raise ValueError(f"{name}: {found.num_features} features of {found.num_heads} heads")
        return found


_DEFAULTS: dict[str, Any] = {
    "tap": "", "layers": [], "num_features": 0, "prompt": "", "text": "", "num_heads": 0,
    "site": "", "position": "", "is_normed": True,
}  # fmt: skip


@dataclass(frozen=True)
class StatesArray:
    """A tap's array in an opened store."""

    tap: Tap
    array: zarr.Array[Any]

    @property
    def name(self) -> str:
        """See `Tap.name`."""
        return self.tap.name


def array_name(tap: str, prompt: str = "") -> str:
    """Where the array of a tap and a prompt is in a store's folder."""
    own = tap if tap == HIDDEN_STATES else f"taps/{tap}"
    return f"prompts/{prompt}/{own}" if prompt else own


def dimension_prefix(tap: Tap) -> str:
    """Layers and features of another number have names of their own: xarray insists."""
    return "" if tap.name == HIDDEN_STATES else f"{tap.name.replace('/', '_')}_"


def taps_of(attributes: Mapping[str, Any]) -> dict[str, Tap]:
    """Read which arrays of states a store has beside the main one, by their names.

    Raises
    ------
    ValueError
        The attribute is damaged.
    """
    recorded = attributes.get(ATTRIBUTE, {})
    if not isinstance(recorded, dict):
        raise ValueError(f"{ATTRIBUTE} is {recorded!r}"[:200])
    for name, record in recorded.items():
        if not isinstance(record, dict):
            raise ValueError(f"{ATTRIBUTE}: {name} is {record!r}"[:200])
    return {name: Tap.of_record(name, record) for name, record in recorded.items()}
