"""The probing job: store → few-shot samples → layers → scorers → threshold → `probe.json`.

Run by ``hiprobe probe``. Reads the training videos' states layer by layer; needs no GPU, no
torch and no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.probe.fit import Fit
from hiprobe.probe.layer_rules import (
    DEFAULT_RULE,
    LAYER_RULES,
    LayerRule,
    RuleSamples,
    layer_rule,
)
from hiprobe.probe.multiple_instance import fit_samples
from hiprobe.probe.out_of_fold import (
    DEFAULT_FALSE_ALARM_RATE,
    HeldOutSegments,
    coarse_target,
    far_threshold,
    held_out_segments,
    platt,
)
from hiprobe.probe.saliency import (
    DEFAULT_BINS,
    METRICS,
    LayerStatistics,
    Saliency,
    dlsp,
    layer_statistics,
)
from hiprobe.probe.samples import Samples, draw_samples
from hiprobe.store import FeatureStore, HiProbeError, Probe
from hiprobe.store.probe_members import scores_of
from hiprobe.store.scorers import DEFAULT_L2, needs_anomalies, scorer_class
from hiprobe.store.train_test_overlap import files_of


@dataclass(frozen=True)
class ProbeConfig:
    """One probing experiment.

    Attributes
    ----------
    store : Path
    split, fraction, num_videos, seed, labels, samples_per_video, manifest
        Which samples to train on; see `hiprobe.probe.samples.draw_samples`.
    layer : int, tuple of int, str or None
        The layer to read, or several, whose log odds are averaged; or the name of a rule of
        `hiprobe.probe.layer_rules`; None is the default one.
    scorer : str
        One of `hiprobe.store.scorers.SCORERS`, or ``module:Class``.
    kappa : float
        κ of the threshold, eq. 10.
    target_far : float or None
        Set the threshold for this rate of false alarms on held-out normal videos instead.
    calibration : {'platt'} or None
        Make probabilities of the scores, by the held-out segments.
    num_bins : int
        B of the entropy.
    l2 : float
        Penalty of the scorer; 0 is the paper's setting.
    mil : int
        Times to fit again on the top segments of anomalous videos.
    """

    store: Path
    split: str = "train"
    fraction: float = 1.0
    num_videos: int | None = None
    seed: int = 0
    layer: int | tuple[int, ...] | str | None = None
    labels: str = "video"
    samples_per_video: int = 1
    scorer: str = "logistic"
    kappa: float = 0.2
    num_bins: int = DEFAULT_BINS
    l2: float = DEFAULT_L2
    manifest: Path | None = None
    mil: int = 0
    target_far: float | None = None
    calibration: str | None = None

    @property
    def rule(self) -> str | None:
        """The rule that chooses the layers; None where they are given."""
        if self.layer is None:
            return DEFAULT_RULE
        return self.layer if isinstance(self.layer, str) else None

    @property
    def given_layers(self) -> tuple[int, ...]:
        """The layers asked for by number."""
        if self.layer is None or isinstance(self.layer, str):
            return ()
        return (self.layer,) if isinstance(self.layer, int) else self.layer

    def draw(self, store: FeatureStore, needs_anomalies: bool = True) -> Samples:
        """Draw the samples that are asked for; normal ones alone may be enough."""
        return draw_samples(
            store,
            self.split,
            self.fraction,
            self.num_videos,
            self.seed,
            self.labels,
            self.samples_per_video,
            self.manifest,
            needs_anomalies,
        )


def run_probe(
    config: ProbeConfig, on_layer: Callable[[int, int], None] = lambda done, total: None
) -> Probe:
    """Choose layers, train a scorer on each and calibrate the threshold.

    Parameters
    ----------
    config : ProbeConfig
    on_layer : callable
        Called with (layers done, layers) as they are measured.

    Returns
    -------
    Probe
        ``training["warnings"]`` names videos that take no part, and what to keep in mind.

    Raises
    ------
    HiProbeError
        No training videos, or of one class only that the scorer or the rule cannot do with; no
        such layer; too few videos for a threshold or a calibration out of fold.
    """
    store = FeatureStore.open(config.store)
    store.check_layers(config.given_layers)
    samples = config.draw(store, needs_anomalies(config.scorer))
    rule_name = _rule_name(config, samples)
    rule = None if rule_name is None else layer_rule(rule_name)
    of_rule = RuleSamples(
        samples.owner, samples.is_anomalous, config.scorer, config.l2, config.num_bins, config.seed
    )
    # Also where the layer is given: `probe.json` shows what DLSP would have chosen from.
    statistics, chosen = _measure(store, samples, of_rule, rule, on_layer)
    fit_on = partial(
        fit_samples, store, samples, config.given_layers or chosen, config.scorer, config.l2,
        mil=config.mil,
    )  # fmt: skip
    (fit,) = fit_on(baseline=max(store.layers))
    far = _target_far(config, samples)
    held_out = None
    if far is not None or config.calibration:
        held_out = held_out_segments(
            store, samples, lambda own: fit_on(subsets=own), config.seed, only_top=config.mil > 0
        )
    threshold, calibration = _cut(config.kappa, far, config.calibration, fit, held_out)
    notes = rule.warnings(of_rule) if rule else []
    if held_out is not None and far is not None:
        notes = [*notes, *coarse_target(threshold["num_segments"], far)]
    return Probe.of_members(
        fit.members,
        store={"path": str(config.store.absolute()), "provenance": store.provenance},
        layers=_layer_table(statistics, dlsp(statistics)) if statistics else {},
        threshold=threshold,
        training=_training(config, store, samples, fit.training_labels, notes)
        | {"layer_choice": rule_name or "fixed"},
        baseline=fit.baseline,
        calibration=calibration,
    )


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
    return _measure(store, samples, of_rule, None, on_layer)[0]


def _measure(
    store: FeatureStore,
    samples: Samples,
    of_rule: RuleSamples,
    rule: LayerRule | None,
    on_layer: Callable[[int, int], None],
) -> tuple[dict[int, LayerStatistics], tuple[int, ...]]:
    """Measure DLSP's metrics, and let a rule choose, from one read of each layer."""
    above_0 = layers_above_0(store)
    if not samples.is_anomalous.any():  # nothing to tell apart: rules go by the layers' numbers
        return {}, rule.choose(dict.fromkeys(above_0, ())) if rule else ()
    statistics, measured = {}, {}
    for done, layer in enumerate(store.layers):
        on_layer(done, len(store.layers))
        states = samples.states(store, layer)
        statistics[layer] = layer_statistics(states, samples.is_anomalous, of_rule.num_bins)
        if rule is not None and layer in above_0:
            measured[layer] = rule.measure(states, of_rule, statistics[layer])
    on_layer(len(store.layers), len(store.layers))
    return statistics, rule.choose(measured) if rule else ()


def layers_above_0(store: FeatureStore) -> list[int]:
    """List the layers that can be chosen; layer 0, the prompt's last embedding, cannot.

    Raises
    ------
    HiProbeError
        There are none.
    """
    layers = [layer for layer in store.layers if layer >= 1]
    if not layers:
        raise HiProbeError(f"{store.path}: it has layer 0 only; DLSP needs layers above it.")
    return layers


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
