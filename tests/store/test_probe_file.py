"""A probe of several layers: what it scores, what is written, and who may read it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from hiprobe.store import Probe
from hiprobe.store.probe_members import Member, layer_list, read_logits
from hiprobe.store.scorers import fit_scorer


@pytest.fixture
def states():
    rng = np.random.default_rng(0)
    return {layer: rng.normal(size=(40, 6)) + layer for layer in (2, 5, 9)}


@pytest.fixture
def members(states):
    is_anomalous = np.arange(40) % 2 == 0
    fitted = {
        2: fit_scorer("logistic", states[2], is_anomalous),
        5: fit_scorer("distance", states[5], is_anomalous),
    }
    return tuple(Member(layer, 0.5 + layer, one.to_json()) for layer, one in fitted.items())


def probe_of(members, **parts):
    parts = {"store": {}, "layers": {}, "threshold": {"value": 0.5}, "training": {}} | parts
    return Probe.of_members(members, **parts | {"training": {"video_ids": []}})


def schema_of(probe, folder):
    probe.save(folder / "probe.json")
    assert Probe.load(folder / "probe.json") == probe
    return json.loads((folder / "probe.json").read_text())["schema"]


def test_a_score_is_the_mean_of_the_members_logits_each_in_its_own_unit(members, states):
    probe = probe_of(members)
    first, second = (one.fitted.logits(states[one.layer]) for one in members)
    expected = (first / 2.5 + second / 5.5) / 2
    np.testing.assert_allclose(probe.logits(states), expected, rtol=1e-14)
    np.testing.assert_array_equal(probe.score(states), expit(probe.logits(states)))
    assert probe.layers_read == (2, 5)
    assert (probe.layer, probe.scorer) == (None, {})
    with pytest.raises(ValueError, match="too many values"):
        probe.score(states[2])


def test_one_member_takes_its_states_with_and_without_their_layer(members, states):
    probe = probe_of((replace(members[0], scale=1.0),))
    expected = expit(members[0].fitted.logits(states[2]))
    np.testing.assert_array_equal(probe.score(states[2]), expected)
    np.testing.assert_array_equal(probe.score(states), expected)
    assert probe == Probe({}, 2, {}, members[0].scorer, {"value": 0.5}, {"video_ids": []})


def test_a_calibration_bends_the_scores_and_keeps_their_order(members, states):
    plain = probe_of(members)
    calibrated = replace(plain, calibration={"slope": 2.0, "intercept": -1.0})
    scores = calibrated.score(states)
    np.testing.assert_array_equal(scores, expit(2.0 * plain.logits(states) - 1.0))
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(plain.score(states)))


def test_the_first_schema_is_written_while_an_older_hiprobe_scores_right_by_it(members, tmp_path):
    alone = replace(members[0], scale=1.0)
    one = probe_of((alone,))
    assert schema_of(one, tmp_path) == "hiprobe-probe-1"
    assert schema_of(replace(one, baseline=alone), tmp_path) == "hiprobe-probe-1"
    assert schema_of(probe_of((members[0],)), tmp_path) == "hiprobe-probe-2"
    assert schema_of(probe_of(members, baseline=alone), tmp_path) == "hiprobe-probe-2"
    calibrated = replace(one, calibration={"slope": 2.0, "intercept": 0.0})
    assert schema_of(calibrated, tmp_path) == "hiprobe-probe-2"
    far = replace(one, threshold={"value": 0.5, "kind": "target-far"})
    assert schema_of(far, tmp_path) == "hiprobe-probe-2"


def test_all_layers_of_the_largest_models_fit_into_the_file(tmp_path):
    rng = np.random.default_rng(0)
    wide = {"kind": "logistic", "weight": rng.normal(size=8192).tolist(), "bias": 0.1, "l2": 1.0,
            "num_iterations": 9}  # fmt: skip
    probe = probe_of(tuple(Member(layer, 1.5, wide) for layer in range(81)))
    probe.save(tmp_path / "probe.json")
    assert Probe.load(tmp_path / "probe.json").layers_read == tuple(range(81))
    assert (tmp_path / "probe.json").stat().st_size < 2**25


def test_ensembles_are_scored_from_one_read_of_each_layer(members, states):
    reads = []

    def read(layer):
        reads.append(layer)
        yield from np.split(states[layer], [7, 30])

    both, first, second = read_logits([members, members[:1], members[1:]], read)
    assert reads == [2, 5]
    np.testing.assert_allclose(both, probe_of(members).logits(states), rtol=1e-14)
    np.testing.assert_array_equal(first, members[0].logits(states[2]))
    np.testing.assert_array_equal(second, members[1].logits(states[5]))


def test_layers_are_written_as_they_are_asked_for():
    assert layer_list([20]) == "20"
    assert layer_list((24, 0, 8, 16, 17, 18)) == "0,8,16-18,24"
