"""The thresholds that experiments are cut at: by κ, fixed ones, and for rates of false alarms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.special import expit

from hiprobe.probe.answers import EVEN_ODDS
from hiprobe.probe.out_of_fold import DEFAULT_FALSE_ALARM_RATE
from hiprobe.probe.pipeline import UNTRAINED, calibrate
from hiprobe.store.probe_file import DEFAULT_METHOD
from hiprobe.store.scorers import scorer_class
from hiprobe.sweep.grid import SweepConfig


@dataclass(frozen=True)
class Cuts:
    """What thresholds are set by.

    Attributes
    ----------
    kappas, thresholds, target_fars : tuple of float
        Each is a row of the table.
    """

    kappas: tuple[float, ...]
    thresholds: tuple[float, ...]
    target_fars: tuple[float, ...]

    @classmethod
    def of(cls, config: SweepConfig, method: str, kind: str) -> Self:
        """Those that are asked for; of methods other than the paper's, as ``hiprobe probe`` can.

        It sets none by κ where nothing was learned, or where the scores of what was learned from
        say nothing of others: there by even odds, and by a rate of false alarms.
        """
        fixed, rates = config.thresholds, config.target_fars
        if method in UNTRAINED:
            return cls((), tuple(dict.fromkeys((EVEN_ODDS["value"], *fixed))), ())
        if method == DEFAULT_METHOD or scorer_class(kind).has_fair_spread:
            return cls(config.kappas, fixed, rates)
        return cls((), fixed, rates or (DEFAULT_FALSE_ALARM_RATE,))

    def planned(self) -> Iterator[dict[str, float]]:
        """The columns that tell the rows apart, without results."""
        for kappa in self.kappas:
            yield {"kappa": kappa, "threshold": np.nan}
        for threshold in self.thresholds:
            yield {"kappa": np.nan, "threshold": threshold}
        for rate in self.target_fars:
            yield {"kappa": np.nan, "threshold": np.nan, "target_far": rate}

    def at(
        self, training_logits: np.ndarray, of_rates: Mapping[float, float]
    ) -> list[dict[str, Any]]:
        """Set the thresholds.

        Parameters
        ----------
        training_logits : (sample,) float64
            Of the samples that were fitted on.
        of_rates : mapping of float to float
            Thresholds by the rate of false alarms that they are set for.
        """
        scores = expit(training_logits)
        found = [(kappa, np.nan, calibrate(scores, kappa)["value"]) for kappa in self.kappas]
        found += [(np.nan, np.nan, fixed) for fixed in self.thresholds]
        found += [(np.nan, rate, of_rates[rate]) for rate in self.target_fars]
        names = ("kappa", "target_far", "threshold")
        return [dict(zip(names, values, strict=True)) for values in found]
