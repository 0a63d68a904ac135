"""Rows of methods other than the paper's in a sweep: what `probe --method` and `evaluate` give."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from hiprobe.cli.main import app
from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe.pipeline import METHODS, ProbeConfig, run_probe
from hiprobe.store import FeatureStore, HiProbeError, StoreError
from hiprobe.store.answer_rows import Answers
from hiprobe.store.taps import FRAMES_LAST, HEADS, HIDDEN_STATES, Tap
from hiprobe.sweep import pipeline
from hiprobe.sweep.method_experiments import EXPERIMENTS
from hiprobe.sweep.paired import compare_settings
from hiprobe.sweep.pipeline import SweepConfig, run_sweep
from hiprobe.sweep.table_file import read_table
from tests.conftest import write_store

NUM_HEADS, WIDTH, LAYERS = 3, 4, (1, 2, 3, 4)
TAPS = [
    *(
        Tap(HEADS, LAYERS, NUM_HEADS * WIDTH, prompt=one, num_heads=NUM_HEADS)
        for one in ("", "other")
    ),
    *(Tap(HIDDEN_STATES, (4,), 16, prompt=f"severity-{step}") for step in (50, 100)),
    Tap(FRAMES_LAST, (0, *LAYERS), 16),
]
ANSWERS = Answers(
    ("Yes", "No"), (0, 1), np.eye(2, 16, dtype="f4"), np.zeros(2, "f4"), np.ones(16, "f4"), 1e-6, 4
)
OTHERS = ("robust-heads", "spherical", "answers", "ordinal")
ALL = tuple(METHODS)


def mark(tap, states, segments):
    states[min(1, len(states) - 1), segments, :4] += 1.0


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("methods") / "s.zarr"
    return write_store(path, num_videos=32, taps=TAPS, mark=mark, answers=ANSWERS)


def grid(path, **options):
    defaults = {"scorers": ("logistic",), "num_videos": (8,), "seeds": (0, 1, 2), "methods": ALL}
    return SweepConfig((path,), **(defaults | options))


@pytest.fixture(scope="module")
def swept(path):
    """A sweep of all methods, with kept scores: its table's path."""
    out = path.parent / "all.csv"
    run_sweep(grid(path, keep_scores=True, target_fars=(0.1,)), out)
    return out


@pytest.fixture(scope="module")
def table(swept):
    return read_table(swept)


def evaluated(path, folder, **options):
    probe = run_probe(ProbeConfig(path, **options))
    probe.save(folder / "probe.json")
    config = EvaluateConfig(path, folder / "probe.json", folder / "results", num_resamples=0)
    return probe, run_evaluate(config)


def same(row, probe, metrics):
    """Whether a row has what an evaluation gave."""
    assert row["layers"] == ",".join(map(str, probe.layers_read))
    for column, expected in {
        "auc": metrics["smoothed"]["auc"],
        "ap": metrics["smoothed"]["ap"],
        "raw_auc": metrics["raw"]["auc"],
        "localized_auc": metrics["localized"]["auc"],
        "binary_ap": metrics["binary"]["ap"],
        "f1": metrics["f1"],
        "false_alarm_rate": metrics["false_alarm_rate"],
        "threshold": metrics["threshold"],
    }.items():
        assert row[column] == pytest.approx(expected, abs=1e-12), column


def test_the_sweep_knows_every_method():
    assert {"hiprobe", *EXPERIMENTS} == {*METHODS}


@pytest.mark.parametrize(
    ("method", "scorer", "options", "cut"),
    [
        ("robust-heads", "logistic", {}, {"kappa": 0.2}),
        ("robust-heads", "logistic", {"target_far": 0.1}, {"target_far": 0.1}),
        ("spherical", "logistic", {"target_far": 0.1}, {"target_far": 0.1}),
        ("spherical", "logistic", {"tap": FRAMES_LAST}, {"target_far": 0.05}),
        ("robust-heads", "svm", {"prompt": "other"}, {"kappa": 0.2}),
        ("robust-heads", "mahalanobis", {"layer": (2, 3)}, {"target_far": 0.05}),
    ],
)
def test_a_row_of_each_draw_is_what_probe_and_evaluate_give(
    path, table, tmp_path, method, scorer, options, cut
):
    if {"tap", "prompt", "layer"} & {*options}:  # of grids of their own
        place = {"layers" if name == "layer" else name: value for name, value in options.items()}
        config = grid(path, scorers=(scorer,), methods=(method,), **place)
        table = run_sweep(config, tmp_path / "own.csv")
    own = table[table["method"] == method]
    ((name, value),) = cut.items()
    own = own[own[name] == value].set_index("seed")
    assert len(own) == 3
    assert own["layer"].isna().all()
    for seed in (0, 1, 2):
        asked = {"method": method, "num_videos": 8, "seed": seed, "scorer": scorer}
        probe, metrics = evaluated(path, tmp_path, **asked, **options)
        same(own.loc[seed], probe, metrics)
        tap = options.get("tap", HEADS if method == "robust-heads" else HIDDEN_STATES)
        assert (own.loc[seed, "tap"], own.loc[seed, "prompt"]) == (tap, options.get("prompt", ""))


@pytest.mark.parametrize("method", ["answers", "ordinal"])
def test_what_learns_nothing_has_one_row_and_no_draw(path, table, tmp_path, method):
    (row,) = table[table["method"] == method].to_dict("records")
    same(row, *evaluated(path, tmp_path, method=method))
    assert (row["num_videos"], row["threshold"], row["l2"]) == (0, 0.5, 0)
    assert pd.isna(row["kappa"])
    assert pd.isna(row["fraction"])
    assert row["prompt"] == ("" if method == "answers" else "severity-50,severity-100")


def test_rows_of_layers_are_those_of_a_sweep_without_methods(path, table, tmp_path):
    config = grid(path, keep_scores=True, target_fars=(0.1,), rules=("dlsp",), methods=("hiprobe",))
    plain = run_sweep(config, tmp_path / "plain.csv")
    names = [name for name in plain if name != "scores"]
    both = [one[one["layer"].notna()][names].reset_index(drop=True) for one in (table, plain)]
    pd.testing.assert_frame_equal(*both)
    # Spherical prototypes are of the layer that DLSP chooses.
    chosen = [
        one.drop_duplicates("seed")["layers"].tolist()
        for one in (table[table["method"] == "spherical"], plain[plain["rule"] == "dlsp"])
    ]
    assert chosen[0] == chosen[1]


def test_whatever_the_number_of_draws_the_reads_are_as_many(path, tmp_path, monkeypatch):
    iterated, reads = FeatureStore.iter_layer, []

    def counted(self, layer, videos=None, *others, tap=HIDDEN_STATES, prompt="", **how):
        reads.append((layer, tap, prompt, len(videos)))
        return iterated(self, layer, videos, *others, tap=tap, prompt=prompt, **how)

    monkeypatch.setattr(FeatureStore, "iter_layer", counted)
    run_sweep(grid(path, seeds=tuple(range(6)), methods=("robust-heads",)), tmp_path / "t.csv")
    num_test = len(FeatureStore.open(path).videos.query("split == 'test'"))
    of_test = [one for one in reads if one[-1] == num_test]
    of_training = [one[:3] for one in reads if one[-1] != num_test]
    assert len(of_test) == len({*of_test}) <= len(LAYERS)
    # Once to judge the heads; of the prompt that is scored once more, for the vectors of some.
    assert all(of_training.count(one) == 1 for one in of_training if one[2] == "other")
    assert max(map(of_training.count, of_training)) == 2
    reads.clear()
    run_sweep(grid(path, methods=("hiprobe", "spherical")), tmp_path / "s.csv")
    again = {one for one in reads if reads.count(one) > 1}
    chosen = set(read_table(tmp_path / "s.csv").query("method == 'spherical'")["layers"])
    assert {str(layer) for layer, *_ in again} <= chosen


def test_methods_are_added_to_a_table_of_layers_that_an_older_hiprobe_wrote(path, tmp_path, table):
    out = tmp_path / "out.csv"
    run_sweep(grid(path, methods=("hiprobe",)), out)
    older = pd.read_csv(out, float_precision="round_trip").drop(columns="method")
    older.to_csv(out, index=False)
    config = grid(path, methods=OTHERS)
    run_sweep(config, out, existing="append")
    both = read_table(out)
    assert both["method"].drop_duplicates().tolist() == list(ALL[:1] + OTHERS)
    expected = table.groupby("method")["auc"].mean()
    pd.testing.assert_series_equal(both.groupby("method")["auc"].mean(), expected)
    with pytest.raises(
        HiProbeError, match=r"holds 8 of these experiments already:\n.*robust-heads"
    ):
        run_sweep(config, out, existing="append")


def test_an_interrupted_sweep_goes_on_with_its_methods(path, tmp_path, monkeypatch):
    config = grid(path, seeds=(0, 1))
    whole = run_sweep(config, tmp_path / "whole.csv")
    run_method, tried = pipeline.run_method, []

    def killed(config, task, figures, prepared):
        tried.append(task.method)
        if len(tried) == 2:
            raise KeyboardInterrupt
        return run_method(config, task, figures, prepared)

    monkeypatch.setattr(pipeline, "run_method", killed)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(config, tmp_path / "again.csv")
    pd.testing.assert_frame_equal(run_sweep(config, tmp_path / "again.csv"), whole)
    assert tried == ["robust-heads", "spherical", *OTHERS[1:]]


@pytest.mark.slow
def test_worker_processes_give_the_same_rows_of_methods(path, tmp_path):
    config = grid(path, seeds=(0, 1), rules=("dlsp",), keep_scores=True)
    alone = run_sweep(config, tmp_path / "alone.csv")
    shared = run_sweep(config, tmp_path / "shared.csv", num_workers=2)
    names = [name for name in alone if name != "scores"]
    pd.testing.assert_frame_equal(shared[names], alone[names], rtol=1e-9)


def test_methods_are_compared_over_all_draws(swept, table):
    means = table.drop_duplicates(["method", "draw"]).groupby("method")["auc"].mean()
    for one, other in (("robust-heads", "spherical"), ("answers", "robust-heads")):
        found = compare_settings(swept, {"method": one}, {"method": other}, num_resamples=20)
        assert found["num_draws"] == 3
        assert found["auc"]["difference"] == pytest.approx(means[other] - means[one], abs=1e-12)
        assert found["auc"]["error_draws"] > 0
    both = [{"method": "answers"}, {"method": "ordinal"}]
    assert compare_settings(swept, *both, num_resamples=20)["num_draws"] == 1
    layer = compare_settings(swept, {"layer": "3"}, {"method": "answers"}, num_resamples=20)
    assert layer["num_draws"] == 3


def test_another_store_is_tested_on(path, tmp_path):
    other = write_store(tmp_path / "o.zarr", taps=TAPS, mark=mark, answers=ANSWERS, seed=5)
    config = grid(path, test_store=other, methods=OTHERS, seeds=(0, 1), allow_overlap=True)
    found = run_sweep(config, tmp_path / "t.csv")
    probe = run_probe(ProbeConfig(path, method="robust-heads", num_videos=8, seed=1))
    probe.save(tmp_path / "probe.json")
    evaluate = EvaluateConfig(
        other, tmp_path / "probe.json", tmp_path / "r", num_resamples=0, allow_overlap=True
    )
    own = found[(found["method"] == "robust-heads") & (found["seed"] == 1)]
    same(own.iloc[0], probe, run_evaluate(evaluate))
    bare = write_store(tmp_path / "bare.zarr", seed=5)
    with pytest.raises(StoreError, match=r"bare.zarr: has no 'heads' .*--taps heads"):
        run_sweep(replace(config, test_store=bare), tmp_path / "u.csv")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ("magic",)}, "the method is 'magic', expected hiprobe, robust-heads"),
        ({"methods": ()}, "the sweep has no method, expected at least one"),
        ({"methods": ("answers",), "rules": ("last",)}, "rules last choose layers for the method"),
        ({"methods": ("ordinal",), "layers": (3,)}, "at its last layer: leave --layers out"),
        ({"methods": ("spherical",), "layers": (0,)}, "choose among layers above 0, and the sweep"),
        ({"methods": ("hiprobe",), "rules": ("dlsp",), "layers": (0,)}, "choose among layers abo"),
        ({"tap": FRAMES_LAST, "methods": ("robust-heads",)}, "leave --tap frames_last out"),
        ({"mil": 2, "methods": ("hiprobe", "answers")}, "leave --mil out"),
        ({"prompt": "other", "methods": ("ordinal",)}, "has 0 prompts named other-N"),
    ],
)
def test_what_a_method_cannot_heed_is_said_before_the_work(path, tmp_path, options, said):
    with pytest.raises(HiProbeError, match=said):
        run_sweep(grid(path, **options), tmp_path / "t.csv")
    assert list(tmp_path.glob("t*")) == []


def test_a_store_that_does_not_allow_a_method_is_said_before_the_work(tmp_path):
    bare = write_store(tmp_path / "bare.zarr")
    for method, said in (("robust-heads", "--taps heads"), ("answers", "keeps no answers")):
        with pytest.raises(StoreError, match=said):
            run_sweep(grid(bare, methods=("hiprobe", method)), tmp_path / "t.csv")


def test_the_command_shows_a_line_for_each_method(path, tmp_path):
    chosen = [f"--method={method}" for method in OTHERS]
    sizes = ["--num-videos", "8", "--repeats", "2"]
    arguments = ["sweep", path, tmp_path / "t.parquet", *sizes, *chosen]
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for method in OTHERS:
        assert f"method {method}" in result.output
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 6
    wrong = CliRunner().invoke(app, ["sweep", str(path), "t.csv", "--method", "magic"])
    assert wrong.exit_code == 2
