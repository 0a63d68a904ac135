"""Thresholds for rates of false alarms, of each few-shot draw by its own held-out videos."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from scipy.special import expit

from hiprobe.probe.multiple_instance import fit_samples
from hiprobe.probe.out_of_fold import far_threshold, held_out_segments
from hiprobe.sweep.grid import SweepConfig
from hiprobe.sweep.prepared import Prepared


def far_thresholds(
    config: SweepConfig,
    prepared: Prepared,
    number: int,
    layers: Sequence[int],
    kind: str,
    l2: float,
) -> dict[float, float]:
    """Set one draw's thresholds as `hiprobe probe --target-far` does.

    Parameters
    ----------
    config, prepared
    number : int
        Of the draw.
    layers : sequence of int
        That the experiment reads.
    kind, l2
        Its scorer.

    Returns
    -------
    dict of float to float
        Thresholds by rate; none are asked for: none, and nothing is read.
    """
    if not config.target_fars:
        return {}
    samples = prepared.few_shot[number]
    fit = partial(
        fit_samples, prepared.train, samples, layers, kind, l2, mil=config.mil, **config.place
    )
    held_out = held_out_segments(
        prepared.train,
        samples,
        lambda subsets: fit(subsets=subsets),
        prepared.draws[number][0].seed,
        only_top=config.mil > 0,
    )
    normal = expit(held_out.logits[held_out.of_normal_video])
    return {rate: far_threshold(normal, rate)["value"] for rate in config.target_fars}
