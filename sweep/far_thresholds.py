"""Thresholds for rates of false alarms, of each few-shot draw by its own held-out videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy.special import expit

from hiprobe.probe.fit import Fit
from hiprobe.probe.multiple_instance import fit_samples
from hiprobe.probe.out_of_fold import far_threshold, held_out_segments
from hiprobe.sweep.grid import SweepConfig
from hiprobe.sweep.prepared import Prepared


def far_thresholds(
    config: SweepConfig,
    prepared: Prepared,
    number: int,
    rates: Sequence[float],
    fit: Callable[[Sequence[np.ndarray]], list[Fit]],
) -> dict[float, float]:
    """Set one draw's thresholds as `hiprobe probe --target-far` does.

    Parameters
    ----------
    config, prepared
    number : int
        Of the draw.
    rates : sequence of float
        Of false alarms.
    fit : callable
        Fits on each of some subsets of the draw's samples, as the experiment was fitted.

    Returns
    -------
    dict of float to float
        Thresholds by rate; none are asked for: none, and nothing is read.
    """
    if not rates:
        return {}
    held_out = held_out_segments(
        prepared.train,
        prepared.few_shot[number],
        fit,
        prepared.draws[number][0].seed,
        only_top=config.mil > 0,
    )
    normal = expit(held_out.logits[held_out.of_normal_video])
    return {rate: far_threshold(normal, rate)["value"] for rate in rates}


def far_thresholds_of_layers(
    config: SweepConfig,
    prepared: Prepared,
    number: int,
    rates: Sequence[float],
    layers: Sequence[int],
    kind: str,
    l2: float,
) -> dict[float, float]:
    """Set them for an experiment that fits a scorer of some kind on each of some layers."""

    def fit(subsets: Sequence[np.ndarray]) -> list[Fit]:
        of_draw = partial(fit_samples, prepared.train, prepared.few_shot[number], layers, kind, l2)
        return of_draw(mil=config.mil, subsets=subsets, **config.place)

    return far_thresholds(config, prepared, number, rates, fit)
