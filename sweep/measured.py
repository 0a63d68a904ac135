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
from hiprobe.sweep.grid import SweepConfig
from hiprobe.sweep.kept_scores import KeptScores

# A rule's figures of one layer: [scorer][draw][figure]; JSON, for a sweep that is interrupted.
RuleFigures = dict[str, list[list[list[float]]]]


@dataclass(frozen=True)
class Experiment:
    """What was fitted on one draw, with the columns of the table that tell so."""

    settings: dict[str, Any]
    fit: Fit


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
    for number, (one, logits) in enumerate(
        zip(experiments, _score_all(test, experiments), strict=True)
    ):
        scored = test.score(expit(logits), config.sigma)
        where = {"scores_row": number} if config.keep_scores else {}
        scores = expit(one.fit.training_logits)
        rows += [one.settings | row | where for row in _rows(scored, scores, config)]
        smoothed += [scored.smoothed] if config.keep_scores else []
    kept = KeptScores.of(np.stack(smoothed), test.segments) if smoothed else None
    return Found(pd.DataFrame(rows), kept)


def _score_all(test: TestSet, experiments: Sequence[Experiment]) -> np.ndarray:
    """Log odds of all test segments, each layer read once: (experiment, row) float64."""
    members = [(i, member) for i, one in enumerate(experiments) for member in one.fit.members]
    totals = np.zeros((len(experiments), len(test.is_evaluated)))
    for layer in sorted({member.layer for _, member in members}):
        own = [(i, member) for i, member in members if member.layer == layer]
        first = 0
        for states in test.states(layer):
            wide = states.astype(np.float64)  # once, not by each scorer
            for i, member in own:
                totals[i, first : first + len(wide)] += member.logits(wide)
            first += len(wide)
    return totals / np.array([[len(one.fit.members)] for one in experiments])


def _rows(
    scored: ScoredSegments, training_scores: np.ndarray, config: SweepConfig
) -> Iterator[dict[str, float | None]]:
    """Measure the scores once, and for each threshold what depends on it; fixed ones have no κ."""
    # Areas of a continuous score know no threshold; they cost most, and are measured once.
    of_any_threshold = _areas(scored, "smoothed", "") | _areas(scored, "raw", "raw_")
    adaptive = [(kappa, calibrate(training_scores, kappa)["value"]) for kappa in config.kappas]
    for kappa, threshold in [*adaptive, *((np.nan, fixed) for fixed in config.thresholds)]:
        cut = replace(scored, threshold=threshold)
        yield {
            "kappa": kappa,
            **of_any_threshold,
            "threshold": threshold,
            **_areas(cut, "localized", "localized_"),
            **_areas(cut, "binary", "binary_"),
            "f1": cut.f1,
            "false_alarm_rate": cut.false_alarm_rate,
        }


def _areas(scored: ScoredSegments, variant: str, prefix: str) -> dict[str, float | None]:
    """AUC and AP of one variant of the scores, as columns of the table."""
    areas = scored.areas(scored.variants[variant])
    return {f"{prefix}{name}": areas[name] for name in ("auc", "ap")}
