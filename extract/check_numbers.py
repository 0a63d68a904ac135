"""Whether the model's states are the right ones: the comparisons of `hiprobe check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Self

import numpy as np

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.batch_size import BatchSize, launch_of_any_size
from hiprobe.extract.check_inputs import Sample
from hiprobe.store.state_distances import TINY, distances_between, relative_l2
from hiprobe.store.taps import HIDDEN_STATES

PASSED, FAILED, SKIPPED = "passed", "FAILED", "skipped"


@dataclass(frozen=True)
class Finding:
    """What one step has found.

    Attributes
    ----------
    name : str
        What should be true.
    status : {'passed', 'FAILED', 'skipped'}
    text : str
        The figures, or why it could not be told.
    """

    name: str
    status: str
    text: str


@dataclass(frozen=True)
class Agreement:
    """The same segments' states, made in two ways.

    Attributes
    ----------
    relative_l2 : dict of str to float
        Per layer, the greatest of all segments.
    between_segments : dict of str to float
        The control: per layer, the median distance between two different segments.
    tolerance : float or None
        None: half of the layers have to be nearer than the control.
    """

    relative_l2: dict[str, float]
    between_segments: dict[str, float]
    tolerance: float | None

    @classmethod
    def of(
        cls,
        layers: Sequence[int],
        states: np.ndarray,
        reference: np.ndarray,
        tolerance: float | None,
    ) -> Self:
        """Compare (layer, segment, feature) with (layer, segment, feature)."""
        greatest = relative_l2(states, reference).max(axis=1)
        differences = {str(one): float(value) for one, value in zip(layers, greatest, strict=True)}
        control = distances_between(layers, list(reference.swapaxes(0, 1)))
        return cls(differences, control, tolerance)

    def finding(self, name: str) -> Finding:
        """Say whether they agree."""
        worst = max(self.relative_l2, key=self.relative_l2.__getitem__)
        text = self._distance(worst)
        if self.tolerance is not None:
            # Written so that nan, of which every comparison is false, fails.
            agrees = all(value <= self.tolerance for value in self.relative_l2.values())
            return Finding(
                name, PASSED if agrees else FAILED, f"{text}; tolerance {self.tolerance:.0e}"
            )
        telling = [one for one, distance in self.between_segments.items() if distance > TINY]
        if not telling:
            return Finding(name, SKIPPED, f"{text}; there is nothing to hold this against")
        near = [one for one in telling if self.relative_l2[one] < self.between_segments[one]]
        status = PASSED if 2 * len(near) >= len(telling) else FAILED
        least = max(telling, key=lambda one: self.relative_l2[one] / self.between_segments[one])
        text += f"; nearer than different segments in {len(near)} of {len(telling)} layers"
        if least != worst:
            text += f"; closest to them {self._distance(least)}"
        return Finding(name, status, text)

    def _distance(self, layer: str) -> str:
        """Say how far they are apart in a layer, beside the control."""
        distance, control = self.relative_l2[layer], self.between_segments.get(layer, 0.0)
        if not any(self.relative_l2.values()):
            return f"identical in all {len(self.relative_l2)} layers"
        beside = f", different segments {control:.1e}" if control > TINY else ""
        return f"{distance:.1e} in layer {layer} (relative L2{beside})"


def states_of(backbone: Backbone, samples: Sequence[Sample], *, together: bool) -> np.ndarray:
    """States of all samples' segments, a video's as one batch or each alone.

    Returns
    -------
    (layer, segment, feature) float32
    """
    parts = []
    for sample in samples:
        step = len(sample.segments) if together else 1
        for start in range(0, len(sample.segments), step):
            batch = sample.segments[start : start + step]
            inputs, size = backbone.prepare(batch, sample.info.fps), len(batch)
            limit = BatchSize(size, backbone.device)
            states = launch_of_any_size(backbone, inputs, size, limit)()
            parts.append(states[HIDDEN_STATES])
    return np.concatenate(parts, axis=1)


def count_non_finite(layers: Sequence[int], states: np.ndarray) -> dict[str, int]:
    """Count what is not finite in each layer of (layer, segment, feature) states."""
    counts = (~np.isfinite(states)).sum(axis=(1, 2))
    return {str(layer): int(count) for layer, count in zip(layers, counts, strict=True)}


def finite_finding(counts: dict[str, int], num_values: int) -> Finding:
    """Say which layers have values that are not finite."""
    bad = {layer: count for layer, count in counts.items() if count}
    name = "all states are finite"
    if not bad:
        return Finding(name, PASSED, f"{num_values:,} values, {len(counts)} layers")
    said = ", ".join(f"{count:,} in layer {layer}" for layer, count in bad.items())
    return Finding(name, FAILED, f"{said}, of {num_values:,}: try --dtype bfloat16 or float32")


def sentencepiece_finding(tokenizer: Any, prompt: str) -> Finding | None:
    """Compare the prompt's tokens with the library sentencepiece's; None where it has no part."""
    file = str(getattr(tokenizer, "vocab_file", None) or "")
    if not file.endswith("tokenizer.model") or find_spec("sentencepiece") is None:
        return None
    import sentencepiece

    expected = sentencepiece.SentencePieceProcessor(model_file=file).encode(prompt)
    got = tokenizer.encode(prompt, add_special_tokens=False)
    text = f"{len(expected)} tokens of the prompt" if got == expected else (
        f"the prompt is {got}, sentencepiece has {expected}")  # fmt: skip
    name = "tokens are sentencepiece's"
    return Finding(name, PASSED if got == expected else FAILED, text)
