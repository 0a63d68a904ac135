"""The sweep against single probes and evaluations, interrupted, and on a real Dask cluster."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import zarr

from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.evaluate.test_set import TestSet
from hiprobe.probe.layer_rules import LAYER_RULES
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import (
    FeatureStore,
    HiProbeError,
    StoreError,
    VideoRecord,
    write_manifest,
)
from hiprobe.sweep import pipeline
from hiprobe.sweep.paired import compare_settings
from hiprobe.sweep.pipeline import SweepConfig, run_sweep
from hiprobe.sweep.table_file import read_table
from tests.conftest import forget_digests


@pytest.fixture
def store(make_store):
    return make_store()


def grid(store, **options):
    defaults = {"fractions": (0.5, 0.75), "seeds": (0, 1), "kappas": (0.0, 0.2)}
    defaults["scorers"] = ("logistic", "svm", "distance")
    return SweepConfig(stores=(store,), **(defaults | options))


@pytest.mark.parametrize("scorer", ["logistic", "svm", "distance"])
def test_an_experiment_equals_probe_and_evaluate(store, tmp_path, scorer):
    table = run_sweep(grid(store, scorers=(scorer,)), tmp_path / "sweep.csv")
    probe = run_probe(ProbeConfig(store, fraction=0.5, seed=1, scorer=scorer, layer="dlsp"))
    probe.save(tmp_path / "probe.json")
    metrics = run_evaluate(
        EvaluateConfig(store, tmp_path / "probe.json", tmp_path / "results", num_resamples=0)
    )
    own = table[(table.fraction == 0.5) & (table.seed == 1) & (table.kappa == 0.2)]
    assert own[own.is_dlsp_choice]["layer"].tolist() == [probe.layer]
    row = own[own.layer == probe.layer].iloc[0]
    assert row.auc == pytest.approx(metrics["smoothed"]["auc"], abs=1e-12)
    assert row.raw_ap == pytest.approx(metrics["raw"]["ap"], abs=1e-12)
    assert row.threshold == pytest.approx(probe.threshold["value"], abs=1e-12)
    assert row.localized_auc == pytest.approx(metrics["localized"]["auc"], abs=1e-12)
    assert row.binary_ap == pytest.approx(metrics["binary"]["ap"], abs=1e-12)
    assert row.f1 == pytest.approx(metrics["f1"], abs=1e-12)
    assert row.false_alarm_rate == pytest.approx(metrics["false_alarm_rate"], abs=1e-12)
    saliency = [probe.layers["saliency"][layer] for layer in own.layer]
    np.testing.assert_allclose(own.saliency, saliency, atol=1e-9)


def test_the_table_is_the_whole_grid(store, tmp_path):
    config = grid(store, scorers=("logistic", "distance"), l2s=(0.0, 1.0))
    table = run_sweep(config, tmp_path / "sweep.parquet")
    # Two penalties for one scorer, none for the other; 4 layers, 2 fractions, 2 seeds, 2 kappas.
    assert len(table) == 3 * 4 * 2 * 2 * 2
    assert not table.duplicated(["layer", "scorer", "l2", "fraction", "seed", "kappa"]).any()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "sweep.parquet"), table)
    assert list(tmp_path.glob("*.parts*")) == []


def test_an_interrupted_sweep_goes_on(store, tmp_path, monkeypatch):
    whole = run_sweep(grid(store), tmp_path / "whole.csv")
    run_task, computed = pipeline.run_task, []

    def interrupted(config, task, prepared):
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(task.layer)
        return run_task(config, task, prepared)

    monkeypatch.setattr(pipeline, "run_task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(grid(store), tmp_path / "again.csv")
    assert not (tmp_path / "again.csv").exists()
    monkeypatch.setattr(
        pipeline,
        "run_task",
        lambda config, task, prepared: (
            computed.append(task.layer) or run_task(config, task, prepared)
        ),
    )
    again = run_sweep(grid(store), tmp_path / "again.csv")
    assert computed == [1, 2, 3, 4]
    pd.testing.assert_frame_equal(again, whole)


def test_each_layer_is_read_once(store, tmp_path, monkeypatch):
    reads, layer = [], FeatureStore.layer

    def counted(self, number, *others, **place):
        reads.append(number)
        return layer(self, number, *others, **place)

    monkeypatch.setattr(FeatureStore, "layer", counted)
    run_sweep(grid(store, seeds=tuple(range(5))), tmp_path / "sweep.csv")
    assert sorted(reads) == [1, 1, 2, 2, 3, 3, 4, 4]  # training and test videos


@pytest.mark.slow
def test_worker_processes_give_the_same_table(store, tmp_path):
    alone = run_sweep(grid(store), tmp_path / "alone.csv")
    shared = run_sweep(grid(store), tmp_path / "shared.csv", num_workers=2)
    pd.testing.assert_frame_equal(shared, alone, rtol=1e-9)


def test_another_data_set_is_tested_on(make_store, tmp_path):
    train, other = make_store(), make_store(seed=1, name="other.zarr")
    table = run_sweep(grid(train, test_store=other), tmp_path / "sweep.csv")
    own = run_sweep(grid(train), tmp_path / "own.csv")
    assert (table.kl_divergence == own.kl_divergence).all()
    assert (table.auc != own.auc).any()
    assert table[table.layer == 3].auc.mean() > 0.85


def test_a_store_of_another_width_is_refused(make_store, tmp_path):
    train, other = make_store(), make_store(num_features=8, name="other.zarr")
    with pytest.raises(StoreError, match=r"num_features is 8, that of .* is 16"):
        run_sweep(grid(train, test_store=other), tmp_path / "sweep.csv")


def test_another_dtype_is_warned_of_as_in_an_evaluation(make_store, tmp_path):
    train = make_store(provenance={"model": {"dtype": "bfloat16"}, "manifest": {"digest": "a"}})
    other = make_store(
        seed=1,
        name="other.zarr",
        provenance={"model": {"dtype": "float16"}, "manifest": {"digest": "b"}},
    )
    warnings = []
    run_sweep(grid(train, test_store=other), tmp_path / "sweep.csv", on_warning=warnings.append)
    assert warnings == [f"{other}: model.dtype is 'float16', that of {train} is 'bfloat16'"]
    run_probe(ProbeConfig(train)).save(tmp_path / "probe.json")
    metrics = run_evaluate(
        EvaluateConfig(other, tmp_path / "probe.json", tmp_path / "results", num_resamples=0)
    )
    assert [text for text in metrics["warnings"] if "dtype" in text]


def test_a_store_of_another_model_is_refused(make_store, tmp_path):
    other = make_store(name="other.zarr", provenance={"model": {"weights_digest": "sha256:1"}})
    with pytest.raises(HiProbeError, match=r"weights_digest is 'sha256:1', that of .* is 'sha25"):
        run_sweep(grid(make_store(), test_store=other), tmp_path / "sweep.csv")


def test_a_store_of_unknown_origin_is_swept(make_store, tmp_path):
    known, unknown = make_store(), make_store(name="other.zarr", provenance={})
    assert len(run_sweep(grid(unknown), tmp_path / "own.csv")) == 3 * 4 * 2 * 2 * 2
    warnings = []
    run_sweep(grid(unknown, test_store=known), tmp_path / "c.csv", on_warning=warnings.append)
    assert f"{known}: model.weights_digest is 'sha256:0', that of {unknown} is None" in warnings


def test_videos_of_the_same_files_are_refused_by_another_manifest_too(make_store, tmp_path):
    train, other = make_store(), make_store(seed=1, name="other.zarr")
    config = replace(grid(train, test_store=other, layers=(3,)), test_split="train")
    with pytest.raises(HiProbeError, match=r"12 of 12 videos to evaluate were used for"):
        run_sweep(config, tmp_path / "sweep.csv")
    warnings = []
    allowed = replace(config, allow_overlap=True)
    run_sweep(allowed, tmp_path / "sweep.csv", on_warning=warnings.append)
    assert [text for text in warnings if "12 of 12 videos tested on were trained on" in text]


def test_a_manifest_labels_training_and_test_videos(store, tmp_path):
    """Only the first 16 videos take part, with their own labels: 8 to train and 8 to test on."""
    videos = FeatureStore.open(store).videos.iloc[:16]
    write_manifest(
        tmp_path / "m.csv",
        [
            VideoRecord(video_id, "x.mp4", row.split, row.label, annotations=row.annotations)
            for video_id, row in videos.iterrows()
        ],
    )
    warnings = []
    config = grid(store, manifest=tmp_path / "m.csv")
    table = run_sweep(config, tmp_path / "sweep.csv", on_warning=warnings.append)
    assert table.num_videos.max() == 6
    assert [text.split(": ")[1].split(" of")[0] for text in warnings] == [
        "4 train videos",
        "4 test videos",
    ]


def test_training_on_test_videos_is_refused(store, tmp_path):
    with pytest.raises(HiProbeError, match="12 of 12 videos to evaluate were used for"):
        run_sweep(replace(grid(store), test_split="train"), tmp_path / "sweep.csv")


def test_missing_layers_and_odd_names_are_refused(store, tmp_path):
    with pytest.raises(HiProbeError, match="no layer 9; it has layers 0 to 4"):
        run_sweep(grid(store, layers=(9,)), tmp_path / "sweep.csv")
    with pytest.raises(HiProbeError, match="the sweep has no layer, expected at least one"):
        run_sweep(grid(store, layers=()), tmp_path / "sweep.csv")
    with pytest.raises(HiProbeError, match="the sweep has no scorer with a penalty that it can"):
        run_sweep(grid(store, scorers=("svm",), l2s=(0.0,)), tmp_path / "sweep.csv")
    with pytest.raises(HiProbeError, match=r"ends in .parquet or .csv"):
        run_sweep(grid(store), tmp_path / "sweep.txt")


def test_a_scheduler_that_does_not_answer_is_said(store, tmp_path, monkeypatch):
    monkeypatch.setattr("hiprobe.store.dask_cluster.TIMEOUT_SECONDS", 0.5)
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        with pytest.raises(HiProbeError, match="no Dask scheduler answers there"):
            run_sweep(grid(store), tmp_path / "out.csv", scheduler=address)


def test_results_of_a_store_that_has_changed_are_not_gone_on_with(store, tmp_path, monkeypatch):
    run_task, computed = pipeline.run_task, []

    def interrupted(config, task, prepared):
        if computed:
            raise KeyboardInterrupt
        computed.append(task.layer)
        return run_task(config, task, prepared)

    monkeypatch.setattr(pipeline, "run_task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(grid(store), tmp_path / "out.csv")
    monkeypatch.setattr(pipeline, "run_task", run_task)
    forget_digests(store)
    zarr.open_group(store, mode="a").attrs["created"] = "later"
    counted = []
    run_sweep(grid(store), tmp_path / "out.csv", on_task=lambda done, total: counted.append(done))
    assert counted[0] == 0


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_of_an_earlier_sweep_are_never_lost(store, tmp_path, suffix):
    out = tmp_path / f"sweep.{suffix}"
    first = run_sweep(grid(store, layers=(3,)), out)
    before = out.read_bytes()
    with pytest.raises(
        HiProbeError, match=r"its rows would be lost\. Write to another file, or add"
    ):
        run_sweep(grid(store, layers=(4,)), out)
    with pytest.raises(HiProbeError, match=r"holds 24 of these experiments already:\n.*layer 3"):
        run_sweep(grid(store, layers=(3, 4)), out, existing="append")
    with pytest.raises(HiProbeError, match="cannot append: scores would be in some rows only"):
        run_sweep(grid(store, layers=(4,), keep_scores=True), out, existing="append")
    assert out.read_bytes() == before
    second = run_sweep(grid(store, layers=(4,)), out, existing="append")
    both = read_table(out)
    pd.testing.assert_frame_equal(both, pd.concat([first, second], ignore_index=True))


def test_a_draw_of_the_same_videos_is_not_appended_under_another_fraction(store, tmp_path):
    run_sweep(grid(store, fractions=(0.01,), layers=(3,)), tmp_path / "s.csv")
    again = grid(store, fractions=(0.05,), layers=(3,))
    with pytest.raises(HiProbeError, match="holds 12 of these experiments already"):
        run_sweep(again, tmp_path / "s.csv", existing="append")


def test_a_draw_that_is_there_already_is_said_and_counted_once(store, tmp_path):
    """12 training videos: 1 % and 5 % are both raised to 2 of each class."""
    warnings = []
    sizes = {"fractions": (0.01, 0.05, 1.0), "seeds": (0, 1, 2)}
    config = grid(store, scorers=("logistic",), layers=(3,), **sizes)
    table = run_sweep(config, tmp_path / "sweep.csv", on_warning=warnings.append)
    counts = table[table.kappa == 0.2].groupby(["fraction", "num_videos"]).size()
    assert counts.to_dict() == {(0.01, 4): 3, (1.0, 12): 1}
    assert [text.removeprefix(f"{store}: ") for text in warnings] == [
        "a fraction of 0.01 of 6 normal and 6 anomalous videos: 4 are drawn, at least 2 of each "
        "class and at most all",
        "a fraction of 0.05 of 6 normal and 6 anomalous videos: 4 are drawn, at least 2 of each "
        "class and at most all",
        "a fraction of 0.05, 3 seeds: the very videos that a fraction of 0.01 draws, run and "
        "counted once",
        "a fraction of 1, 2 seeds: the very videos that another seed of it draws, run and "
        "counted once",
    ]


@pytest.mark.parametrize("size", [{"fractions": (1.0,)}, {"num_videos": (12, 100)}])
def test_repeats_that_cannot_differ_are_refused(store, tmp_path, size):
    with pytest.raises(
        HiProbeError, match="3 repeats were asked for, and each would draw the same"
    ):
        run_sweep(grid(store, seeds=(0, 1, 2), **size), tmp_path / "sweep.csv")
    assert list(tmp_path.glob("sweep*")) == []


def test_probe_says_that_a_fraction_was_raised(store):
    (warning,) = run_probe(ProbeConfig(store, fraction=0.01)).training["warnings"]
    assert warning.startswith("a fraction of 0.01 of 6 normal and 6 anomalous videos: 4 are drawn")
    assert run_probe(ProbeConfig(store, fraction=0.5)).training["warnings"] == []


def test_labels_of_videos_alone_are_refused(store, tmp_path):
    records = [
        VideoRecord(name, "x", row["split"], row["label"])
        for name, row in FeatureStore.open(store).videos.iterrows()
    ]
    write_manifest(tmp_path / "m.csv", records)
    with pytest.raises(HiProbeError, match="in the 6 anomalous test videos something happens"):
        run_sweep(grid(store, manifest=tmp_path / "m.csv"), tmp_path / "sweep.csv")
    assert not (tmp_path / "sweep.csv").exists()


@pytest.mark.parametrize("mil", [0, 2])
def test_a_rules_experiment_equals_probe_and_evaluate(store, tmp_path, mil):
    """For every rule: the layers, both areas and the threshold, in one draw of two."""
    config = grid(
        store, scorers=("logistic",), fractions=(0.75,), kappas=(0.2,), mil=mil,
        rules=tuple(LAYER_RULES),
    )  # fmt: skip
    table = run_sweep(config, tmp_path / "sweep.parquet")
    assert set(table[table.layer.isna()]["rule"]) == set(LAYER_RULES)
    for rule in LAYER_RULES:
        probe = run_probe(ProbeConfig(store, fraction=0.75, seed=1, layer=rule, mil=mil))
        (row,) = table[(table["rule"] == rule) & (table.seed == 1)].itertuples()
        assert row.layers == ",".join(map(str, probe.layers_read)), rule
        test = TestSet.of_store(FeatureStore.open(store))
        states = {layer: np.concatenate([*test.states(layer)]) for layer in probe.layers_read}
        scored = test.score(probe.score(states), threshold=probe.threshold["value"])
        assert row.auc == pytest.approx(scored.areas(scored.smoothed)["auc"], abs=1e-12), rule
        assert row.ap == pytest.approx(scored.areas(scored.smoothed)["ap"], abs=1e-12), rule
        assert row.threshold == pytest.approx(probe.threshold["value"], abs=1e-9), rule
        assert row.f1 == pytest.approx(scored.f1, abs=1e-12), rule


def test_rules_leave_the_rows_of_single_layers_alone(store, tmp_path):
    alone = run_sweep(grid(store, scorers=("logistic",)), tmp_path / "alone.csv")
    config = grid(store, scorers=("logistic",), rules=("last", "upper-half"), keep_scores=True)
    both = run_sweep(config, tmp_path / "both.csv")
    single = both[both["rule"] == ""].astype({"layer": "int64"})[list(alone)]
    pd.testing.assert_frame_equal(single.reset_index(drop=True), alone)
    last, top = both[both["rule"] == "last"], both[both.layer == 4]
    assert last["auc"].tolist() == top["auc"].tolist()
    assert not last["is_dlsp_choice"].any()
    pd.testing.assert_frame_equal(read_table(tmp_path / "both.csv"), both)
    content = compare_settings(
        tmp_path / "both.csv",
        {"layer": "4", "num_videos": "6"},
        {"rule": "last", "num_videos": "6"},
        num_resamples=20,
    )
    assert content["auc"]["difference"] == 0


def test_a_sweep_with_rules_goes_on_after_its_layers(store, tmp_path, monkeypatch):
    config = grid(store, scorers=("logistic",), rules=("dlsp", "cv"))
    whole = run_sweep(config, tmp_path / "whole.csv")

    def killed(*arguments):
        raise KeyboardInterrupt

    run_rules = pipeline.run_rules
    monkeypatch.setattr(pipeline, "run_rules", killed)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(config, tmp_path / "again.csv")
    monkeypatch.setattr(pipeline, "run_rules", run_rules)
    monkeypatch.setattr(pipeline, "run_task", killed)
    pd.testing.assert_frame_equal(run_sweep(config, tmp_path / "again.csv"), whole)


def test_an_unknown_rule_is_refused(store, tmp_path):
    with pytest.raises(HiProbeError, match="the layer rule is 'best', expected dlsp, last,"):
        run_sweep(grid(store, rules=("best",)), tmp_path / "sweep.csv")


def test_thresholds_for_rates_of_false_alarms_are_those_of_probe(store, tmp_path):
    config = grid(
        store, scorers=("logistic",), layers=(2, 3), fractions=(1.0,), seeds=(0,),
        kappas=(0.2,), rules=("all",), target_fars=(0.05, 0.2),
    )  # fmt: skip
    table = run_sweep(config, tmp_path / "sweep.csv")
    for layer, rows in ((3, table[table.layer == 3]), ((2, 3), table[table["rule"] == "all"])):
        own = rows.set_index("target_far")["threshold"]
        for rate in (0.05, 0.2):
            probe = run_probe(ProbeConfig(store, layer=layer, target_far=rate))
            assert own[rate] == pytest.approx(probe.threshold["value"], abs=1e-9), layer
    assert table["target_far"].isna().sum() == 3
    with pytest.raises(HiProbeError, match="holds 9 of these experiments already"):
        run_sweep(config, tmp_path / "sweep.csv", existing="append")


def test_scorers_that_learn_the_normal_class_train_where_no_video_is_anomalous(
    make_store, tmp_path
):
    normal = make_store(labels=("normal", "normal"), name="normal.zarr", num_videos=40)
    mixed = make_store(seed=3, num_videos=40, name="mixed.zarr")
    config = SweepConfig(
        stores=(normal,), test_store=mixed, scorers=("mahalanobis", "sklearn.svm:OneClassSVM"),
        allow_overlap=True,
    )  # fmt: skip
    table = run_sweep(config, tmp_path / "sweep.csv")
    assert table.groupby("scorer")["auc"].max().min() > 0.8
    assert not table["is_dlsp_choice"].any()
    with pytest.raises(StoreError, match="0 anomalous"):
        run_sweep(replace(config, scorers=("logistic", "nearest")), tmp_path / "other.csv")


def test_a_named_scorer_takes_part_in_a_sweep_as_probe_fits_it(store, tmp_path):
    scorer = "sklearn.naive_bayes:GaussianNB"
    table = run_sweep(grid(store, scorers=(scorer,), layers=(3,)), tmp_path / "sweep.csv")
    run_probe(ProbeConfig(store, fraction=0.5, seed=1, scorer=scorer, layer=3)).save(
        tmp_path / "probe.json"
    )
    metrics = run_evaluate(
        EvaluateConfig(store, tmp_path / "probe.json", tmp_path / "results", num_resamples=0)
    )
    row = table[(table.fraction == 0.5) & (table.seed == 1) & (table.kappa == 0.2)].iloc[0]
    assert row.auc == pytest.approx(metrics["smoothed"]["auc"], abs=1e-12)
    assert row.f1 == pytest.approx(metrics["f1"], abs=1e-12)
