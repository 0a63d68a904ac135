"""Fitted scorers on the test videos: scored in one read of each layer, and measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.evaluate.test_set import TestSet
from hiprobe.probe.fit import Fit
from hiprobe.probe.pipeline import calibrate
from hiprobe.store.probe_members import read_logits
from hiprobe.sweep.grid import SweepConfig
from hiprobe.sweep.kept_scores import KeptScores

# A rule's figures of one layer: [scorer][draw][figure]; JSON, for a sweep that is interrupted.
RuleFigures = dict[str, list[list[list[float]]]]


@dataclass(frozen=True)
class Experiment:
    """What was fitted on one draw.

    Attributes
    ----------
    settings : dict
        The columns of the table that tell what.
    fit : Fit
    far_thresholds : dict of float to float
        By the rate of false alarms that they are set for.
    """

    settings: dict[str, Any]
    fit: Fit
    far_thresholds: dict[float, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a task has found.

    Attributes
    ----------
    table : DataFrame
        One row an experiment and threshold.
    kept : KeptScores or None
        The experiments' scores, where they are kept; ``scores_row`` of the table says which.
    figures : RuleFigures
        What rules choose this layer by.
    """

    table: pd.DataFrame
    kept: KeptScores | None = None
    figures: RuleFigures = field(default_factory=dict)


def measured(config: SweepConfig, test: TestSet, experiments: Sequence[Experiment]) -> Found:
    """Score the test videos with all experiments, and measure each."""
    rows, smoothed = [], []
    logits = read_logits([one.fit.members for one in experiments], test.states)
    for number, (one, own) in enumerate(zip(experiments, logits, strict=True)):
        scored = test.score(expit(own), config.sigma)
        where = {"scores_row": number} if config.keep_scores else {}
        rows += [one.settings | row | where for row in _rows(scored, one, config)]
        smoothed += [scored.smoothed] if config.keep_scores else []
    kept = KeptScores.of(np.stack(smoothed), test.segments) if smoothed else None
    return Found(pd.DataFrame(rows), kept)


def _rows(
    scored: ScoredSegments, one: Experiment, config: SweepConfig
) -> Iterator[dict[str, float | None]]:
    """Measure the scores once, and for each threshold what depends on it; fixed ones have no κ."""
    # Areas of a continuous score know no threshold; they cost most, and are measured once.
    of_any_threshold = variant_areas(scored, "smoothed", "") | variant_areas(scored, "raw", "raw_")
    of_any_threshold["auc_se"] = scored.ranking(scored.smoothed).auc_standard_error()
    scores = expit(one.fit.training_logits)
    cuts = [(kappa, np.nan, calibrate(scores, kappa)["value"]) for kappa in config.kappas]
    cuts += [(np.nan, np.nan, fixed) for fixed in config.thresholds]
    cuts += [(np.nan, rate, value) for rate, value in one.far_thresholds.items()]
    for kappa, target_far, threshold in cuts:
        cut = replace(scored, threshold=threshold)
        yield {
            "kappa": kappa,
            "target_far": target_far,
            **of_any_threshold,
            "threshold": threshold,
            **variant_areas(cut, "localized", "localized_"),
            **variant_areas(cut, "binary", "binary_"),
            "f1": cut.f1,
            "false_alarm_rate": cut.false_alarm_rate,
        }


def variant_areas(scored: ScoredSegments, variant: str, prefix: str) -> dict[str, float | None]:
    """AUC and AP of one variant of the scores, as columns of the table."""
    areas = scored.areas(scored.variants[variant])
    return {f"{prefix}{name}": areas[name] for name in ("auc", "ap")}
