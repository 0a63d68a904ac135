"""Robust attention heads: HeadHunt-VAD's method, on the stored heads of several prompts.

After "HeadHunt-VAD: Hunting Robust Anomaly-Sensitive Heads in MLLM for Tuning-Free Video Anomaly
Detection" (AAAI 2026); how heads are judged is in `hiprobe.probe.robust_heads`. In what it differs:
segments, keyframes, smoothing and threshold are this store's and this command's (theirs: 48 frames,
16 keyframes, σ of 1.5 units, a threshold of 0.65); samples are videos' means, or segments with
``--labels segment``; the vectors that are scored are those of one prompt, the store's first unless
``--prompt`` names another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from hiprobe.probe.fit import Fit, fit_members
from hiprobe.probe.probe_config import ProbeConfig, refuse_options
from hiprobe.probe.robust_heads import HeadSaliency, judge_draws
from hiprobe.probe.samples import Samples
from hiprobe.probe.trained import Recipe, trained_probe
from hiprobe.store import FeatureStore, HiProbeError, Probe, StoreError
from hiprobe.store.probe_inputs import Input, places, side_by_side
from hiprobe.store.taps import HEADS

MIN_PROMPTS = 2


def heads_probe(
    config: ProbeConfig,
    store: FeatureStore,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> Probe:
    """Choose the heads that tell under every prompt, and train a scorer on them side by side.

    Raises
    ------
    HiProbeError
        The store has no heads, or of one prompt only; no such prompt or layer; an option that is
        not of this method; too few training videos.
    """
    prompts, layers = heads_asked(config, store)
    samples = config.draw(store)
    whole = np.ones(len(samples.owner), dtype=bool)
    (saliency,) = judge_samples(store, samples, prompts, layers, [whole], on_layer)
    chosen = saliency.best()
    inputs = head_inputs(store, config.prompt, chosen)
    states = {
        place: samples.states(store, place.layer, **place.keywords) for place in places(inputs)
    }
    recipe = Recipe(
        _fitter(config, store, samples, inputs, side_by_side(inputs, states)),
        "robust-heads",
        record={"prompts": prompts, "heads": _record(saliency, chosen)},
    )
    return trained_probe(config, store, samples, recipe)


def heads_asked(config: ProbeConfig, store: FeatureStore) -> tuple[list[str], tuple[int, ...]]:
    """Give the prompts and layers whose heads are to be judged.

    Raises
    ------
    HiProbeError
        As of `heads_probe`, but for the training videos.
    """
    _check_options(config)
    prompts = _prompts(store)
    store.tap(HEADS, config.prompt)
    layers = config.given_layers or store.tap(HEADS).layers
    for prompt in prompts:
        store.check_layers(layers, tap=HEADS, prompt=prompt)
    return prompts, layers


def _check_options(config: ProbeConfig) -> None:
    """Refuse what this method cannot heed."""
    wrong = {
        f"--tap {config.tap}": config.tap not in (None, HEADS),
        f"--layer {config.layer}": isinstance(config.layer, str),
        "--mil": config.mil > 0,
    }
    refuse_options(
        config,
        wrong,
        "chooses heads of all layers, or of those given by number, on the samples as they are",
    )


def _prompts(store: FeatureStore) -> list[str]:
    """Prompts of which the store has heads; refuse fewer than robustness takes."""
    store.tap(HEADS)  # says how to add them
    prompts = [one.prompt for one in store.further_taps if one.tap == HEADS]
    if len(prompts) < MIN_PROMPTS:
        raise StoreError(
            f"{store.path}: has heads of one prompt only, expected {MIN_PROMPTS} or more: a robust "
            "head tells under each of them. `hiprobe extract MANIFEST STORE --taps heads --prompt "
            "NAME=TEXT --prompt NAME=TEXT` makes a store of two."
        )
    return prompts


def judge_samples(
    store: FeatureStore,
    samples: Samples,
    prompts: Sequence[str],
    layers: Sequence[int],
    draws: Sequence[np.ndarray],
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> list[HeadSaliency]:
    """Judge all heads on each of some draws of the samples, (sample,) bool.

    One layer of one prompt is in memory at a time, and is read once for all draws.

    Raises
    ------
    HiProbeError
        A draw has fewer than two samples of a class.
    """
    total, done = len(prompts) * len(layers), 0

    def read(prompt: str, layer: int) -> np.ndarray:
        nonlocal done
        on_layer(done, total)
        done += 1
        states = samples.states(store, layer, tap=HEADS, prompt=prompt)
        return states.reshape(len(states), store.tap(HEADS, prompt).num_heads, -1)

    try:
        found = judge_draws(read, prompts, layers, samples.is_anomalous, draws)
    except ValueError as error:  # too few samples of a class
        raise HiProbeError(f"{store.path}: {error}. Draw more videos.") from None
    on_layer(total, total)
    return found


def head_inputs(
    store: FeatureStore, prompt: str, chosen: Sequence[tuple[int, int]]
) -> tuple[Input, ...]:
    """Say what a scorer reads that has the chosen (layer, head) side by side."""
    num_heads = store.tap(HEADS, prompt).num_heads
    return tuple(Input(layer, HEADS, prompt, (head,), num_heads) for layer, head in chosen)


def fit_heads(
    vectors: np.ndarray,
    is_anomalous: np.ndarray,
    inputs: tuple[Input, ...],
    scorer: str,
    l2: float,
    subsets: Sequence[np.ndarray] | None = None,
) -> list[Fit]:
    """Fit on the (sample, feature) vectors of heads side by side, or on each of some subsets."""
    highest = max(one.layer for one in inputs)
    return fit_members(
        lambda layer: vectors, (highest,), is_anomalous, scorer, l2,
        subsets=subsets, inputs_of=lambda layer: inputs,
    )  # fmt: skip


def _fitter(
    config: ProbeConfig,
    store: FeatureStore,
    samples: Samples,
    inputs: tuple[Input, ...],
    vectors: np.ndarray,
) -> Callable[..., list[Fit]]:
    """Fit on the (sample, feature) vectors; the last layer's hidden state is the baseline."""
    labels, last = samples.is_anomalous, max(store.layers)
    how = (config.scorer, config.l2)

    def fit(subsets: Sequence[np.ndarray] | None = None) -> list[Fit]:
        fits = fit_heads(vectors, labels, inputs, *how, subsets)
        if subsets is not None:
            return fits
        (compared,) = fit_members(lambda layer: samples.states(store, layer), (last,), labels, *how)
        return [replace(one, baseline=compared.members[0]) for one in fits]

    return fit


def _record(
    saliency: HeadSaliency, chosen: Sequence[tuple[int, int]]
) -> list[dict[str, int | float]]:
    """The heads that were chosen, the best first, for `probe.json`."""
    return [
        {
            "layer": layer,
            "head": head,
            "robustness": float(saliency.robustness[saliency.layers.index(layer), head]),
        }
        for layer, head in chosen
    ]
