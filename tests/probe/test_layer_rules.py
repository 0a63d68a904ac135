"""Rules that choose layers, each against its formula written out, or what it has to find."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hiprobe.probe.folds import folds_by_video
from hiprobe.probe.layer_rules import (
    DEFAULT_RULE,
    LAYER_RULES,
    NUM_RESAMPLES,
    RuleSamples,
    layer_rule,
)
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import HiProbeError
from hiprobe.store.scorers import fit_scorer


def samples_of(num_videos=20, samples_per_video=1):
    owner = np.repeat([f"v{i}" for i in range(num_videos)], samples_per_video).astype(object)
    return RuleSamples(owner, np.repeat(np.arange(num_videos) % 2 == 0, samples_per_video))


def layer_of(samples, shift, num_features=12, seed=0):
    states = np.random.default_rng(seed).normal(size=(len(samples.owner), num_features))
    states[samples.is_anomalous, :3] += shift
    return states * np.geomspace(0.1, 1000, num_features) + 5


def measured(name, shifts, samples):
    """The rule's figures of layers 1, 2, … whose classes lie so far apart."""
    return {
        layer: layer_rule(name).measure(layer_of(samples, shift, seed=layer), samples, None)
        for layer, shift in enumerate(shifts, start=1)
    }


SHIFTS = (0.0, 0.5, 3.0, 1.0, 0.0, 0.2)
EXPECTED = {
    "dlsp": (3,), "stable-dlsp": (3,), "cv": (3,), "mmd": (3,), "fisher": (3,),
    "last": (6,), "upper-half": (4, 5, 6), "all": (1, 2, 3, 4, 5, 6),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYER_RULES)
def test_each_rule_finds_what_it_is_for(name):
    rule = layer_rule(name)
    chosen = rule.choose(measured(name, SHIFTS, samples_of(40)))
    if name == "top3":
        assert len(chosen) == 3
        assert {3, 4} <= set(chosen)
        assert chosen == tuple(sorted(chosen))
    else:
        assert chosen == EXPECTED[name]


def test_the_upper_half_is_of_what_the_store_holds():
    choose = layer_rule("upper-half").choose
    assert choose(dict.fromkeys((16, 20, 24), ())) == (16, 20, 24)
    assert choose(dict.fromkeys((1, 2, 3), ())) == (2, 3)
    assert choose({1: ()}) == (1,)


def test_top_three_are_the_layers_of_the_largest_saliency(make_store):
    probe = run_probe(ProbeConfig(make_store(), layer="top3"))
    saliency = probe.layers["saliency"]
    expected = sorted(range(1, 5), key=lambda layer: -saliency[layer])[:3]
    assert probe.layers_read == tuple(sorted(expected))


def test_the_kernel_distance_is_that_of_its_definition():
    samples = samples_of(9)
    states = layer_of(samples, 1.0)
    standardised = (states - states.mean(0)) / states.std(0)
    squares = np.array([[np.sum((a - b) ** 2) for b in standardised] for a in standardised])
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    gamma = 1 / (2 * np.median([squares[pair] for pair in pairs]))

    def mean(one, other):
        return np.mean(
            [
                np.exp(-gamma * squares[i, j])
                for i, j in pairs
                if samples.is_anomalous[i] == one and samples.is_anomalous[j] == other
            ]
        )

    expected = mean(True, True) + mean(False, False) - 2 * mean(True, False)
    (found,) = layer_rule("mmd").measure(states, samples, None)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_features", [4, 50])
def test_fishers_criterion_is_that_of_the_inverse_written_out(num_features):
    samples = samples_of(20)
    states = layer_of(samples, 1.0, num_features)
    standardised = (states - states.mean(0)) / states.std(0)
    of_class = [standardised[samples.is_anomalous == flag] for flag in (False, True)]
    within = sum((own - own.mean(0)).T @ (own - own.mean(0)) for own in of_class) / 20
    gap = of_class[1].mean(0) - of_class[0].mean(0)
    ridge = np.trace(within) / num_features
    expected = gap @ np.linalg.inv(within + ridge * np.eye(num_features)) @ gap
    (found,) = layer_rule("fisher").measure(states, samples, None)
    assert found == pytest.approx(expected, rel=1e-9)


def test_cross_validation_parts_no_video():
    """Samples of a video that are all but equal tell its label, if it lies on both sides."""
    samples = samples_of(12, samples_per_video=6)
    rng = np.random.default_rng(0)
    states = np.repeat(rng.normal(size=(12, 30)), 6, axis=0) + 1e-3 * rng.normal(size=(72, 30))
    (found,) = layer_rule("cv").measure(states, samples, None)
    aucs = []
    for held_out in folds_by_video(samples.owner, samples.is_anomalous, 0, 4):
        scorer = fit_scorer("logistic", states[~held_out], samples.is_anomalous[~held_out])
        logits = scorer.logits(states[held_out])
        aucs.append(roc_auc_score(samples.is_anomalous[held_out], logits))
    assert found == pytest.approx(np.mean(aucs))
    assert found < 0.8


def test_cross_validation_on_few_videos_says_that_it_is_noise(make_store):
    few = run_probe(ProbeConfig(make_store(), layer="cv", num_videos=8))
    assert few.training["warnings"] == [
        "the layer is chosen by cross-validation on 8 videos: below 24 that is noise"
    ]
    assert layer_rule("cv").warnings(samples_of(24)) == []
    assert (
        run_probe(ProbeConfig(make_store(name="b.zarr"), num_videos=8)).training["warnings"] == []
    )


def test_a_layer_that_is_salient_in_some_resamples_only_loses():
    """Of two layers alike on the mean, the one that varies less over resamples is chosen."""
    rng = np.random.default_rng(0)
    noise = rng.permutation(np.repeat([-4.0, 4.0], NUM_RESAMPLES // 2))
    steady = [value for _ in range(NUM_RESAMPLES) for value in (2.0, 2.0, 2.0)]
    swings = [2.2 + change for change in noise for _ in range(3)]
    low = [0.0] * 3 * NUM_RESAMPLES
    figures = {1: tuple(low), 2: tuple(swings), 3: tuple(steady), 4: tuple(low)}
    assert layer_rule("stable-dlsp").choose(figures) == (3,)


def test_the_rule_and_its_layers_are_in_the_probe(make_store):
    path = make_store()
    assert DEFAULT_RULE == "dlsp"
    by_default = run_probe(ProbeConfig(path))
    assert by_default.training["layer_choice"] == "dlsp"
    assert by_default == run_probe(ProbeConfig(path, layer="dlsp"))
    half = run_probe(ProbeConfig(path, layer="upper-half"))
    assert (half.training["layer_choice"], half.layers_read) == ("upper-half", (3, 4))
    given = run_probe(ProbeConfig(path, layer=(4, 2)))
    assert (given.training["layer_choice"], given.layers_read) == ("fixed", (2, 4))
    with pytest.raises(HiProbeError, match="the layer rule is 'best', expected dlsp, last"):
        run_probe(ProbeConfig(path, layer="best"))
