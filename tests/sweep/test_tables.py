"""The paper's tables, from real stores."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import DONE, HiProbeError, PlannedVideo, StoreWriter, VideoRecord
from hiprobe.store.official import OFFICIAL_TOTALS, OfficialTotals
from hiprobe.sweep.pipeline import SweepConfig
from hiprobe.sweep.tables import TableConfig, ablation, cross_dataset, keyframes


@pytest.fixture
def config(tmp_path):
    return TableConfig(tmp_path / "tables", SweepConfig((), fractions=(0.7,), seeds=(0, 1)))


def evaluated(store, tmp_path, seed, **options):
    """The same experiment by `probe` and `evaluate`."""
    threshold = options.pop("threshold", None)
    options = {"layer": "dlsp"} | options
    probe = run_probe(ProbeConfig(store, fraction=0.7, seed=seed, **options))
    probe.save(tmp_path / "probe.json")
    return run_evaluate(
        EvaluateConfig(
            store, tmp_path / "probe.json", tmp_path / "r", threshold=threshold, num_resamples=0
        )
    )


def test_the_ablation_equals_probe_and_evaluate(make_store, tmp_path, config):
    store = make_store()
    rows = ablation([store], config).rows.set_index("setting")
    experiments = {
        "full": {},
        "last layer": {"layer": 4},
        "middle layer": {"layer": 2},
        "SVM": {"scorer": "svm"},
        "distance": {"scorer": "distance"},
        "threshold 0.25": {"threshold": 0.25},
    }
    for setting, options in experiments.items():
        measured = [evaluated(store, tmp_path, seed, **options) for seed in (0, 1)]
        for column, variant, area in (
            ("auc", "smoothed", "auc"),
            ("ap", "smoothed", "ap"),
            ("localized_auc", "localized", "auc"),
            ("binary_ap", "binary", "ap"),
        ):
            values = pd.Series([one[variant][area] for one in measured])
            assert rows.loc[setting, column] == pytest.approx(values.mean(), abs=1e-9), setting
            assert rows.loc[setting, f"{column}_std"] == pytest.approx(values.std(), abs=1e-9)
    assert rows["paper"].isna().all()


def test_a_penalty_of_0_leaves_the_svm_one(make_store, tmp_path):
    config = TableConfig(tmp_path, SweepConfig((), l2s=(0.0,)))
    rows = ablation([make_store()], config).rows.set_index("setting")
    assert rows["num_draws"].eq(1).all()
    assert rows.loc["SVM", "auc"] > 0.5


def test_cross_dataset_goes_both_ways(make_store, tmp_path, config):
    one, other = make_store(), make_store(seed=1, num_videos=28, name="other.zarr")
    table = cross_dataset([one, other], config)
    assert list(zip(table.rows["train"], table.rows["test"], strict=True)) == [
        (str(one), str(other)),
        (str(other), str(one)),
    ]
    measured = []
    for seed in (0, 1):
        probe = run_probe(ProbeConfig(one, fraction=0.7, seed=seed, layer="dlsp"))
        probe.save(tmp_path / "probe.json")
        measured.append(
            run_evaluate(
                EvaluateConfig(other, tmp_path / "probe.json", tmp_path / "r", num_resamples=0)
            )["smoothed"]["auc"]
        )
    assert table.rows["auc"][0] == pytest.approx(sum(measured) / 2, abs=1e-9)
    text = (config.out / "cross-dataset.md").read_text()
    assert text.startswith("| setting | trained on | tested on | layer | AUC | AP |")
    assert "| made-up | features.zarr | other.zarr | 3 |" in text
    made = json.loads((config.out / "cross-dataset.json").read_text())
    assert [store["path"] for store in made["stores"]] == [str(one), str(other)]
    assert made["options"]["fractions"] == [0.7]


def make_tiny(path, keyframes, model="made-up", digest="sha256:0", dtype="bfloat16", prompt="?"):
    model = {"id": model, "class": "None", "weights_digest": digest, "dtype": dtype}
    provenance = {"model": model, "keyframes": keyframes}
    provenance |= {"prompt": prompt, "manifest": {"digest": "same"}}
    writer = StoreWriter.create(
        path, layers=range(3), num_features=2, provenance=provenance, row_block=4
    )
    with writer:
        plans = []
        for index in range(12):
            label = ("normal", "anomalous")[index % 2]
            ranges = ((24, 48),) if index % 2 else ()
            split = "train" if index < 8 else "test"
            record = VideoRecord(f"v{index}", f"/{index}.mp4", split, label, annotations=ranges)
            plans.append(PlannedVideo(record, 72, 24.0, [(0, 24), (24, 48), (48, 72)]))
        writer.add_videos(plans)
        for video, plan in enumerate(plans):
            states = [[[video % 5 * 0.1 + layer, k * 0.1] for k in range(3)] for layer in range(3)]
            if plan.record.label == "anomalous":
                for layer in states:
                    layer[1][0] += 3.0
            writer.write_block(video, 0, np.array(states, dtype=np.float32))
            writer.finish_video(video, status=DONE, num_frames=72, fps=24.0)
    return path


def test_keyframes_are_read_from_the_stores(tmp_path, config):
    paths = [make_tiny(tmp_path / f"{k}.zarr", k) for k in (8, 2)]
    table = keyframes(paths, config)
    assert list(table.rows["setting"]) == ["K = 2", "K = 8"]
    with pytest.raises(HiProbeError, match="both have 2 keyframes"):
        keyframes([paths[1], make_tiny(tmp_path / "again.zarr", 2)], config)
    with pytest.raises(HiProbeError, match="expected one model"):
        keyframes([paths[1], make_tiny(tmp_path / "o.zarr", 4, digest="sha256:1")], config)
    with pytest.raises(HiProbeError, match=r"prompt is '\?' and 'Why\?', expected stores that dif"):
        keyframes([paths[1], make_tiny(tmp_path / "p.zarr", 4, prompt="Why?")], config)


def test_another_dtype_is_noted_below_the_table(tmp_path, config):
    stores = [make_tiny(tmp_path / f"{k}.zarr", k, dtype=d) for k, d in ((2, "float16"), (8, "?"))]
    notes = keyframes(stores, config).notes
    assert [note for note in notes if "model.dtype is 'float16' and '?'" in note]
    assert "model.dtype" in (config.out / "keyframes.md").read_text()


def test_stores_of_unknown_origin_make_tables(make_store, tmp_path, config):
    one, other = make_store(provenance={}), make_store(seed=1, name="other.zarr", provenance={})
    for rows in ablation([one], config).rows, cross_dataset([one, other], config).rows:
        assert rows["auc"].between(0, 1).all()
        assert rows["paper"].isna().all()
    with pytest.raises(HiProbeError, match="does not say how many keyframes a segment has"):
        keyframes([one, other], config)


def test_other_models_make_no_pair(tmp_path, config):
    one = make_tiny(tmp_path / "a.zarr", 8)
    other = make_tiny(tmp_path / "b.zarr", 8, digest="sha256:1")
    with pytest.raises(HiProbeError, match="no two of these stores are of the same model"):
        cross_dataset([one, other], config)


def test_the_papers_figures_need_its_data_and_its_model(tmp_path, config, monkeypatch):
    # The tiny stores' own totals stand for UCF-Crime's: 4 videos, 288 frames, 48 anomalous.
    own = OfficialTotals("UCF-Crime", 4, 288, 48)
    monkeypatch.setitem(OFFICIAL_TOTALS, "ucf-crime", own)
    hers = make_tiny(tmp_path / "a.zarr", 8, model="OpenGVLab/InternVL2_5-8B")
    ours = make_tiny(tmp_path / "b.zarr", 8, model="tiny")
    papers = ablation([hers, ours], config).rows
    assert papers["paper"].notna().tolist() == [True] * 8 + [False] * 8
    row = papers.iloc[1]
    assert (row["setting"], row["paper"], row["paper_metric"]) == ("last layer", 0.8321, "auc")
    assert "83.21 (AUC)" in (config.out / "ablation.md").read_text()
    monkeypatch.setitem(OFFICIAL_TOTALS, "ucf-crime", replace(own, num_anomalous_frames=49))
    assert ablation([hers], config).rows["paper"].isna().all()


@pytest.mark.slow
def test_stores_of_the_real_extractor_make_table_5(tmp_path, config):
    from hiprobe.demo.clips import plan_clips, write_clips
    from hiprobe.demo.model import TRAINED_MODEL
    from hiprobe.extract.config import BackboneConfig, ExtractConfig
    from hiprobe.extract.pipeline import extract
    from hiprobe.extract.video import inspect_video
    from hiprobe.manifest.folder import folder_manifest
    from hiprobe.store import write_manifest

    write_clips(plan_clips(20, seed=0), tmp_path / "videos")
    videos = tmp_path / "videos"
    draft = folder_manifest(videos, annotations=videos / "annotations.csv", inspect=inspect_video)
    write_manifest(tmp_path / "m.csv", draft.records)
    backbone = BackboneConfig(str(TRAINED_MODEL), device="cpu")
    stores = [tmp_path / f"{k}.zarr" for k in (2, 4, 8, 16)]
    for store in stores:
        k = int(store.stem)
        extract(ExtractConfig(tmp_path / "m.csv", store, backbone, keyframes=k, parity=0))
    rows = keyframes(stores, config).rows
    assert rows["setting"].tolist() == ["K = 2", "K = 4", "K = 8", "K = 16"]
    assert rows["auc"].between(0.3, 1).all()
    assert rows["auc"].nunique() == 4


def test_rules_have_rows_of_their_own_in_every_table(make_store, tmp_path, config):
    config = replace(config, sweep=replace(config.sweep, rules=("last", "all")))
    rows = ablation([make_store()], config).rows.set_index("setting")
    assert rows.loc["rule last", "auc"] == rows.loc["last layer", "auc"]
    assert rows.loc["rule all", "layers"] == "1-4"
    measured = [evaluated(make_store(name=f"{s}.zarr"), tmp_path, s, layer="all") for s in (0, 1)]
    aucs = pd.Series([one["smoothed"]["auc"] for one in measured])
    assert rows.loc["rule all", "auc"] == pytest.approx(aucs.mean(), abs=1e-9)
    errors = [one["smoothed"]["auc_se"] for one in measured]
    total = np.sqrt(aucs.var() + np.mean(np.square(errors)))
    assert rows.loc["rule all", "auc_total_se"] == pytest.approx(total, abs=1e-9)
    text = (config.out / "ablation.md").read_text()
    assert "AUC's total error" in text.splitlines()[0]
    assert "deviation over 2 few-shot draw(s)" in text
