"""Methods that read layers: the paper's, and spherical prototypes (SphereVAD).

The paper's trains one scorer a layer, of those that a rule chooses. SphereVAD, after "SphereVAD:
Training-Free Video Anomaly Detection via Geodesic Inference on the Unit Hypersphere" (2026), does
the same with a scorer of its own (`hiprobe.store.scorers.spherical`), on the layer that DLSP
chooses, as its published code does. That code scores the answer position; the last visual token
(``--tap frames_last``) is what it finds similar segments by. What it does besides is left out:
its prototypes are of generated pictures, ours of the training samples; it centres by, and mixes in,
segments of the whole test set, so that each video's scores depend on all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from hiprobe.probe.fit import Fit
from hiprobe.probe.layer_rules import LAYER_RULES, LayerRule, RuleSamples, layer_rule
from hiprobe.probe.multiple_instance import fit_samples
from hiprobe.probe.probe_config import ProbeConfig
from hiprobe.probe.saliency import (
    DEFAULT_BINS,
    METRICS,
    LayerStatistics,
    Saliency,
    dlsp,
    layer_statistics,
)
from hiprobe.probe.samples import Samples
from hiprobe.probe.trained import Recipe, trained_probe
from hiprobe.store import FeatureStore, HiProbeError, Probe
from hiprobe.store.scorers import needs_anomalies
from hiprobe.store.taps import HIDDEN_STATES

SPHERICAL_RULE = "dlsp"


def layers_probe(
    config: ProbeConfig,
    store: FeatureStore,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> Probe:
    """Choose layers, train a scorer on each and calibrate the threshold.

    Raises
    ------
    HiProbeError
        No training videos, or of one class only that the scorer or the rule cannot do with; no
        such layer, tap or prompt; too few videos for a threshold or a calibration out of fold.
    """
    tap = config.tap or HIDDEN_STATES
    kept = store.tap(tap, config.prompt).layers
    store.check_layers(config.given_layers, tap=tap, prompt=config.prompt)
    samples = config.draw(store, needs_anomalies(config.scorer))
    rule_name = _rule_name(config, samples)
    rule = None if rule_name is None else layer_rule(rule_name)
    of_rule = RuleSamples(
        samples.owner, samples.is_anomalous, config.scorer, config.l2, config.num_bins, config.seed
    )
    # Also where the layer is given: `probe.json` shows what DLSP would have chosen from.
    statistics, chosen = _measure(store, samples, of_rule, rule, on_layer, tap, config.prompt)
    fit_on = partial(
        fit_samples, store, samples, config.given_layers or chosen, config.scorer, config.l2,
        mil=config.mil, tap=tap, prompt=config.prompt,
    )  # fmt: skip

    def fit(subsets: Sequence[np.ndarray] | None = None) -> list[Fit]:
        return fit_on(subsets=subsets, baseline=max(kept) if subsets is None else None)

    recipe = Recipe(
        fit,
        rule_name or "fixed",
        layers=_layer_table(statistics, dlsp(statistics)) if statistics else {},
        notes=rule.warnings(of_rule) if rule else [],
    )
    return trained_probe(config, store, samples, recipe)


def spheres_probe(
    config: ProbeConfig,
    store: FeatureStore,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> Probe:
    """Learn prototypes on the sphere, of the layer that DLSP chooses unless others are asked for.

    Raises
    ------
    HiProbeError
        As of `layers_probe`; or another scorer is asked for.
    """
    if config.scorer not in ("logistic", "spherical"):
        raise HiProbeError(
            f"--method spherical has a scorer of its own, and --scorer is {config.scorer}: leave "
            "one of them out."
        )
    layer = SPHERICAL_RULE if config.layer is None else config.layer
    return layers_probe(replace(config, scorer="spherical", layer=layer), store, on_layer)


def _rule_name(config: ProbeConfig, samples: Samples) -> str | None:
    """Which rule chooses the layers.

    Raises
    ------
    HiProbeError
        It cannot do without anomalous samples, and there are none.
    """
    if samples.is_anomalous.any() or config.rule is None:
        return config.rule
    if layer_rule(config.rule).needs_anomalies or config.mil:
        without = ", ".join(name for name, one in LAYER_RULES.items() if not one.needs_anomalies)
        raise HiProbeError(
            f"{config.store}: none of the {len(samples.video_ids)} training videos is anomalous, "
            f"which --layer {config.rule} and --mil need. Take a rule of {without} or a number, "
            "and no --mil."
        )
    return config.rule


def measure_layers(
    store: FeatureStore,
    samples: Samples,
    num_bins: int = DEFAULT_BINS,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, LayerStatistics]:
    """Measure what `dlsp` chooses a layer by, one layer in memory at a time.

    Parameters
    ----------
    store : FeatureStore
    samples : Samples
    num_bins : int
        B of the entropy.
    on_layer : callable
        Called with (layers done, layers).

    Returns
    -------
    dict of int to LayerStatistics
        By layer; layer 0 is measured too, for tables, and `dlsp` leaves it out.

    Raises
    ------
    HiProbeError
        The store has no layer above 0.
    """
    of_rule = RuleSamples(samples.owner, samples.is_anomalous, num_bins=num_bins)
    return _measure(store, samples, of_rule, None, on_layer, HIDDEN_STATES, "")[0]


def _measure(
    store: FeatureStore,
    samples: Samples,
    of_rule: RuleSamples,
    rule: LayerRule | None,
    on_layer: Callable[[int, int], None],
    tap: str,
    prompt: str,
) -> tuple[dict[int, LayerStatistics], tuple[int, ...]]:
    """Measure DLSP's metrics, and let a rule choose, from one read of each layer."""
    kept, above_0 = store.tap(tap, prompt).layers, layers_above_0(store, tap, prompt)
    if not samples.is_anomalous.any():  # nothing to tell apart: rules go by the layers' numbers
        return {}, rule.choose(dict.fromkeys(above_0, ())) if rule else ()
    statistics, measured = {}, {}
    for done, layer in enumerate(kept):
        on_layer(done, len(kept))
        states = samples.states(store, layer, tap=tap, prompt=prompt)
        statistics[layer] = layer_statistics(states, samples.is_anomalous, of_rule.num_bins)
        if rule is not None and layer in above_0:
            measured[layer] = rule.measure(states, of_rule, statistics[layer])
    on_layer(len(kept), len(kept))
    return statistics, rule.choose(measured) if rule else ()


def layers_above_0(store: FeatureStore, tap: str = HIDDEN_STATES, prompt: str = "") -> list[int]:
    """List the layers that can be chosen; layer 0, the prompt's last embedding, cannot.

    Raises
    ------
    HiProbeError
        There are none.
    """
    layers = [layer for layer in store.tap(tap, prompt).layers if layer >= 1]
    if not layers:
        raise HiProbeError(f"{store.path}: it has layer 0 only; DLSP needs layers above it.")
    return layers


def _layer_table(
    statistics: dict[int, LayerStatistics], saliency: Saliency
) -> dict[str, list[float | None]]:
    """Lists of length L+1, index = layer; None for layers that are not in the store."""

    def column(values: dict[int, float]) -> list[float | None]:
        return [values.get(layer) for layer in range(max(statistics) + 1)]

    table = {
        metric: column({layer: getattr(one, metric) for layer, one in statistics.items()})
        for metric in METRICS
    }
    table |= {f"{metric}_z": column(saliency.z_scores[metric]) for metric in METRICS}
    return table | {"saliency": column(saliency.saliency)}
