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
from hiprobe.probe.robust_heads import HeadSaliency, judge_heads
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
    _check_options(config)
    prompts = _prompts(store)
    num_heads = store.tap(HEADS, config.prompt).num_heads
    layers = config.given_layers or store.tap(HEADS).layers
    for prompt in prompts:
        store.check_layers(layers, tap=HEADS, prompt=prompt)
    samples = config.draw(store)
    saliency = _judge(store, samples, prompts, layers, on_layer)
    chosen = saliency.best()
    inputs = tuple(Input(layer, HEADS, config.prompt, (head,), num_heads) for layer, head in chosen)
    states = {
        place: samples.states(store, place.layer, **place.keywords) for place in places(inputs)
    }
    recipe = Recipe(
        _fitter(config, store, samples, inputs, side_by_side(inputs, states)),
        "robust-heads",
        record={"prompts": prompts, "heads": _record(saliency, chosen)},
    )
    return trained_probe(config, store, samples, recipe)


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


def _judge(
    store: FeatureStore,
    samples: Samples,
    prompts: Sequence[str],
    layers: Sequence[int],
    on_layer: Callable[[int, int], None],
) -> HeadSaliency:
    """Judge all heads, one layer of one prompt in memory at a time."""
    total, done = len(prompts) * len(layers), 0

    def read(prompt: str, layer: int) -> np.ndarray:
        nonlocal done
        on_layer(done, total)
        done += 1
        states = samples.states(store, layer, tap=HEADS, prompt=prompt)
        return states.reshape(len(states), store.tap(HEADS, prompt).num_heads, -1)

    try:
        found = judge_heads(read, prompts, layers, samples.is_anomalous)
    except ValueError as error:  # too few samples of a class
        raise HiProbeError(f"{store.path}: {error}. Draw more videos.") from None
    on_layer(total, total)
    return found


def _fitter(
    config: ProbeConfig,
    store: FeatureStore,
    samples: Samples,
    inputs: tuple[Input, ...],
    vectors: np.ndarray,
) -> Callable[..., list[Fit]]:
    """Fit on the (sample, feature) vectors; the last layer's hidden state is the baseline."""
    highest, last = max(one.layer for one in inputs), max(store.layers)
    how = (samples.is_anomalous, config.scorer, config.l2)

    def fit(subsets: Sequence[np.ndarray] | None = None) -> list[Fit]:
        fits = fit_members(
            lambda layer: vectors, (highest,), *how, subsets=subsets, inputs_of=lambda layer: inputs
        )
        if subsets is not None:
            return fits
        (compared,) = fit_members(lambda layer: samples.states(store, layer), (last,), *how)
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
