"""What methods share that learn from labelled samples: fit, threshold, calibration, the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from hiprobe.probe.fit import Fit, fit_members
from hiprobe.probe.out_of_fold import (
    DEFAULT_FALSE_ALARM_RATE,
    HeldOutSegments,
    coarse_target,
    far_threshold,
    held_out_segments,
    platt,
)
from hiprobe.probe.probe_config import ProbeConfig
from hiprobe.probe.samples import Samples
from hiprobe.store import FeatureStore, Probe
from hiprobe.store.probe_inputs import Input, has_inputs
from hiprobe.store.probe_members import Member, scores_of
from hiprobe.store.scorers import DEFAULT_L2, scorer_class
from hiprobe.store.taps import FRAMES_MEAN
from hiprobe.store.train_test_overlap import files_of


class FitOn(Protocol):
    """Fits what a method has chosen on the samples, or on each of some subsets of them."""

    def __call__(self, subsets: Sequence[np.ndarray] | None = None) -> list[Fit]:
        """Give one fit a subset; without subsets one, with a baseline to compare with."""


@dataclass(frozen=True)
class Recipe:
    """What a method has found on the samples, ready to be fitted.

    Attributes
    ----------
    fit : FitOn
    layer_choice : str
        What chose the layers, for the record.
    layers : dict of str to list of (float or None)
        `Probe.layers`.
    notes : list of str
        What to keep in mind.
    record : dict
        What the method adds to `Probe.training`.
    """

    fit: FitOn
    layer_choice: str
    layers: dict[str, list[float | None]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


def trained_probe(
    config: ProbeConfig, store: FeatureStore, samples: Samples, recipe: Recipe
) -> Probe:
    """Fit, and set the threshold and the calibration.

    Raises
    ------
    HiProbeError
        Too few videos for a threshold or a calibration out of fold.
    """
    (fit,) = recipe.fit()
    far = _target_far(config, samples)
    held_out = None
    if far is not None or config.calibration:
        held_out = held_out_segments(
            store, samples, recipe.fit, config.seed, only_top=config.mil > 0
        )
    threshold, calibration = _cut(config.kappa, far, config.calibration, fit, held_out)
    notes = recipe.notes
    if held_out is not None and far is not None:
        notes = [*notes, *coarse_target(threshold["num_segments"], far)]
    trained_on: dict[str, Any] = {
        "path": str(config.store.absolute()),
        "provenance": store.provenance,
    }
    if not all(member.is_plain for member in fit.members):
        trained_on["num_features"] = store.num_features  # no scorer tells
    return Probe.of_members(
        fit.members,
        store=trained_on,
        layers=recipe.layers,
        threshold=threshold,
        training=_training(config, store, samples, fit.training_labels, notes)
        | {"layer_choice": recipe.layer_choice}
        | recipe.record,
        baseline=fit.baseline,
        calibration=calibration,
        method=config.method,
        controls=simple_controls(store, samples, config.l2),
    )


def simple_controls(
    store: FeatureStore, samples: Samples, l2: float = DEFAULT_L2
) -> dict[str, Member]:
    """Train what a result is held against, where the store has the taps.

    Returns
    -------
    dict of str to Member
        ``vision_tower``: a logistic scorer of ``frames_mean`` at layer 0. What it reaches, the
        language model has not added.
    """
    tower = Input(0, FRAMES_MEAN)
    labels = samples.is_anomalous
    if not labels.any() or not has_inputs(store, [tower], samples.video_ids):
        return {}
    read = partial(samples.states, store, **tower.keywords)
    (fit,) = fit_members(read, (0,), labels, l2=l2, inputs_of=lambda layer: (tower,))
    return {"vision_tower": fit.members[0]}


def _target_far(config: ProbeConfig, samples: Samples) -> float | None:
    """The rate of false alarms to aim at, if any.

    Normal samples alone know no other threshold: with κ = 0.2 four in ten of them pass the paper's.
    Nor do scorers that learn the normal class only: what they were fitted on is nearer than others.
    """
    has_kappa = samples.is_anomalous.any() and scorer_class(config.scorer).has_fair_spread
    if config.target_far is None and not has_kappa:
        return DEFAULT_FALSE_ALARM_RATE
    return config.target_far


def _cut(
    kappa: float,
    target_far: float | None,
    calibration: str | None,
    fit: Fit,
    held_out: HeldOutSegments | None,
) -> tuple[dict[str, Any], dict[str, float] | None]:
    """Set the threshold, and the calibration that turns log odds into probabilities."""
    fitted = None
    if held_out is not None and calibration:
        fitted = platt(held_out.logits, held_out.is_anomalous)
    if held_out is None or target_far is None:
        return calibrate(scores_of(fit.training_logits, fitted), kappa), fitted
    normal = held_out.logits[held_out.of_normal_video]
    return far_threshold(scores_of(normal, fitted), target_far), fitted


def calibrate(scores: np.ndarray, kappa: float) -> dict[str, float]:
    r"""Set the threshold by the scores of the training samples, eq. 10.

    .. math:: T = \mu + \kappa \sigma

    Parameters
    ----------
    scores : (sample,) float64 in [0, 1]
    kappa : float

    Returns
    -------
    dict
        ``mean``, ``std`` (population), ``kappa``, and T as ``value``.
    """
    mean, std = float(scores.mean()), float(scores.std())
    return {"mean": mean, "std": std, "kappa": kappa, "value": mean + kappa * std}


def _training(
    config: ProbeConfig,
    store: FeatureStore,
    samples: Samples,
    labels: np.ndarray,
    notes: list[str],
) -> dict[str, Any]:
    """The object ``training`` of `probe.json`: what was asked for, and what was drawn."""
    return {
        "video_ids": samples.video_ids,
        "files": files_of(store, samples.video_ids),
        "num_samples": len(labels),
        "num_anomalous_samples": int(labels.sum()),
        "split": config.split,
        "fraction": config.fraction if config.num_videos is None else None,
        "num_videos": len(samples.video_ids),
        "seed": config.seed,
        "labels": config.labels,
        "samples_per_video": config.samples_per_video if config.labels == "video" else None,
        "num_bins": config.num_bins,
        "mil": config.mil,
        "manifest": str(config.manifest.absolute()) if config.manifest else None,
        "warnings": [*samples.warnings, *notes],
    }
