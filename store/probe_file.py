"""`probe.json`: what the stage `probe` writes and the stage `evaluate` reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.special import expit

from hiprobe.store.errors import HiProbeError
from hiprobe.store.provenance import Provenance
from hiprobe.store.scorers import scorer_from_json

PROBE_SCHEMA = "hiprobe-probe-1"


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
        """Write the probe as JSON."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"schema": PROBE_SCHEMA, **asdict(self)}, indent=1, ensure_ascii=False),
            encoding="utf-8",
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a probe.

        Raises
        ------
        HiProbeError
            The file is missing or is no probe of this schema.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise HiProbeError(
                f"{path}: no such probe. Make one with `hiprobe probe STORE {path}`."
            ) from None
        except (OSError, ValueError) as error:
            raise HiProbeError(f"{path}: cannot read it as a probe: {error}") from error
        found = content.pop("schema", None) if isinstance(content, dict) else None
        if found != PROBE_SCHEMA:
            raise HiProbeError(
                f"{path}: expected a probe with schema {PROBE_SCHEMA!r}, got {found!r}. "
                "Make it again with `hiprobe probe`."
            )
        try:
            return cls(**content)
        except TypeError as error:
            raise HiProbeError(f"{path}: not a whole probe: {error}") from error
