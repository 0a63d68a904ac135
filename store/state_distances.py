"""How far states are apart: of one segment made in two ways, and of different segments."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from hiprobe.store.provenance import ModelRecord

TINY = float(np.finfo(np.float32).tiny)
# Pairs grow with the square; of so many the median tells.
MAX_CONTROL = 32
# Of `relative_l2`, by dtype. SDPA against eager attention, the same sums in another order, moved 24
# segments of the four families and of the trained demo model by up to 6e-7, 2.7e-3 and 1.5e-2. For
# quantised weights nothing was measured.
TOLERANCES = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.05}
QUANTISED_TOLERANCE = 0.1


def relative_l2(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``‖one - other‖ / ‖other‖`` along the last axis, in float64."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    norm = np.maximum(np.linalg.norm(other, axis=-1), TINY)
    distance: np.ndarray = np.linalg.norm(one - other, axis=-1) / norm
    return distance


def tolerance_of(model: ModelRecord) -> float:
    """How far a segment may be from what is stored: `relative_l2` of any layer."""
    if model.load_in not in (None, "full"):
        return QUANTISED_TOLERANCE
    return TOLERANCES.get(str(model.dtype), TOLERANCES["bfloat16"])


def distances_between(layers: Sequence[int], states: Sequence[np.ndarray]) -> dict[str, float]:
    """Per layer, the median relative L2 between two different segments.

    Parameters
    ----------
    layers : sequence of int
    states : sequence of (layer, feature) float
        One a segment; at most `MAX_CONTROL` of them are compared, each with each.

    Returns
    -------
    dict of str to float
        Empty for fewer than two segments.
    """
    pairs = [relative_l2(one, two) for one, two in permutations(states[:MAX_CONTROL], 2)]
    if not pairs:
        return {}
    medians = np.median(pairs, axis=0)
    return {str(layer): float(value) for layer, value in zip(layers, medians, strict=True)}


def indistinct_layers(differences: dict[str, float], control: dict[str, float]) -> list[str]:
    """Say in which layers a segment differs from itself over half as much as from another one."""
    # Where two segments are alike, as the embedding of the last token always is, nothing is told.
    close = {
        layer: (differences[layer], distance)
        for layer, distance in control.items()
        if distance > TINY and differences[layer] > 0.5 * distance
    }
    if not close:
        return []
    layer = max(close, key=lambda one: close[one][0] / close[one][1])
    of_itself, of_others = close[layer]
    return [
        f"in {len(close)} layers, the worst is {layer}, a segment computed again differs from "
        f"itself by {of_itself:.1e}, different segments by {of_others:.1e}: numbers of such layers "
        "are mostly rounding. Read other layers, or extract with a wider --dtype."
    ]
