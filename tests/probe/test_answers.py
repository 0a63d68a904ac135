"""The model's own answers as a method: p(yes), and ordinal severity, against plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from typer.testing import CliRunner

from hiprobe.cli.main import app
from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe.answers import severity_prompts
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import FeatureStore, HiProbeError, Probe, StoreError
from hiprobe.store.answer_rows import Answers
from hiprobe.store.probe_inputs import Input
from hiprobe.store.scorers.answer_scorer import AnswerScorer
from hiprobe.store.taps import HIDDEN_STATES, Tap
from tests.conftest import write_store

WIDTH, LAST = 16, 4
STEPS = tuple(range(10, 101, 10))
SEVERITIES = [Tap(HIDDEN_STATES, (0, 1, 2, 3, 4), WIDTH, prompt=f"severity-{step}")
              for step in STEPS]  # fmt: skip
OTHER = Tap(HIDDEN_STATES, (3, 4), WIDTH, prompt="other")


def answers(words=("Yes", " yes", "No", "A", "no")):
    rng = np.random.default_rng(9)
    head = rng.normal(0, 0.1, size=(len(words), WIDTH)).astype("f4")
    for row, word in enumerate(words):
        head[row, :4] += {"yes": 1, "no": -1}.get(word.strip().lower(), 0)
    bias, norm = rng.normal(size=len(words)).astype("f4"), rng.uniform(0.5, 2, WIDTH).astype("f4")
    return Answers(tuple(words), tuple(range(len(words))), head, bias, norm, 1e-6, LAST)


def mark(tap, states, segments):
    """The last layer tells, the more the smaller the severity that is asked for."""
    states[-1, segments, :4] += 2.5 - (int(tap.prompt.partition("-")[2] or 0)) / 100


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_store(
        tmp_path_factory.mktemp("answers") / "s.zarr", num_videos=24, best_layer=3,
        answers=answers(), taps=[*SEVERITIES, OTHER], mark=mark,
    )  # fmt: skip


def p_yes(kept, state, layer):
    """Of one segment, in plain arithmetic."""
    state = [float(x) for x in state]
    if layer != LAST:
        size = math.sqrt(sum(x * x for x in state) / len(state) + kept.epsilon)
        state = [x / size * float(w) for x, w in zip(state, kept.norm, strict=True)]
    weights = {}
    for word, row, bias in zip(kept.words, kept.head, kept.bias, strict=True):
        z = sum(x * float(w) for x, w in zip(state, row, strict=True)) + float(bias)
        plain = word.strip().lower()
        weights[plain] = weights.get(plain, 0.0) + math.exp(z)
    return weights["yes"] / (weights["yes"] + weights["no"])


@pytest.mark.parametrize(("layer", "prompt"), [(None, ""), (3, ""), (4, "other"), (3, "other")])
def test_a_score_is_the_probability_of_yes(path, tmp_path, layer, prompt):
    config = ProbeConfig(path, method="answers", layer=layer, prompt=prompt)
    probe = run_probe(config)
    probe.save(tmp_path / "probe.json")
    read = Probe.load(tmp_path / "probe.json")
    store, number = FeatureStore.open(path), layer or LAST
    states = store.layer(number, prompt=prompt)
    expected = [p_yes(store.answers, state, number) for state in states]
    place = Input(number, prompt=prompt)
    np.testing.assert_allclose(read.score({place: states}), expected, rtol=1e-6)
    assert read.threshold["value"] == 0.5
    assert (read.layers_read, read.inputs) == ((number,), (place,))


def test_ordinal_severity_is_the_mean_over_a_loop_of_isotonic_regressions(path, tmp_path):
    probe = run_probe(ProbeConfig(path, method="ordinal"))
    probe.save(tmp_path / "probe.json")
    read = Probe.load(tmp_path / "probe.json")
    assert [one.prompt for one in read.members[0].inputs] == [f"severity-{s}" for s in STEPS]
    assert read.training["severities"] == [step / 100 for step in STEPS]
    store = FeatureStore.open(path)
    states = {one: store.layer(LAST, prompt=one.prompt) for one in read.inputs}
    of_prompts = np.array(
        [[p_yes(store.answers, state, LAST) for state in states[Input(LAST, prompt=name)][:40]]
         for name in (f"severity-{step}" for step in STEPS)]
    ).T  # fmt: skip
    taus = [step / 100 for step in STEPS]
    expected = [
        IsotonicRegression(increasing=False).fit_transform(taus, row).mean() for row in of_prompts
    ]
    np.testing.assert_allclose(read.score(states)[:40], expected, rtol=1e-6)


@pytest.mark.parametrize(("method", "prompt"), [("answers", "other"), ("ordinal", "")])
def test_evaluate_scores_by_it_without_a_label_having_been_read(path, tmp_path, method, prompt):
    config = ProbeConfig(path, method=method, prompt=prompt)
    run_probe(config).save(tmp_path / "probe.json")
    # Of no video is anything known, so any may be evaluated.
    for split in ("train", "test"):
        metrics = run_evaluate(
            EvaluateConfig(path, tmp_path / "probe.json", tmp_path / split, split, num_resamples=0)
        )
        assert metrics["method"] == method
        assert metrics["warnings"] == []
    assert metrics["smoothed"]["auc"] > 0.8
    # Nor would it matter if there were none.
    assert run_probe(replace(config, split="nothing")).members == run_probe(config).members


def test_p_yes_stands_among_the_controls_of_every_result(path, make_store, tmp_path):
    run_probe(ProbeConfig(path, layer=3)).save(tmp_path / "probe.json")
    config = EvaluateConfig(path, tmp_path / "probe.json", tmp_path / "results", num_resamples=0)
    found = run_evaluate(config)["controls"]["p_yes"]
    run_probe(ProbeConfig(path, method="answers")).save(tmp_path / "own.json")
    own = run_evaluate(replace(config, probe=tmp_path / "own.json", results=tmp_path / "own"))
    assert found == {name: own["smoothed"][name] for name in ("auc", "ap")}
    assert "the model&#39;s own answer" in (tmp_path / "results/report.html").read_text()
    bare = make_store(name="bare.zarr")
    metrics = run_evaluate(replace(config, store=bare, results=tmp_path / "bare"))
    assert "p_yes" not in metrics["controls"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layer": "dlsp"}, "leave --layer dlsp out"),
        ({"layer": (3, 4)}, "leave --layer 3,4 out"),
        ({"tap": "heads"}, "leave --tap heads out"),
        ({"scorer": "svm"}, "leave --scorer svm out"),
        ({"fraction": 0.5}, "leave --fraction out"),
        ({"num_videos": 4}, "leave --num-videos out"),
        ({"target_far": 0.1}, "leave --target-far out"),
        ({"calibration": "platt"}, "leave --calibrate out"),
        ({"mil": 1}, "leave --mil out"),
        ({"layer": 9}, "--method answers: reads hidden_states of layer 9. .*no layer 9"),
        ({"layer": 2, "prompt": "other"}, "no layer 2 of prompts/other/hidden_states"),
        ({"prompt": "nobody"}, "no 'hidden_states' of prompt 'nobody'"),
    ],
)
def test_what_it_cannot_heed_is_refused(path, settings, said):
    with pytest.raises(HiProbeError, match=said):
        run_probe(ProbeConfig(path, method="answers", **settings))


def test_a_store_without_answers_or_without_these_is_refused(make_store, path):
    with pytest.raises(StoreError, match="keeps no answers, the rows of the LM head"):
        run_probe(ProbeConfig(make_store(name="bare.zarr"), method="answers"))
    other = make_store(name="other.zarr", answers=answers(("Yes", "A", "B")))
    with pytest.raises(StoreError, match=r"\('Yes', 'A', 'B'\) none is a spelling"):
        run_probe(ProbeConfig(other, method="answers"))
    with pytest.raises(StoreError, match="has 0 prompts named odd-N, N from 1 to 100"):
        run_probe(ProbeConfig(path, method="ordinal", prompt="odd"))


def test_the_command_says_that_nothing_is_trained(path, tmp_path):
    command = ["probe", str(path), str(tmp_path / "p.json"), "--method", "answers"]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    assert "layer 4 (last), the model's own answer: nothing is trained" in result.output
    assert "--calibrate" not in result.output  # it would be refused


def test_prompts_are_ordered_by_the_severity_in_their_names():
    names = ["severity-100", "", "severity-5", "severity", "severity-0", "severity-101", "x-50",
             "severity-50", "severity-050"]  # fmt: skip
    found = severity_prompts(names, "severity")
    assert [*found.items()] == [(0.05, "severity-5"), (0.5, "severity-50"), (1.0, "severity-100")]
    assert severity_prompts(["my-own-10", "my-own-20"], "my-own") == {0.1: "my-own-10",
                                                                      0.2: "my-own-20"}  # fmt: skip


@given(st.lists(st.floats(-30, 30), min_size=10, max_size=10))
def test_isotonic_regression_of_any_answers_has_the_mean_that_is_scored(log_odds):
    one = np.ones((1, 1))
    scorer = AnswerScorer(one, 0 * one, one[0] * 0, one[0] * 0, None, 1e-6, num_prompts=10)
    p = 1 / (1 + np.exp(-np.array(log_odds)))
    curve = IsotonicRegression(increasing=False).fit_transform(np.arange(10), p)
    found = 1 / (1 + np.exp(-scorer.logits(np.array([log_odds]))))
    np.testing.assert_allclose(found, [curve.mean()], atol=1e-9)


def test_a_scorer_reads_back_and_what_cannot_be_is_refused():
    one = AnswerScorer.of(answers(), 3, num_prompts=2)
    content = one.to_json()
    states = np.random.default_rng(2).normal(size=(6, 2 * WIDTH))
    np.testing.assert_array_equal(
        AnswerScorer.from_json(content).logits(states), one.logits(states)
    )
    assert one.num_features == 2 * WIDTH
    for change in (
        {"norm": [1.0]}, {"yes_bias": [0.0]}, {"num_prompts": 0}, {"epsilon": -1.0}, {"no": {}},
        {"yes": {"shape": [], "base64": ""}}, {"num_prompts": 10**9},
    ):  # fmt: skip
        with pytest.raises((ValueError, HiProbeError, KeyError)):
            AnswerScorer.from_json(content | change)


def test_a_severity_of_all_or_nothing_is_still_a_number():
    kept = answers()
    scorer = AnswerScorer.of(replace(kept, head=kept.head * 1e4), LAST, num_prompts=2)
    states = np.zeros((2, 2 * WIDTH))
    states[0, [0, WIDTH]], states[1, [0, WIDTH]] = 1e3, -1e3
    found = scorer.logits(states)
    assert np.isfinite(found).all()
    assert found[0] > 20
    assert found[1] < -20
