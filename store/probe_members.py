"""One layer's part in a probe: its scorer, and how much its log odds count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy.special import expit

from hiprobe.store import fields
from hiprobe.store.scorers import scorer_from_json
from hiprobe.store.scorers.base import Scorer

MAX_LAYERS = 10_000


@dataclass(frozen=True)
class Member:
    """A scorer of one layer, and the unit of its log odds.

    Attributes
    ----------
    layer : int
        The layer whose hidden states it reads.
    scale : float > 0
        The standard deviation of its log odds over the training samples: members of different
        layers then count alike. 1 for the only member of a probe.
    scorer : dict
        ``kind``, its parameters and the settings of the fit; see `hiprobe.store.scorers`.
    """

    layer: int
    scale: float
    scorer: dict[str, Any]

    @classmethod
    def of(cls, layer: int, scorer: Scorer, scale: float = 1.0) -> Self:
        """Make a member of a scorer just fitted."""
        one = cls(layer, scale, scorer.to_json())
        one.__dict__["fitted"] = scorer  # what `fitted` would read again from its own JSON
        return one

    @cached_property
    def fitted(self) -> Scorer:
        """The scorer, read once."""
        return scorer_from_json(self.scorer)

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of (segment, feature) states of `layer`, in units of `scale`: (segment,)."""
        return self.fitted.logits(states) / self.scale

    def to_json(self) -> dict[str, Any]:
        """Its object in `probe.json`."""
        return {"layer": self.layer, "scale": self.scale, "scorer": self.scorer}

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
        )
        _ = one.fitted  # says what is wrong with it
        return one


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


def mean_logits(members: Sequence[Member], states: Mapping[int, np.ndarray]) -> np.ndarray:
    """Mean of the members' log odds.

    Parameters
    ----------
    members : sequence of Member
    states : mapping of int to (segment, feature) float
        Hidden states of the members' layers, of the same segments.

    Returns
    -------
    (segment,) float64
    """
    # Not `np.mean`: the log odds of one member come out as they are, to the last bit.
    total = sum(member.logits(states[member.layer]) for member in members)
    return np.asarray(total) / len(members)


def read_logits(
    ensembles: Sequence[Sequence[Member]], read: Callable[[int], Iterable[np.ndarray]]
) -> np.ndarray:
    """Mean log odds of several ensembles' members, each layer read once.

    Memory holds what `read` gives at a time, and the log odds.

    Parameters
    ----------
    ensembles : sequence of sequence of Member
        For example a probe's `members`, and its `baseline` alone.
    read : callable
        Gives a layer's (segment, feature) states, some segments at a time, of every layer the
        same segments.

    Returns
    -------
    (ensemble, segment) float64
    """
    totals: list[np.ndarray | float] = [0.0] * len(ensembles)
    for layer in sorted({member.layer for members in ensembles for member in members}):
        owns = [[one for one in members if one.layer == layer] for members in ensembles]
        parts: list[list[np.ndarray]] = [[] for _ in ensembles]
        for states in read(layer):
            wide = states.astype(np.float64)  # once, not by each scorer
            for own, part in zip(owns, parts, strict=True):
                if own:
                    part.append(sum(member.logits(wide) for member in own))
        for index, part in enumerate(parts):
            if part:
                totals[index] = totals[index] + np.concatenate(part)
    return np.stack([total / len(one) for total, one in zip(totals, ensembles, strict=True)])
