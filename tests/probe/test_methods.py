"""Methods other than the paper's: what they choose, what they write, and what scores by it."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hiprobe.cli import options
from hiprobe.cli.main import app
from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe.further_draws import run_repeats
from hiprobe.probe.pipeline import METHODS, ProbeConfig, run_probe
from hiprobe.store import FeatureStore, HiProbeError, Probe, StoreError
from hiprobe.store.probe_inputs import Input
from hiprobe.store.taps import FRAMES_LAST, FRAMES_MEAN, HEADS, HIDDEN_STATES, Tap
from tests.conftest import write_store

NUM_HEADS, WIDTH = 4, 6
LAYERS = (1, 2, 3, 4)
HEADS_OF = [Tap(HEADS, LAYERS, NUM_HEADS * WIDTH, prompt=one, num_heads=NUM_HEADS)
            for one in ("", "severity")]  # fmt: skip
PROMPTED = Tap(HIDDEN_STATES, (0, *LAYERS), 16, prompt="severity")
MEAN, LAST = (Tap(one, (0, *LAYERS), 16) for one in (FRAMES_MEAN, FRAMES_LAST))
ALL = (*HEADS_OF, PROMPTED, MEAN, LAST)


def mark(tap, states, segments):
    """Head 1 of layer 2 tells under both prompts; head 3 of layer 4 under the first one only."""
    if tap.tap == HEADS:
        states[1, segments, WIDTH : 2 * WIDTH] += 2.5
        if not tap.prompt:
            states[3, segments, 3 * WIDTH :] += 2.5
    else:
        states[2, segments, :4] += 4.0


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_store(
        tmp_path_factory.mktemp("tapped") / "s.zarr", num_videos=32, taps=ALL, mark=mark
    )


def test_the_command_line_knows_the_methods():
    assert tuple(METHODS) == options.METHODS


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("hiprobe", {}),
        ("hiprobe", {"tap": FRAMES_MEAN, "layer": "dlsp"}),
        ("hiprobe", {"prompt": "severity", "layer": (2, 3), "target_far": 0.1}),
        ("hiprobe", {"tap": HEADS, "prompt": "severity", "layer": 2, "target_far": 0.1}),
        ("robust-heads", {}),
        ("robust-heads", {"prompt": "severity", "target_far": 0.1}),
        ("spherical", {}),
        ("spherical", {"tap": FRAMES_LAST, "calibration": "platt"}),
    ],
)
def test_what_a_method_wrote_scores_a_store(path, tmp_path, method, settings):
    probe = run_probe(ProbeConfig(path, method=method, **settings))
    probe.save(tmp_path / "probe.json")
    read = Probe.load(tmp_path / "probe.json")
    assert (read, read.method) == (probe, method)
    metrics = run_evaluate(
        EvaluateConfig(path, tmp_path / "probe.json", tmp_path / "results", num_resamples=0)
    )
    assert metrics["smoothed"]["auc"] > 0.65
    assert metrics["method"] == method
    tap = settings.get("tap") or (HEADS if method == "robust-heads" else HIDDEN_STATES)
    assert {one["tap"] for one in metrics["inputs"]} == {tap}
    # What `detect` has at hand: the places' vectors, by name.
    store = FeatureStore.open(path)
    states = {one: store.layer(one.layer, **one.keywords) for one in read.inputs}
    assert np.isfinite(read.score(states)).all()


def test_robust_heads_tell_under_every_prompt(path):
    probe = run_probe(ProbeConfig(path, method="robust-heads"))
    (member,) = probe.members
    assert member.inputs[0] == Input(2, HEADS, "", (1,), NUM_HEADS)
    assert len(member.inputs) == 5
    chosen = probe.training["heads"]
    assert (chosen[0]["layer"], chosen[0]["head"]) == (2, 1)
    robustness = [one["robustness"] for one in chosen]
    assert robustness == sorted(robustness, reverse=True)
    assert probe.training["prompts"] == ["", "severity"]
    store = FeatureStore.open(path)
    by_hand = np.concatenate(
        [store.heads(one.layer)[:, one.heads[0]] for one in member.inputs], axis=1
    )
    states = {one: store.layer(one.layer, tap=HEADS) for one in probe.inputs}
    np.testing.assert_allclose(probe.logits(states), member.fitted.logits(by_hand), rtol=1e-12)
    assert probe.num_features == probe.baseline.fitted.num_features == 16
    assert probe.layers_read == tuple(sorted({one.layer for one in member.inputs}))


def test_a_probe_of_a_tap_is_none_to_an_older_hiprobe(path, tmp_path):
    def schema_of(**settings):
        run_probe(ProbeConfig(path, **settings)).save(tmp_path / "probe.json")
        content = json.loads((tmp_path / "probe.json").read_text())
        return content["schema"], content.get("method")

    assert schema_of(layer=3) == ("hiprobe-probe-1", None)
    assert schema_of(layer=3, tap=FRAMES_MEAN) == ("hiprobe-probe-3", None)
    assert schema_of(layer=3, prompt="severity") == ("hiprobe-probe-3", None)
    assert schema_of(method="robust-heads") == ("hiprobe-probe-3", "robust-heads")
    assert schema_of(method="spherical") == ("hiprobe-probe-2", "spherical")


def test_further_draws_choose_heads_of_their_own(path, tmp_path):
    config = ProbeConfig(path, num_videos=8, method="robust-heads")
    probe = run_repeats(config, 3)
    probe.save(tmp_path / "probe.json")
    assert Probe.load(tmp_path / "probe.json") == probe
    assert len({draw.members[0].inputs for draw in probe.draws}) == 2
    metrics = run_evaluate(
        EvaluateConfig(path, tmp_path / "probe.json", tmp_path / "results", num_resamples=0)
    )
    assert metrics["draws"]["num_draws"] == 3


def test_what_a_store_lacks_is_said_with_the_command_that_adds_it(make_store, path, tmp_path):
    bare = make_store(num_videos=8, name="bare.zarr")
    with pytest.raises(StoreError, match=r"has no 'heads' .* has hidden_states .*--taps heads"):
        run_probe(ProbeConfig(bare, method="robust-heads"))
    with pytest.raises(StoreError, match=r"no 'hidden_states' of prompt 'other'"):
        run_probe(ProbeConfig(path, prompt="other"))
    one = make_store(num_videos=8, name="one.zarr", taps=HEADS_OF[:1])
    with pytest.raises(StoreError, match=r"heads of one prompt only, expected 2 .* --taps heads"):
        run_probe(ProbeConfig(one, method="robust-heads"))
    run_probe(ProbeConfig(path, method="robust-heads")).save(tmp_path / "probe.json")
    config = EvaluateConfig(bare, tmp_path / "probe.json", tmp_path / "results", allow_overlap=True)
    with pytest.raises(StoreError, match=r"probe.json: reads heads of layer \d\. .*--taps heads"):
        run_evaluate(config)


def test_heads_of_another_width_are_refused(make_store, path, tmp_path):
    run_probe(ProbeConfig(path, method="robust-heads")).save(tmp_path / "probe.json")
    wide = make_store(
        num_videos=8, name="wide.zarr", taps=[Tap(HEADS, LAYERS, 8 * WIDTH, num_heads=NUM_HEADS)]
    )
    config = EvaluateConfig(wide, tmp_path / "probe.json", tmp_path / "results", allow_overlap=True)
    with pytest.raises(HiProbeError, match=r"of 30 features, those of .* have 60\. Train"):
        run_evaluate(config)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "robust-heads", "tap": FRAMES_MEAN}, "leave --tap frames_mean out"),
        ({"method": "robust-heads", "layer": "dlsp"}, "leave --layer dlsp out"),
        ({"method": "robust-heads", "mil": 1}, "leave --mil out"),
        ({"method": "robust-heads", "layer": (1, 9)}, r"no layer 9 of taps/heads; it has layers 1"),
        ({"method": "robust-heads", "prompt": "other"}, "no 'heads' of prompt 'other'"),
        ({"method": "spherical", "scorer": "svm"}, "--scorer is svm: leave one of them out"),
        ({"method": "magic"}, "the method is 'magic', expected hiprobe, robust-heads, spherical"),
    ],
)
def test_an_option_that_a_method_cannot_heed_is_refused(path, settings, said):
    with pytest.raises(HiProbeError, match=said):
        run_probe(ProbeConfig(path, **settings))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"tap": "tails"}, "the tap of input 0 of member 0 is 'tails', expected hidden_states"),
        ({"layer": -1}, "the layer of input 0 of member 0 is -1"),
        ({"prompt": "../x"}, "the prompt of input 0 of member 0"),
        ({"heads": [4]}, "a head of input 0 of member 0 is 4, expected a whole number from 0 to 3"),
        ({"num_heads": 0}, "num_heads of input 0 of member 0 is 0"),
    ],
)
def test_damaged_inputs_are_named(path, tmp_path, damage, said):
    run_probe(ProbeConfig(path, method="robust-heads")).save(tmp_path / "probe.json")
    content = json.loads((tmp_path / "probe.json").read_text())
    content["members"][0]["inputs"][0] |= damage
    (tmp_path / "probe.json").write_text(json.dumps(content))
    with pytest.raises(HiProbeError, match=f"not a whole probe: {said}"):
        Probe.load(tmp_path / "probe.json")


def test_the_command_says_what_is_read_and_what_other_videos_need(path, tmp_path):
    chosen = ["--method", "robust-heads", "--prompt", "severity", "--num-videos", "12"]
    result = CliRunner().invoke(
        app, ["probe", str(path), str(tmp_path / "p.json"), *chosen], env={"COLUMNS": "300"}
    )
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "reads heads of layer 2 (heads 1) of prompt 'severity'; heads of layer" in said
    assert f"`hiprobe extract --layers-from {tmp_path / 'p.json'}`" in said
    wrong = CliRunner().invoke(app, ["probe", str(path), "p.json", "--method", "magic"])
    assert wrong.exit_code == 2
    assert "robust-heads" in wrong.output
