"""`probe.json`: what the stage `probe` writes and the stage `evaluate` reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from hiprobe.store import fields
from hiprobe.store.errors import HiProbeError
from hiprobe.store.probe_draws import Draw
from hiprobe.store.probe_inputs import MAX_LAYERS, Input, places
from hiprobe.store.probe_members import Member, mean_logits, scores_of
from hiprobe.store.provenance import Provenance
from hiprobe.store.scorers import scorer_from_json
from hiprobe.store.single_files import read_json, write_json

# The first schemas are all that an older hiprobe knows: each is written as long as those who know
# no later one would score right by it. The third has inputs that are not a layer's hidden state.
PROBE_SCHEMA = "hiprobe-probe-1"
PROBE_SCHEMA_2 = "hiprobe-probe-2"
PROBE_SCHEMA_3 = "hiprobe-probe-3"
SCHEMAS = (PROBE_SCHEMA, PROBE_SCHEMA_2, PROBE_SCHEMA_3)
DEFAULT_METHOD = "hiprobe"
FIRST_SCORERS = ("logistic", "svm", "distance")
# A number takes 25 bytes: all 81 layers of 8,192 features have room in it eight times.
MAX_PROBE_BYTES = 2**27


States = Mapping[Input, np.ndarray] | Mapping[int, np.ndarray] | np.ndarray


@dataclass(frozen=True)
class Probe:
    """Chosen layers, a scorer of each and a threshold, with how they were made.

    Attributes
    ----------
    store : dict
        ``path`` and ``provenance`` of the store that it was trained on; its ``num_features``
        where something else than hidden states is read.
    layer : int or None
        The layer l* that the scorer reads; None where several are read.
    layers : dict of str to list of (float or None)
        ``kl_divergence``, ``ldr``, ``entropy``, ``saliency``, …; index = layer; None for a
        layer that is not in the store.
    scorer : dict
        ``kind``, its parameters and the settings of the fit; see `hiprobe.store.scorers`. Empty
        where several layers are read: `members` has theirs.
    threshold : dict
        ``value``, and how it came about: ``mean``, ``std``, ``kappa`` (eq. 10), and ``kind``
        where it is another one.
    training : dict
        ``video_ids``, ``fraction``, ``seed``, ``samples_per_video``, …
    members : tuple of Member
        One a layer that is read. Left out: the one of `layer` and `scorer`.
    baseline : Member or None
        The last layer's scorer, trained on the same samples, to hold a result against.
    calibration : dict or None
        ``slope`` and ``intercept`` of the log odds, fitted out of fold (Platt). None: the scores
        are no probabilities.
    draws : tuple of Draw
        The same recipe on further few-shot draws (``probe --repeats``).
    method : str
        How it was made; what it scores follows from `members` alone.
    controls : dict of str to Member
        Simpler scorers, trained on the same samples, to hold a result against.
    """

    store: dict[str, Any]
    layer: int | None
    layers: dict[str, list[float | None]]
    scorer: dict[str, Any]
    threshold: dict[str, Any]
    training: dict[str, Any]
    members: tuple[Member, ...] = ()
    baseline: Member | None = None
    calibration: dict[str, float] | None = None
    draws: tuple[Draw, ...] = ()
    method: str = DEFAULT_METHOD
    controls: dict[str, Member] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the member of a probe that is given by its one layer and scorer."""
        if not self.members:
            assert self.layer is not None, "a probe needs a layer, or members"
            object.__setattr__(self, "members", (Member(self.layer, 1.0, self.scorer),))

    @classmethod
    def of_members(cls, members: tuple[Member, ...], **parts: Any) -> Self:
        """Make a probe of its members; `layer` and `scorer` are those of the only one, if it is."""
        only = members[0] if len(members) == 1 else None
        layer, scorer = (only.layer, only.scorer) if only else (None, {})
        return cls(layer=layer, scorer=scorer, members=members, **parts)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Where the vectors are taken that are needed for a score: tap, prompt and layer, once."""
        return places(one for member in self.members for one in member.inputs)

    @property
    def inputs_of_all_draws(self) -> tuple[Input, ...]:
        """`inputs`, with those of the further draws: an evaluation needs them all."""
        members = [*self.members, *(one for draw in self.draws for one in draw.members)]
        return places(one for member in members for one in member.inputs)

    @property
    def layers_read(self) -> tuple[int, ...]:
        """The layers that are needed for a score, of whatever tap, ascending."""
        return tuple(sorted({one.layer for one in self.inputs}))

    @property
    def layers_of_all_draws(self) -> tuple[int, ...]:
        """`layers_read`, with those of the further draws: an evaluation needs them all."""
        return tuple(sorted({one.layer for one in self.inputs_of_all_draws}))

    def logits(self, states: States) -> np.ndarray:
        """Log odds of each segment: the mean over members, each in its own standard deviations.

        Parameters
        ----------
        states : mapping of Input, or int, to (segment, feature) float32
            By place, of `inputs` at least; a number is the layer of a hidden state. Where one
            place is read, they may be given without it.

        Returns
        -------
        (segment,) float64
        """
        if not isinstance(states, Mapping):
            (place,) = self.inputs
            states = {place: states}
        by_place = {Input(key) if isinstance(key, int) else key: own for key, own in states.items()}
        return mean_logits(self.members, by_place)

    def score(self, states: States) -> np.ndarray:
        """Score segments, the logistic of their log odds (eq. 9); `states` are those of `logits`.

        Returns
        -------
        (segment,) float64 in [0, 1]
        """
        return self.scores_of(self.logits(states))

    def scores_of(self, logits: np.ndarray) -> np.ndarray:
        """Turn log odds into scores in [0, 1], by the calibration if there is one."""
        return scores_of(logits, self.calibration)

    @property
    def origin(self) -> Provenance:
        """How the states were made that it was trained on."""
        return Provenance.of(self.store.get("provenance", {}), self.num_features)

    @property
    def num_features(self) -> int | None:
        """Width of the model's hidden states; None where they are not read and it is not known."""
        for member in self.members:
            if member.is_plain:
                return member.fitted.num_features
        return self.store.get("num_features")

    def save(self, path: str | Path) -> None:
        """Write the probe as JSON; an old one stays until the new one is whole."""
        write_json(path, self._to_json())

    def _to_json(self) -> dict[str, Any]:
        """The content of the file, in the first schema where that says it all."""
        schema = self._schema()
        content: dict[str, Any] = {"schema": schema}
        if self.method != DEFAULT_METHOD:
            content["method"] = self.method
        content |= {"store": self.store, "layer": self.layer, "layers": self.layers}
        if schema == PROBE_SCHEMA:
            content["scorer"] = self.scorer
        else:
            content["members"] = [member.to_json() for member in self.members]
        content |= {"threshold": self.threshold, "training": self.training}
        if self.baseline is not None:
            content["baseline"] = self.baseline.to_json()
        if self.calibration is not None:
            content["calibration"] = self.calibration
        if self.draws:
            content["draws"] = [draw.to_json() for draw in self.draws]
        if self.controls:
            content["controls"] = {name: one.to_json() for name, one in self.controls.items()}
        return content

    def _schema(self) -> str:
        """The first schema by which a hiprobe that knows no later one would score right."""
        listed = [self.baseline, *self.members, *(one for own in self.draws for one in own.members)]
        if not all(member.is_plain for member in listed if member is not None):
            return PROBE_SCHEMA_3
        is_first = (
            self.layer is not None
            and self.members == (Member(self.layer, 1.0, self.scorer),)
            and self.scorer.get("kind") in FIRST_SCORERS
            and self.calibration is None
            and "kind" not in self.threshold
        )
        return PROBE_SCHEMA if is_first else PROBE_SCHEMA_2

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a probe.

        Raises
        ------
        HiProbeError
            The file is missing, is no probe of this schema, or something in it cannot be right.
        """
        path = Path(path)
        try:
            content = read_json(path, MAX_PROBE_BYTES)
        except FileNotFoundError:
            raise HiProbeError(
                f"{path}: no such probe. Make one with `hiprobe probe STORE {path}`."
            ) from None
        except (OSError, ValueError) as error:
            raise HiProbeError(f"{path}: cannot read it as a probe: {error}") from error
        found = content.get("schema") if isinstance(content, dict) else None
        if found not in SCHEMAS:
            raise HiProbeError(
                f"{path}: expected a probe with schema {' or '.join(map(repr, SCHEMAS))}, "
                f"got {repr(found)[:60]}. Make it again with `hiprobe probe`."
            )
        try:
            return cls.of_members(**_checked(content))
        except (ValueError, HiProbeError) as error:
            what = str(error).removesuffix(": make it again.")
            raise HiProbeError(
                f"{path}: not a whole probe: {what}. Make it again with `hiprobe probe`."
            ) from error


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of a probe, each of its type; names that we do not know are left alone."""
    parts: dict[str, Any] = {
        name: fields.mapping(fields.member(content, name), name)
        for name in ("store", "layers", "threshold", "training")
    }
    fields.text(parts["store"].get("path", ""), "the store's path")
    fields.mapping(parts["store"].get("provenance", {}), "the store's provenance")
    for video_id in fields.items(fields.member(parts["training"], "video_ids"), "video_ids"):
        fields.text(video_id, "a training video's id")
    fields.member(parts["threshold"], "value")
    for name, value in parts["threshold"].items():
        check = fields.text if name == "kind" else fields.number
        check(value, f"the threshold's {name}")
    parts["method"] = fields.text(content.get("method", DEFAULT_METHOD), "method")
    if "num_features" in parts["store"]:
        fields.whole(parts["store"]["num_features"], "the store's num_features")
    controls = fields.mapping(content.get("controls", {}), "controls")
    parts["controls"] = {
        name: Member.from_json(one, f"control {name[:60]!r}") for name, one in controls.items()
    }
    parts["layers"] = {name: _column(name, values) for name, values in parts["layers"].items()}
    parts["baseline"] = _optional(content, "baseline", Member.from_json)
    parts["calibration"] = _optional(content, "calibration", _calibration)
    listed = fields.items(content.get("draws", []), "draws")
    parts["draws"] = tuple(
        Draw.from_json(one, f"draw {i}", _calibration) for i, one in enumerate(listed, start=2)
    )
    members, baseline = _members(content), parts["baseline"]
    others = [member for draw in parts["draws"] for member in draw.members]
    _check_widths(*members, *others, *([baseline] if baseline else []))
    return parts | {"members": members}


def _members(content: dict[str, Any]) -> tuple[Member, ...]:
    """Take what scores; in the first schema it is the layer and its scorer."""
    if content["schema"] == PROBE_SCHEMA:
        layer = fields.whole(fields.member(content, "layer"), "layer", MAX_LAYERS)
        scorer = fields.mapping(fields.member(content, "scorer"), "scorer")
        scorer_from_json(scorer)  # says what is wrong with it
        return (Member(layer, 1.0, scorer),)
    listed = fields.items(fields.member(content, "members"), "members")
    if not listed:
        raise ValueError("members is empty")
    return tuple(Member.from_json(one, f"member {i}") for i, one in enumerate(listed))


def _check_widths(*members: Member) -> None:
    """Refuse scorers of hidden states of different widths: they are of different models."""
    widths = sorted({member.fitted.num_features for member in members if member.is_plain})
    if len(widths) > 1:
        found = " and ".join(map(str, widths))
        raise ValueError(f"its scorers read states of {found} features, expected one width")


def _optional(content: dict[str, Any], name: str, read: Callable[[Any, str], Any]) -> Any:
    """Read an object that need not be there."""
    value = content.get(name)
    return None if value is None else read(value, name)


def _calibration(content: Any, name: str) -> dict[str, float]:
    """Slope and intercept; scores have to rise with the log odds."""
    content = fields.mapping(content, name)
    slope, intercept = (
        fields.number(fields.member(content, part), f"the calibration's {part}")
        for part in ("slope", "intercept")
    )
    if not slope > 0:
        raise ValueError(f"the calibration's slope is {slope}, expected a number above 0")
    return {"slope": slope, "intercept": intercept}


def _column(name: str, values: Any) -> list[float | None]:
    """One figure of all layers; what is not finite is not defined."""
    if len(fields.items(values, name)) > MAX_LAYERS:
        raise ValueError(f"{name} has {len(values)} layers, expected at most {MAX_LAYERS}")
    is_number = [value is None or isinstance(value, int | float) for value in values]
    if not all(is_number):
        raise ValueError(f"{name} of layer {is_number.index(False)} is no number")
    return [None if value is None or not math.isfinite(value) else value for value in values]
