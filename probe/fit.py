"""Fitting scorers of one or several layers on the same samples, one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hiprobe.store.probe_inputs import Input
from hiprobe.store.probe_members import Member
from hiprobe.store.scorers import DEFAULT_L2, fit_scorer


@dataclass(frozen=True)
class Fit:
    """What was fitted on one set of samples.

    Attributes
    ----------
    members : tuple of Member
        One a layer, ascending.
    baseline : Member or None
        The scorer of the layer to compare with, fitted on the same samples.
    logits : (sample,) float64
        The mean of the members' log odds of all samples that were read, those it was not fitted
        on among them: with folds as `subsets`, they are held out.
    training_logits : (own sample,) float64
        Of those that it was fitted on.
    training_labels : (own sample,) bool
        Whether these are anomalous.
    """

    members: tuple[Member, ...]
    baseline: Member | None
    logits: np.ndarray
    training_logits: np.ndarray
    training_labels: np.ndarray


def fit_members(
    read: Callable[[int], np.ndarray],
    layers: Sequence[int],
    is_anomalous: np.ndarray,
    scorer: str = "logistic",
    l2: float = DEFAULT_L2,
    *,
    subsets: Sequence[np.ndarray] | None = None,
    baseline: int | None = None,
    inputs_of: Callable[[int], tuple[Input, ...]] = lambda layer: (Input(layer),),
) -> list[Fit]:
    """Fit one scorer a layer, for each subset of the samples; each layer is read once.

    Parameters
    ----------
    read : callable
        Gives a layer's (sample, feature) states, such as ``partial(samples.states, store)``, or
        ``by_layer.__getitem__`` of a mapping.
    layers : sequence of int
        Of the members.
    is_anomalous : (sample,) bool
    scorer, l2
        As of `hiprobe.store.scorers.fit_scorer`.
    subsets : sequence of (sample,) bool, optional
        Draws, or folds. Default: one, of all samples.
    baseline : int, optional
        One more layer, to compare with.
    inputs_of : callable
        Tells what the vectors are that `read` gives of a layer.

    Returns
    -------
    list of Fit
        One a subset.
    """
    layers = sorted(set(layers))
    rows = [np.ones(len(is_anomalous), dtype=bool)] if subsets is None else list(subsets)
    members: list[list[Member]] = [[] for _ in rows]
    totals = [np.zeros(len(is_anomalous)) for _ in rows]
    compared: list[Member | None] = [None for _ in rows]
    for layer in sorted({*layers, *(() if baseline is None else (baseline,))}):
        states = read(layer)
        for index, own in enumerate(rows):
            fitted = fit_scorer(scorer, states[own], is_anomalous[own], l2)
            if layer == baseline:
                compared[index] = Member.of(layer, fitted, inputs=inputs_of(layer))
            if layer in layers:
                logits = fitted.logits(states)
                # The unit of an only member does not matter, and 1 keeps its scores the paper's.
                has_unit = len(layers) == 1 or not fitted.has_fair_spread
                scale = 1.0 if has_unit else float(logits[own].std())
                members[index].append(Member.of(layer, fitted, scale or 1.0, inputs_of(layer)))
                totals[index] += logits / (scale or 1.0)
    means = [total / len(layers) for total in totals]
    return [
        Fit(tuple(own), compared[index], means[index], means[index][drawn], is_anomalous[drawn])
        for index, (own, drawn) in enumerate(zip(members, rows, strict=True))
    ]
