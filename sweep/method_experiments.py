"""Experiments of methods other than the paper's, on all draws of a store, as `probe` makes them.

One task a store and method: what is read of the training videos is read once for all draws, and the
test videos once for all experiments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from hiprobe.probe.head_method import fit_heads, head_inputs, heads_asked, judge_samples
from hiprobe.probe.layer_method import SPHERICAL_RULE
from hiprobe.probe.layer_rules import layer_rule
from hiprobe.probe.pipeline import run_probe
from hiprobe.store.probe_inputs import Input, places, side_by_side
from hiprobe.sweep.cuts import Cuts
from hiprobe.sweep.far_thresholds import far_thresholds
from hiprobe.sweep.grid import SweepConfig, Task
from hiprobe.sweep.measured import Experiment, Found, RuleFigures, measured
from hiprobe.sweep.methods_asked import probe_config
from hiprobe.sweep.prepared import Prepared
from hiprobe.sweep.rule_experiments import fit_chosen, measure_rules, statistics_of_draws


def run_method(
    config: SweepConfig, task: Task, of_layer: Mapping[int, RuleFigures], prepared: Prepared
) -> Found:
    """Run all experiments of a method on one store.

    Parameters
    ----------
    config, task
    of_layer : mapping of int to RuleFigures
        Of layers that have been measured already; empty: what the method needs it measures.
    prepared
    """
    experiments = list(EXPERIMENTS[task.method](config, task, of_layer, prepared))
    return measured(config, prepared.test, experiments)


def _spherical(
    config: SweepConfig, task: Task, of_layer: Mapping[int, RuleFigures], prepared: Prepared
) -> Iterator[Experiment]:
    """Prototypes of the layer that DLSP chooses among those to try."""
    figures = of_layer or _figures(config, prepared)
    rule = layer_rule(SPHERICAL_RULE)
    chosen = {
        ("", draw): rule.choose(
            {layer: tuple(own[SPHERICAL_RULE][0][draw]) for layer, own in sorted(figures.items())}
        )
        for draw in range(len(prepared.draws))
    }
    for kind, l2 in config.scorers_of(task.method):
        yield from fit_chosen(config, task, prepared, chosen, kind, l2)


def _figures(config: SweepConfig, prepared: Prepared) -> dict[int, RuleFigures]:
    """Measure the layers above 0, one in memory at a time."""
    figures = {}
    for layer in filter(None, config.layers_of(prepared.train)):
        states = prepared.samples.states(prepared.train, layer, **config.place)
        known = statistics_of_draws(prepared, states)
        figures[layer] = measure_rules(config, prepared, states, known)
    return figures


def _robust_heads(
    config: SweepConfig, task: Task, of_layer: Mapping[int, RuleFigures], prepared: Prepared
) -> Iterator[Experiment]:
    """Heads that tell under every prompt, chosen by each draw for itself."""
    store, samples = prepared.train, prepared.samples
    prompts, layers = heads_asked(probe_config(config, store.path, task.method), store)
    draws = [drawn for _, drawn in prepared.draws]
    judged = judge_samples(store, samples, prompts, layers, draws)
    chosen = [head_inputs(store, config.prompt, one.best()) for one in judged]
    vectors = _head_vectors(prepared, chosen)
    for number, (drawn, inputs) in enumerate(zip(draws, chosen, strict=True)):
        own = np.concatenate([vectors[one][drawn] for one in inputs], axis=1)
        labels = samples.is_anomalous[drawn]
        read = ",".join(map(str, sorted({one.layer for one in inputs})))
        settings = prepared.settings(config, task, number) | {"layers": read}
        for kind, l2 in config.scorers_of(task.method):
            cuts = Cuts.of(config, task.method, kind)
            fit_on = partial(fit_heads, own, labels, inputs, kind, l2)
            (fit,) = fit_on()
            far = far_thresholds(config, prepared, number, cuts.target_fars, fit_on)
            cut = cuts.at(fit.training_logits, far)
            yield Experiment(settings | {"scorer": kind, "l2": l2}, fit.members, cut)


def _head_vectors(
    prepared: Prepared, chosen: Sequence[tuple[Input, ...]]
) -> dict[Input, np.ndarray]:
    """Read the heads that any draw has chosen, each (sample, feature); of a layer no others."""
    vectors = {}
    wanted = sorted({one for inputs in chosen for one in inputs})
    for place in places(wanted):
        states = prepared.samples.states(prepared.train, place.layer, **place.keywords)
        for one in wanted:
            if one.place == place:
                vectors[one] = side_by_side([one], {place: states})
    return vectors


def _untrained(
    config: SweepConfig, task: Task, of_layer: Mapping[int, RuleFigures], prepared: Prepared
) -> Iterator[Experiment]:
    """What the model itself says: one experiment, for no draw changes it."""
    probe = run_probe(probe_config(config, prepared.train.path, task.method))
    ((kind, l2),) = config.scorers_of(task.method)
    settings = prepared.settings(config, task, None)
    settings |= {"layers": ",".join(map(str, probe.layers_read)), "scorer": kind, "l2": l2}
    cut = Cuts.of(config, task.method, kind).at(np.empty(0), {})
    yield Experiment(settings, probe.members, cut)


# The grid, the task, figures of layers, what is prepared → experiments, by the method.
EXPERIMENTS: dict[
    str,
    Callable[[SweepConfig, Task, Mapping[int, RuleFigures], Prepared], Iterator[Experiment]],
] = {
    "robust-heads": _robust_heads,
    "spherical": _spherical,
    "answers": _untrained,
    "ordinal": _untrained,
}
