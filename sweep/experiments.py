"""All experiments on one layer, from one read of the training states and one of the test states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np

from hiprobe.probe.fit import Fit, fit_members
from hiprobe.probe.multiple_instance import fit_samples
from hiprobe.probe.saliency import LayerStatistics
from hiprobe.sweep.cuts import Cuts
from hiprobe.sweep.far_thresholds import far_thresholds_of_layers
from hiprobe.sweep.grid import SweepConfig, Task
from hiprobe.sweep.measured import Experiment, Found, measured
from hiprobe.sweep.prepared import Prepared
from hiprobe.sweep.rule_experiments import measure_rules, statistics_of_draws


def run_task(config: SweepConfig, task: Task, prepared: Prepared) -> Found:
    """Run all experiments on one layer, and measure what rules choose layers by."""
    assert task.layer is not None, "a task of rules is run by `run_rules`"
    states = prepared.samples.states(prepared.train, task.layer, **config.place)
    known = statistics_of_draws(prepared, states)
    experiments = list(_fit(config, task, prepared, states, known))
    found = measured(config, prepared.test, experiments)
    if not task.layer:  # the prompt's last embedding is the same for all videos
        return found
    return replace(found, figures=measure_rules(config, prepared, states, known))


def _fit(
    config: SweepConfig,
    task: Task,
    prepared: Prepared,
    states: np.ndarray,
    known: list[LayerStatistics],
) -> Iterator[Experiment]:
    """Fit all scorers on all draws."""
    assert task.layer is not None
    layers = (task.layer,)
    for kind, l2 in config.penalised_scorers():
        cuts = Cuts.of(config, task.method, kind)
        fits = _fit_draws(config, layers, prepared, states, kind, l2)
        for number, (fit, statistics) in enumerate(zip(fits, known, strict=True)):
            settings = prepared.settings(config, task, number) | asdict(statistics)
            far = far_thresholds_of_layers(
                config, prepared, number, cuts.target_fars, layers, kind, l2
            )
            settings |= {"scorer": kind, "l2": l2}
            yield Experiment(settings, fit.members, cuts.at(fit.training_logits, far))


def _fit_draws(
    config: SweepConfig,
    layers: tuple[int, ...],
    prepared: Prepared,
    states: np.ndarray,
    kind: str,
    l2: float,
) -> list[Fit]:
    """Fit one scorer on each draw; without relabelling the states at hand are all it needs."""
    subsets = [drawn for _, drawn in prepared.draws]
    if config.mil:
        return fit_samples(
            prepared.train, prepared.samples, layers, kind, l2,
            mil=config.mil, subsets=subsets, **config.place,
        )  # fmt: skip
    labels = prepared.samples.is_anomalous
    return fit_members(
        lambda layer: states, layers, labels, kind, l2,
        subsets=subsets, inputs_of=config.inputs_of,
    )  # fmt: skip
