"""Experiments on the layers that rules choose, after every layer has been measured by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from hiprobe.probe.fit import Fit
from hiprobe.probe.layer_rules import RuleSamples, layer_rule
from hiprobe.probe.multiple_instance import fit_samples
from hiprobe.probe.saliency import LayerStatistics, layer_statistics
from hiprobe.sweep.cuts import Cuts
from hiprobe.sweep.far_thresholds import far_thresholds_of_layers
from hiprobe.sweep.grid import SweepConfig, Task
from hiprobe.sweep.measured import Experiment, Found, RuleFigures, measured
from hiprobe.sweep.prepared import Prepared


def statistics_of_draws(prepared: Prepared, states: np.ndarray) -> list[LayerStatistics]:
    """DLSP's metrics of a layer's (sample, feature) states, of each draw."""
    labels = prepared.samples.is_anomalous
    nothing = LayerStatistics(np.nan, np.nan, np.nan)  # of one class, which no layer tells apart
    return [
        layer_statistics(states[drawn], labels[drawn]) if labels[drawn].any() else nothing
        for _, drawn in prepared.draws
    ]


def measure_rules(
    config: SweepConfig, prepared: Prepared, states: np.ndarray, known: list[LayerStatistics]
) -> RuleFigures:
    """Measure what the rules choose by on one layer.

    Parameters
    ----------
    config, prepared
    states : (sample, feature) float64
        Of the layer.
    known : list of LayerStatistics
        DLSP's metrics of each draw.
    """
    figures: RuleFigures = {}
    for name in config.measured_rules:
        rule = layer_rule(name)
        figures[name] = []
        for kind, l2 in config.penalised_scorers():
            # Where the scorer does not matter, the first one's figures are everybody's.
            if figures[name] and not rule.uses_scorer:
                figures[name].append(figures[name][0])
                continue
            figures[name].append(
                [
                    list(rule.measure(states[drawn], _samples(prepared, i, kind, l2), known[i]))
                    for i, (_, drawn) in enumerate(prepared.draws)
                ]
            )
    return figures


def _samples(prepared: Prepared, draw: int, kind: str, l2: float) -> RuleSamples:
    """What a rule knows of one draw, as `hiprobe probe` tells it."""
    few_shot, drawn = prepared.draws[draw]
    samples = prepared.samples
    return RuleSamples(
        samples.owner[drawn], samples.is_anomalous[drawn], kind, l2, seed=few_shot.seed
    )


def run_rules(
    config: SweepConfig, store: Path, of_layer: Mapping[int, RuleFigures], prepared: Prepared
) -> Found:
    """Run the experiments of all rules on one store.

    Parameters
    ----------
    config, store
    of_layer : mapping of int to RuleFigures
        By layer; rules choose among these.
    prepared
    """
    experiments: list[Experiment] = []
    for number, (kind, l2) in enumerate(config.penalised_scorers()):
        chosen = {
            (rule, draw): layer_rule(rule).choose(
                {layer: tuple(own[rule][number][draw]) for layer, own in sorted(of_layer.items())}
            )
            for rule in config.rules
            for draw in range(len(prepared.draws))
        }
        experiments += fit_chosen(config, Task(store, None), prepared, chosen, kind, l2)
    return measured(config, prepared.test, experiments)


def fit_chosen(
    config: SweepConfig,
    task: Task,
    prepared: Prepared,
    chosen: Mapping[tuple[str, int], tuple[int, ...]],
    kind: str,
    l2: float,
) -> Iterator[Experiment]:
    """Fit one scorer on what each rule chose for each draw; equal layers are read together.

    Parameters
    ----------
    config, task, prepared
    chosen : mapping of (str, int) to tuple of int
        Layers, by the rule for the table and the number of the draw.
    kind, l2
    """
    cuts = Cuts.of(config, task.method, kind)

    @cache
    def fits(layers: tuple[int, ...]) -> dict[int, Fit]:
        draws = sorted({draw for (_, draw), own in chosen.items() if own == layers})
        found = fit_samples(
            prepared.train, prepared.samples, layers, kind, l2,
            mil=config.mil, subsets=[prepared.draws[draw][1] for draw in draws], **config.place,
        )  # fmt: skip
        return dict(zip(draws, found, strict=True))

    for (rule, draw), layers in chosen.items():
        settings = prepared.settings(config, task, draw)
        settings |= {
            "rule": rule,
            "layers": ",".join(map(str, layers)),
            "scorer": kind,
            "l2": l2,
        }
        fit = fits(layers)[draw]
        far = far_thresholds_of_layers(config, prepared, draw, cuts.target_fars, layers, kind, l2)
        yield Experiment(settings, fit.members, cuts.at(fit.training_logits, far))
