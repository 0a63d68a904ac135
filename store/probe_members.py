"""One layer's part in a probe: its scorer, and how much its log odds count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.special import expit

from hiprobe.store import fields
from hiprobe.store.errors import HiProbeError
from hiprobe.store.probe_inputs import (
    MAX_LAYERS,
    Input,
    ReadLayer,
    check_inputs,
    places,
    read_places,
    side_by_side,
    width_in,
)
from hiprobe.store.scorers import scorer_from_json
from hiprobe.store.scorers.base import Scorer

if TYPE_CHECKING:
    from hiprobe.store.reader import FeatureStore


@dataclass(frozen=True)
class Member:
    """A scorer of one layer, and the unit of its log odds.

    Attributes
    ----------
    layer : int
        The layer whose hidden states it reads; the highest, where its inputs are of several.
    scale : float > 0
        The standard deviation of its log odds over the training samples: members of different
        layers then count alike. 1 for the only member of a probe.
    scorer : dict
        ``kind``, its parameters and the settings of the fit; see `hiprobe.store.scorers`.
    inputs : tuple of Input
        What it reads, side by side. Left out: the hidden state of `layer`.
    """

    layer: int
    scale: float
    scorer: dict[str, Any]
    inputs: tuple[Input, ...] = ()

    def __post_init__(self) -> None:
        """Make the input of a member that is given by its layer."""
        if not self.inputs:
            object.__setattr__(self, "inputs", (Input(self.layer),))

    @classmethod
    def of(
        cls, layer: int, scorer: Scorer, scale: float = 1.0, inputs: tuple[Input, ...] = ()
    ) -> Self:
        """Make a member of a scorer just fitted."""
        one = cls(layer, scale, scorer.to_json(), inputs)
        one.__dict__["fitted"] = scorer  # what `fitted` would read again from its own JSON
        return one

    @cached_property
    def fitted(self) -> Scorer:
        """The scorer, read once."""
        return scorer_from_json(self.scorer)

    @property
    def is_plain(self) -> bool:
        """Whether it reads one layer's hidden state of the store's first prompt."""
        return self.inputs == (Input(self.layer),)

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of (segment, feature) `inputs`, in units of `scale`: (segment,)."""
        return self.fitted.logits(states) / self.scale

    def to_json(self) -> dict[str, Any]:
        """Its object in `probe.json`."""
        content = {"layer": self.layer, "scale": self.scale, "scorer": self.scorer}
        if not self.is_plain:
            content["inputs"] = [one.to_json() for one in self.inputs]
        return content

    @classmethod
    def from_json(cls, content: Any, name: str = "a member") -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError, HiProbeError
            Something in it cannot be right.
        """
        content = fields.mapping(content, name)
        scale = fields.number(fields.member(content, "scale"), f"the scale of {name}")
        if not scale > 0:
            raise ValueError(f"the scale of {name} is {scale}, expected a number above 0")
        one = cls(
            fields.whole(fields.member(content, "layer"), f"the layer of {name}", MAX_LAYERS),
            scale,
            fields.mapping(fields.member(content, "scorer"), f"the scorer of {name}"),
            tuple(
                Input.from_json(one, f"input {i} of {name}")
                for i, one in enumerate(fields.items(content.get("inputs", []), "inputs"))
            ),
        )
        _ = one.fitted  # says what is wrong with it
        return one


def check_members(store: FeatureStore, members: Iterable[Member], reader: str) -> None:
    """Refuse a store that lacks what scorers read, or has it in another width.

    Parameters
    ----------
    store, reader
        As of `check_inputs`.
    members : iterable of Member

    Raises
    ------
    HiProbeError
        For the first of them.
    """
    for member in members:
        check_inputs(store, member.inputs, reader)
        width = width_in(store, member.inputs)
        if width != member.fitted.num_features:
            raise HiProbeError(
                f"{reader}: reads {' and '.join(map(str, member.inputs))} of "
                f"{member.fitted.num_features} features, those of {store.path} have {width}. Train "
                "a probe on a store of this model."
            )


def scores_of(logits: np.ndarray, calibration: Mapping[str, float] | None) -> np.ndarray:
    """Turn log odds into scores in [0, 1], by slope and intercept if they are calibrated."""
    if calibration is None:
        return expit(logits)
    return expit(calibration["slope"] * logits + calibration["intercept"])


def layer_list(layers: Iterable[int]) -> str:
    """Write layers as `--layers` takes them: ``0,8,16-24``."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(f"{one[0]}-{one[-1]}" if len(one) > 1 else f"{one[0]}" for one in runs)


def mean_logits(members: Sequence[Member], states: Mapping[Input, np.ndarray]) -> np.ndarray:
    """Mean of the members' log odds.

    Parameters
    ----------
    members : sequence of Member
    states : mapping of Input to (segment, feature) float
        By `Input.place`, of the same segments.

    Returns
    -------
    (segment,) float64
    """
    # Not `np.mean`: the log odds of one member come out as they are, to the last bit.
    total = sum(member.logits(side_by_side(member.inputs, states)) for member in members)
    return np.asarray(total) / len(members)


def read_logits(ensembles: Sequence[Sequence[Member]], read: ReadLayer) -> np.ndarray:
    """Mean log odds of several ensembles' members, each place read once for all of them.

    Places that some member reads together are read in step. Memory holds what `read` gives at a
    time, and the log odds.

    Parameters
    ----------
    ensembles : sequence of sequence of Member
        For example a probe's `members`, and its `baseline` alone.
    read : ReadLayer
        Of every layer the same segments.

    Returns
    -------
    (ensemble, segment) float64
    """
    totals: list[np.ndarray | float] = [0.0] * len(ensembles)
    for wanted in _read_together({places(one.inputs) for own in ensembles for one in own}):
        owns = [[one for one in own if one.inputs[0].place in wanted] for own in ensembles]
        parts: list[list[np.ndarray]] = [[] for _ in ensembles]
        for states in read_places(read, wanted):
            # Once, not by each scorer.
            wide = {place: own.astype(np.float64) for place, own in states.items()}
            for own, part in zip(owns, parts, strict=True):
                if own:
                    logits = [one.logits(side_by_side(one.inputs, wide)) for one in own]
                    part.append(np.sum(logits, axis=0))
        for index, part in enumerate(parts):
            if part:
                totals[index] = totals[index] + np.concatenate(part)
    return np.stack([total / len(one) for total, one in zip(totals, ensembles, strict=True)])


def _read_together(wanted: Iterable[tuple[Input, ...]]) -> list[tuple[Input, ...]]:
    """Join sets of places that have some in common, so that no place is read twice."""
    groups: list[set[Input]] = []
    for own in wanted:
        together = set(own).union(*(one for one in groups if not one.isdisjoint(own)))
        groups = [one for one in groups if one.isdisjoint(own)] + [together]
    return sorted(tuple(sorted(one)) for one in groups)
