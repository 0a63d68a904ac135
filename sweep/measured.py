"""Fitted scorers on the test videos: scored in one read of each layer, and measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.evaluate.test_set import TestSet
from hiprobe.store.probe_members import Member, read_logits
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
    members : tuple of Member
        What scores.
    cuts : list of dict
        The columns ``kappa``, ``target_far`` and ``threshold`` of its rows, of `Cuts.at`.
    """

    settings: dict[str, Any]
    members: tuple[Member, ...]
    cuts: list[dict[str, Any]]


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
    logits = read_logits([one.members for one in experiments], test.states)
    for number, (one, own) in enumerate(zip(experiments, logits, strict=True)):
        scored = test.score(expit(own), config.sigma)
        where = {"scores_row": number} if config.keep_scores else {}
        rows += [one.settings | row | where for row in _rows(scored, one.cuts)]
        smoothed += [scored.smoothed] if config.keep_scores else []
    kept = KeptScores.of(np.stack(smoothed), test.segments) if smoothed else None
    return Found(pd.DataFrame(rows), kept)


def _rows(
    scored: ScoredSegments, cuts: Sequence[Mapping[str, float]]
) -> Iterator[dict[str, float | None]]:
    """Measure the scores once, and for each threshold what depends on it."""
    # Areas of a continuous score know no threshold; they cost most, and are measured once.
    of_any_threshold = variant_areas(scored, "smoothed", "") | variant_areas(scored, "raw", "raw_")
    of_any_threshold["auc_se"] = scored.ranking(scored.smoothed).auc_standard_error()
    for one in cuts:
        cut = replace(scored, threshold=one["threshold"])
        yield {
            "kappa": one["kappa"],
            "target_far": one["target_far"],
            **of_any_threshold,
            "threshold": one["threshold"],
            **variant_areas(cut, "localized", "localized_"),
            **variant_areas(cut, "binary", "binary_"),
            "f1": cut.f1,
            "false_alarm_rate": cut.false_alarm_rate,
        }


def variant_areas(scored: ScoredSegments, variant: str, prefix: str) -> dict[str, float | None]:
    """AUC and AP of one variant of the scores, as columns of the table."""
    areas = scored.areas(scored.variants[variant])
    return {f"{prefix}{name}": areas[name] for name in ("auc", "ap")}
