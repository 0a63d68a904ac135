"""`probe.json`: what the stage `probe` writes and the stage `evaluate` reads."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.special import expit

from hiprobe.store import fields
from hiprobe.store.errors import HiProbeError
from hiprobe.store.provenance import Provenance
from hiprobe.store.scorers import scorer_from_json
from hiprobe.store.single_files import read_json, write_json

PROBE_SCHEMA = "hiprobe-probe-1"
# 16,000 features and a million videos' ids have room in it.
MAX_PROBE_BYTES = 2**25
MAX_LAYERS = 10_000


@dataclass(frozen=True)
class Probe:
    """A chosen layer, a scorer and a threshold, with how they were made.

    Attributes
    ----------
    store : dict
        ``path`` and ``provenance`` of the store that it was trained on.
    layer : int
        The layer l* that the scorer reads.
    layers : dict of str to list of (float or None)
        ``kl_divergence``, ``ldr``, ``entropy``, ``saliency``, …; index = layer; None for a
        layer that is not in the store.
    scorer : dict
        ``kind``, its parameters and the settings of the fit; see `hiprobe.store.scorers`.
    threshold : dict
        ``mean``, ``std``, ``kappa``, ``value`` (eq. 10).
    training : dict
        ``video_ids``, ``fraction``, ``seed``, ``samples_per_video``, …
    """

    store: dict[str, Any]
    layer: int
    layers: dict[str, list[float | None]]
    scorer: dict[str, Any]
    threshold: dict[str, float]
    training: dict[str, Any]

    def score(self, states: np.ndarray) -> np.ndarray:
        r"""Anomaly probability of each segment, the logistic of the scorer's log odds (eq. 9).

        Parameters
        ----------
        states : (segment, feature) float32
            Hidden states of layer `layer`.

        Returns
        -------
        (segment,) float64 in [0, 1]
        """
        return expit(scorer_from_json(self.scorer).logits(states))

    @property
    def origin(self) -> Provenance:
        """How the states were made that it was trained on."""
        return Provenance.of(self.store.get("provenance", {}), self.num_features)

    @property
    def num_features(self) -> int:
        """Width of the hidden states that the scorer reads."""
        return scorer_from_json(self.scorer).num_features

    def save(self, path: str | Path) -> None:
        """Write the probe as JSON; an old one stays until the new one is whole."""
        write_json(path, {"schema": PROBE_SCHEMA, **asdict(self)})

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
        if found != PROBE_SCHEMA:
            raise HiProbeError(
                f"{path}: expected a probe with schema {PROBE_SCHEMA!r}, got {repr(found)[:60]}. "
                "Make it again with `hiprobe probe`."
            )
        try:
            return cls(**_checked(content))
        except (ValueError, HiProbeError) as error:
            what = str(error).removesuffix(": make it again.")
            raise HiProbeError(
                f"{path}: not a whole probe: {what}. Make it again with `hiprobe probe`."
            ) from error


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of a probe, each of its type; names that we do not know are left alone."""
    parts = {
        name: fields.mapping(fields.member(content, name), name)
        for name in ("store", "layers", "scorer", "threshold", "training")
    }
    fields.text(parts["store"].get("path", ""), "the store's path")
    fields.mapping(parts["store"].get("provenance", {}), "the store's provenance")
    for video_id in fields.items(fields.member(parts["training"], "video_ids"), "video_ids"):
        fields.text(video_id, "a training video's id")
    fields.member(parts["threshold"], "value")
    for name, value in parts["threshold"].items():
        fields.number(value, f"the threshold's {name}")
    scorer_from_json(parts["scorer"])  # says what is wrong with it
    return parts | {
        "layer": fields.whole(fields.member(content, "layer"), "layer", MAX_LAYERS),
        "layers": {name: _column(name, values) for name, values in parts["layers"].items()},
    }


def _column(name: str, values: Any) -> list[float | None]:
    """One figure of all layers; what is not finite is not defined."""
    if len(fields.items(values, name)) > MAX_LAYERS:
        raise ValueError(f"{name} has {len(values)} layers, expected at most {MAX_LAYERS}")
    is_number = [value is None or isinstance(value, int | float) for value in values]
    if not all(is_number):
        raise ValueError(f"{name} of layer {is_number.index(False)} is no number")
    return [None if value is None or not math.isfinite(value) else value for value in values]
