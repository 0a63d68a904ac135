"""Which vectors a scorer reads: layers of taps, under prompts, whole or by heads, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypedDict

import numpy as np

from hiprobe.store import fields
from hiprobe.store.errors import HiProbeError, StoreError
from hiprobe.store.taps import HIDDEN_STATES, NAME, TAPS

if TYPE_CHECKING:
    from hiprobe.store.reader import FeatureStore

MAX_LAYERS = 10_000
# Segments that are read at once, of all places together.
MAX_ROWS, MIN_ROWS = 8192, 64


class ReadLayer(Protocol):
    """Gives a layer's (segment, feature) states, some segments at a time; those of a store alike.

    Called with the layer, with ``tap`` and ``prompt`` where these are not the store's first, and
    where several are read in step with ``max_rows``, as of `FeatureStore.iter_layer`.
    """

    def __call__(
        self, layer: int, *, tap: str = ..., prompt: str = ..., max_rows: int = ...
    ) -> Iterable[np.ndarray]:
        """Read the layer."""


class Keywords(TypedDict, total=False):
    """What tells the states of a layer from a store's first."""

    tap: str
    prompt: str


class ReadKeywords(Keywords, total=False):
    """And how many segments are read at once."""

    max_rows: int


@dataclass(frozen=True, order=True)
class Input:
    """One vector a segment that a scorer reads.

    Attributes
    ----------
    layer : int
    tap : str
        One of `hiprobe.store.taps.TAPS`.
    prompt : str
        The prompt's name; "" is the store's first.
    heads : tuple of int
        Of ``heads``: those that are taken, one after the other. Empty: the whole vector.
    num_heads : int
        So many the layer has; 0 where the whole vector is taken.
    """

    layer: int
    tap: str = HIDDEN_STATES
    prompt: str = ""
    heads: tuple[int, ...] = ()
    num_heads: int = 0

    @property
    def place(self) -> Input:
        """Where it is read, without the choice of heads: a key of what was read."""
        return Input(self.layer, self.tap, self.prompt) if self.heads else self

    @property
    def is_plain(self) -> bool:
        """Whether it is the paper's: the hidden state of the store's first prompt."""
        return self == Input(self.layer)

    @property
    def keywords(self) -> Keywords:
        """``tap`` and ``prompt`` for `FeatureStore.layer`; empty where it is plain."""
        return {} if self.place.is_plain else {"tap": self.tap, "prompt": self.prompt}

    def take(self, states: np.ndarray) -> np.ndarray:
        """Take the heads out of (segment, feature) states of its place.

        Raises
        ------
        HiProbeError
            The states cannot be of so many heads.
        """
        if not self.heads:
            return states
        if states.shape[1] % self.num_heads:
            raise HiProbeError(
                f"{self}: the states have {states.shape[1]} features, expected those of "
                f"{self.num_heads} heads. Train a probe on a store of this model."
            )
        by_head = states.reshape(len(states), self.num_heads, -1)
        return by_head[:, list(self.heads)].reshape(len(states), -1)

    def __str__(self) -> str:
        """Say what it is, for messages."""
        heads = f" (heads {', '.join(map(str, self.heads))})" if self.heads else ""
        prompt = f" of prompt {self.prompt!r}" if self.prompt else ""
        return f"{self.tap} of layer {self.layer}{heads}{prompt}"

    def to_json(self) -> dict[str, Any]:
        """Its object in `probe.json`."""
        content = {"tap": self.tap, "prompt": self.prompt, "layer": self.layer}
        if self.heads:
            content |= {"heads": [*self.heads], "num_heads": self.num_heads}
        return content

    @classmethod
    def from_json(cls, content: Any, name: str) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            Something in it cannot be right.
        """
        content = fields.mapping(content, name)
        tap = fields.text(fields.member(content, "tap"), f"the tap of {name}")
        prompt = fields.text(content.get("prompt", ""), f"the prompt of {name}")
        if tap not in TAPS:
            raise ValueError(f"the tap of {name} is {tap[:60]!r}, expected {', '.join(TAPS)}")
        if prompt and not NAME.fullmatch(prompt):
            raise ValueError(f"the prompt of {name} is {prompt[:60]!r}, expected a name")
        layer = fields.whole(fields.member(content, "layer"), f"the layer of {name}", MAX_LAYERS)
        listed = fields.items(content.get("heads", []), f"heads of {name}")
        if not listed:
            return cls(layer, tap, prompt)
        number = fields.whole(fields.member(content, "num_heads"), f"num_heads of {name}")
        if not number:
            raise ValueError(f"num_heads of {name} is 0")
        heads = tuple(fields.whole(one, f"a head of {name}", number - 1) for one in listed)
        return cls(layer, tap, prompt, heads, number)


def places(inputs: Iterable[Input]) -> tuple[Input, ...]:
    """Where some inputs are read, each place once, ascending."""
    return tuple(sorted({one.place for one in inputs}))


def side_by_side(inputs: Sequence[Input], states: Mapping[Input, np.ndarray]) -> np.ndarray:
    """Put the vectors of some inputs side by side.

    Parameters
    ----------
    inputs : sequence of Input
    states : mapping of Input to (segment, feature) float
        By `Input.place`.

    Returns
    -------
    (segment, features of all) float
        As it is where there is one input.
    """
    parts = [one.take(states[one.place]) for one in inputs]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def read_places(read: ReadLayer, wanted: Sequence[Input]) -> Iterator[dict[Input, np.ndarray]]:
    """Read some places in step, some segments at a time."""
    streams = [read(one.layer, **_read_keywords(one, len(wanted))) for one in wanted]
    for parts in zip(*streams, strict=True):
        yield dict(zip(wanted, parts, strict=True))


def _read_keywords(one: Input, num_places: int) -> ReadKeywords:
    """Of many places side by side fewer segments at a time; of one, as the reader has it."""
    found: ReadKeywords = {"tap": one.tap, "prompt": one.prompt} if one.keywords else {}
    if num_places > 1:
        found["max_rows"] = max(MIN_ROWS, MAX_ROWS // num_places)
    return found


def check_inputs(
    store: FeatureStore, inputs: Iterable[Input], reader: str, videos: Sequence[str] = ()
) -> None:
    """Refuse a store that lacks something which a scorer reads.

    Parameters
    ----------
    store : FeatureStore
    inputs : iterable of Input
    reader : str
        Who reads it, for the message: a probe's path, or a method.
    videos : sequence of str
        Those that it is read of: a tap that was added may not have reached all.

    Raises
    ------
    StoreError
        It says what the store has, and which command adds what is missing.
    """
    for one in places(inputs):
        try:
            store.check_layers([one.layer], videos, **one.keywords)
        except StoreError as error:
            raise StoreError(f"{reader}: reads {one}. {error}") from None


def has_inputs(store: FeatureStore, inputs: Iterable[Input], videos: Sequence[str] = ()) -> bool:
    """Whether a store has all that a scorer reads of some videos."""
    try:
        check_inputs(store, inputs, "", videos)
    except StoreError:
        return False
    return True


def width_in(store: FeatureStore, inputs: Iterable[Input]) -> int:
    """Count the features of some inputs side by side, as a store has them."""
    width = 0
    for one in inputs:
        tap = store.tap(one.tap, one.prompt)
        share = tap.num_features // tap.num_heads if one.heads and tap.num_heads else 0
        width += share * len(one.heads) if one.heads else tap.num_features
    return width
