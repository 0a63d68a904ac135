"""The evaluation job on a real store, against scikit-learn on expanded frames."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import zarr
from sklearn.metrics import average_precision_score, roc_auc_score

from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.evaluate.report import render_results
from hiprobe.evaluate.test_set import Convention, TestSet
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import (
    FeatureStore,
    HiProbeError,
    ManifestError,
    StoreError,
    VideoRecord,
    write_manifest,
)
from tests.conftest import forget_digests


@pytest.fixture
def config(make_store, tmp_path):
    store = make_store()
    run_probe(ProbeConfig(store, layer="dlsp")).save(tmp_path / "probe.json")
    return EvaluateConfig(store, tmp_path / "probe.json", tmp_path / "results", num_resamples=50)


def changed(config, **fields):
    return type(config)(**{**vars(config), **fields})


def frames_of(config):
    """Ground truth and smoothed score of every test frame, from the written files alone."""
    videos = FeatureStore.open(config.store).videos
    truth, scores = [], []
    with (config.results / "scores.csv").open() as file:
        for row in csv.DictReader(file):
            for frame in range(int(row["start_frame"]), int(row["stop_frame"])):
                ranges = videos.loc[row["video_id"], "annotations"]
                truth.append(any(start <= frame < stop for start, stop in ranges))
                scores.append(float(row["smoothed"]))
    return np.array(truth), np.array(scores)


def test_metrics_equal_scikit_learn_on_the_written_scores(config):
    metrics = run_evaluate(config)
    truth, scores = frames_of(config)
    assert metrics["num_frames"] == len(truth)
    assert metrics["num_anomalous_frames"] == truth.sum()
    assert metrics["smoothed"]["auc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert metrics["smoothed"]["ap"] == pytest.approx(
        average_precision_score(truth, scores), abs=1e-12
    )
    flagged = np.where(scores > metrics["threshold"], scores, 0)
    assert metrics["localized"]["auc"] == pytest.approx(roc_auc_score(truth, flagged), abs=1e-12)
    assert metrics["smoothed"]["auc"] > 0.9  # the store's anomalies are easy
    low, high = metrics["smoothed"]["auc_ci"]
    assert low < metrics["smoothed"]["auc"] < high
    assert json.loads((config.results / "metrics.json").read_text()) == metrics


def last_layer_alone(config):
    """Areas of a probe of the last layer, trained on the same videos."""
    alone = changed(config, probe=config.probe.with_name("last.json"))
    run_probe(ProbeConfig(config.store, layer="last")).save(alone.probe)
    return run_evaluate(changed(alone, results=config.results.with_name("last")))["smoothed"]


@pytest.mark.parametrize("layer", [None, "upper-half", (1, 3), "last"])
def test_the_last_layer_stands_beside_every_result(config, layer):
    run_probe(ProbeConfig(config.store, layer=layer)).save(config.probe)
    metrics, expected = run_evaluate(config), last_layer_alone(config)
    assert metrics["last_layer"] == {"layer": 4, "auc": expected["auc"], "ap": expected["ap"]}
    page = config.results.joinpath("report.html").read_text()
    assert "Last layer <small>4, smoothed" in page


def test_a_probe_of_several_layers_scores_the_mean_of_its_members(config):
    probe = run_probe(ProbeConfig(config.store, layer="upper-half"))
    probe.save(config.probe)
    metrics = run_evaluate(config)
    assert (metrics["layer"], metrics["layers_read"]) == (None, [3, 4])
    store = FeatureStore.open(config.store)
    table = pd.read_csv(config.results / "scores.csv")
    for video_id, own in table.groupby("video_id"):
        states = dict(zip(store.layers, store.video(video_id), strict=True))
        np.testing.assert_allclose(own["score"], probe.score(states), rtol=1e-12)
    assert metrics["provenance"]["probe"]["layers"] == [3, 4]
    shared = metrics["provenance"]["probe"]["scorer"]
    assert (shared["kind"], shared["l2"], "bias" in shared) == ("logistic", 1.0, False)
    page = config.results.joinpath("report.html").read_text()
    assert ", layers 3-4</title>" in page.replace(" · hiprobe", "")
    assert page.count(" <small>chosen</small>") == 2


def test_layers_that_the_store_lacks_are_named(config, make_store):
    run_probe(ProbeConfig(config.store, layer=(2, 3, 4))).save(config.probe)
    few = make_store(num_layers=3, best_layer=2, name="few.zarr")
    missing = r"reads layers 2-4, of which .*few\.zarr lacks 3-4\. Extract with `--layers 2-4`"
    with pytest.raises(HiProbeError, match=missing):
        run_evaluate(changed(config, store=few))
    run_probe(ProbeConfig(config.store, layer=2)).save(config.probe)
    assert "last_layer" not in run_evaluate(changed(config, store=few))


def test_intervals_are_the_flagged_frames(config):
    run_evaluate(config)
    content = json.loads((config.results / "intervals.json").read_text())
    with (config.results / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for video_id, video in content["videos"].items():
        flagged = {
            frame
            for row in rows
            if row["video_id"] == video_id and row["anomalous"] == "1"
            for frame in range(int(row["start_frame"]), int(row["stop_frame"]))
        }
        found = {
            frame
            for interval in video["anomalous"]
            for frame in range(interval["start_frame"], interval["stop_frame"])
        }
        assert found == flagged
        lengths = [
            interval["stop_frame"] - interval["start_frame"]
            for interval in video["anomalous"] + video["normal"]
        ]
        assert sum(lengths) == video["num_frames"]


def test_the_report_is_whole_and_self_contained(config):
    run_evaluate(config)
    page = (config.results / "report.html").read_text()
    assert page.count("<article") == 12
    assert "<script src" not in page
    assert "<link" not in page


def test_training_videos_are_not_evaluated(config):
    with pytest.raises(HiProbeError, match="12 of 12 videos to evaluate were used for training"):
        run_evaluate(changed(config, split="train"))


def test_a_probe_of_another_model_is_refused(config):
    content = json.loads(config.probe.read_text())
    content["store"]["provenance"]["model"]["weights_digest"] = "sha256:other"
    config.probe.write_text(json.dumps(content))
    with pytest.raises(HiProbeError, match="trained on states of another model"):
        run_evaluate(config)


def with_attributes(store, **changes):
    """Change a store's provenance; None takes an attribute away."""
    forget_digests(store)
    attributes = zarr.open_group(store, mode="a").attrs
    for name, value in changes.items():
        if value is None:
            del attributes[name]
        else:
            attributes[name] = value


def test_another_precision_is_said_and_evaluated(config):
    model = FeatureStore.open(config.store).provenance["model"]
    with_attributes(config.store, model=model | {"dtype": "bfloat16"})
    run_probe(ProbeConfig(config.store, layer="dlsp")).save(config.probe)
    with_attributes(config.store, model=model | {"dtype": "float16"})
    assert run_evaluate(changed(config, num_resamples=0))["warnings"] == [
        "the probe was trained on states of another dtype: 'bfloat16', the store's is 'float16'"
    ]


def test_a_store_with_nothing_but_what_must_be_there_passes(config):
    with_attributes(config.store, model=None, manifest=None)
    run_probe(ProbeConfig(config.store, layer="dlsp")).save(config.probe)
    metrics = run_evaluate(changed(config, num_resamples=0))
    assert metrics["warnings"] == []
    assert metrics["smoothed"]["auc"] > 0.9
    with pytest.raises(HiProbeError, match="12 of 12 videos to evaluate were used for training"):
        run_evaluate(changed(config, split="train"))
    (config.results / "report.html").unlink()
    render_results(config.results)
    assert "<h1>an unknown model, layer 3</h1>" in (config.results / "report.html").read_text()


def test_a_store_that_does_not_name_its_model_is_said(config):
    with_attributes(config.store, model=None)
    assert "another weights_digest: 'sha256:0', the store's is None" in str(
        run_evaluate(config)["warnings"]
    )


def test_what_is_no_probe_says_so(config, tmp_path):
    (tmp_path / "text.json").write_text("no json")
    (tmp_path / "other.json").write_text("{}")
    for name, message in {
        "missing.json": "no such probe",
        "text.json": "cannot read it as a probe",
        "other.json": "expected a probe with schema .*'hiprobe-probe-2' or 'hiprobe-probe-3', got",
    }.items():
        with pytest.raises(HiProbeError, match=message):
            run_evaluate(changed(config, probe=tmp_path / name))


def other_labels(config, tmp_path, label, annotations):
    records = [
        VideoRecord(video_id, "x", "test" if int(video_id[-2:]) % 4 >= 2 else "train", label)
        for video_id in FeatureStore.open(config.store).videos.index
    ]
    records = [VideoRecord(**{**vars(r), "annotations": annotations}) for r in records]
    write_manifest(tmp_path / "other.csv", records)
    return changed(config, manifest=tmp_path / "other.csv")


def test_one_class_is_undefined_not_half(config, tmp_path):
    metrics = run_evaluate(other_labels(config, tmp_path, "normal", ()))
    assert metrics["smoothed"]["auc"] is None
    assert metrics["controls"]["video_oracle"] == {"auc": None, "ap": None}
    assert "undefined" in (config.results / "report.html").read_text()


def test_annotations_beyond_the_end_are_clipped_and_said(config, tmp_path):
    metrics = run_evaluate(other_labels(config, tmp_path, "anomalous", ((100, 9000),)))
    clipped = [one for one in metrics["warnings"] if "annotation ended at 9000, clipped" in one]
    assert len(clipped) == 12


def test_annotations_beyond_the_video_are_listed(config, tmp_path):
    with pytest.raises(ManifestError, match="8000:9000 lies beyond its"):
        run_evaluate(other_labels(config, tmp_path, "anomalous", ((8000, 9000),)))


def with_annotations(config, tmp_path, keep):
    """A manifest that has the annotations of some videos only."""
    known = FeatureStore.open(config.store).videos
    records = [
        VideoRecord(name, "x", row["split"], row["label"], "", row["annotations"] * keep(name))
        for name, row in known.iterrows()
    ]
    write_manifest(tmp_path / "other.csv", records)
    return changed(config, manifest=tmp_path / "other.csv")


def test_one_missing_annotation_is_a_mistake(config, tmp_path):
    with pytest.raises(ManifestError, match=r"1 test video.*\n  video-03: labelled anomalous, but"):
        run_evaluate(with_annotations(config, tmp_path, lambda name: name != "video-03"))


def test_video_labels_alone_give_video_level_figures(config, tmp_path):
    with_frames = run_evaluate(config)
    metrics = run_evaluate(with_annotations(config, tmp_path, lambda name: False))
    assert metrics["video_level"] == with_frames["video_level"]
    videos = FeatureStore.open(config.store).videos
    scores = pd.read_csv(config.results / "scores.csv").groupby("video_id")["smoothed"].max()
    truth = videos.loc[scores.index, "label"] == "anomalous"
    found = metrics["video_level"]["maximum"]
    assert found["auc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert found["ap"] == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    # Six videos of each kind, all told apart: of AUC 1 only the resampled interval is known.
    assert found["ap_ci"] == [1.0, 1.0]
    assert metrics["false_alarm_rate"] == with_frames["false_alarm_rate"]
    assert metrics["num_frames"] == with_frames["num_frames"]
    for name in ("f1", "events", "num_anomalous_frames", "equal_error_rate"):
        assert metrics[name] is None
    assert metrics["smoothed"]["auc"] is None
    assert "no annotation says where in the 6 anomalous videos" in metrics["warnings"][0]
    page = (config.results / "report.html").read_text()
    assert "left out" in page
    assert json.loads((config.results / "metrics.json").read_text()) == metrics


def test_a_videos_mean_is_over_its_frames(config):
    metrics = run_evaluate(config)
    table = pd.read_csv(config.results / "scores.csv")
    frames = table["stop_frame"] - table["start_frame"]
    total = (table["smoothed"] * frames).groupby(table["video_id"]).sum()
    means = total / frames.groupby(table["video_id"]).sum()
    truth = FeatureStore.open(config.store).videos.loc[means.index, "label"] == "anomalous"
    expected = roc_auc_score(truth, means)
    assert metrics["video_level"]["mean"]["auc"] == pytest.approx(expected, abs=1e-12)


def test_a_manifest_of_other_videos_is_refused(config, tmp_path):
    records = [
        VideoRecord("video-02", "x", "test", "normal", num_frames=999),
        VideoRecord("elsewhere", "x", "test", "normal"),
    ]
    write_manifest(tmp_path / "other.csv", records)
    with pytest.raises(ManifestError, match=r"2 test video\(s\) do not fit") as caught:
        run_evaluate(changed(config, manifest=tmp_path / "other.csv"))
    assert "video-02: has 999 frames here, 226 in the store" in str(caught.value)
    assert "elsewhere: not in the store" in str(caught.value)


def test_videos_that_a_manifest_leaves_out_are_said(config, tmp_path):
    known = FeatureStore.open(config.store).videos
    records = [
        VideoRecord(name, "x", "test", row["label"], annotations=row["annotations"])
        for name, row in known[known["split"] == "test"].iloc[2:].iterrows()
    ]
    write_manifest(tmp_path / "other.csv", records)
    metrics = run_evaluate(changed(config, manifest=tmp_path / "other.csv"))
    assert metrics["num_videos"] == 10
    assert "2 test videos of the store are not in other.csv" in metrics["warnings"][0]


def test_scores_that_are_no_numbers_are_refused(config):
    test = TestSet.of_store(FeatureStore.open(config.store))
    scores = np.zeros(len(test.is_evaluated))
    scores[0] = np.nan
    with pytest.raises(HiProbeError, match="scores are not finite, the first in 'video-02'"):
        test.score(scores)


def test_a_probe_of_what_is_no_number_is_refused(config):
    content = json.loads(config.probe.read_text())
    content["scorer"]["weight"][0] = float("nan")
    config.probe.write_text(json.dumps(content))
    with pytest.raises(HiProbeError, match=r"probe\.json: not a whole probe: .*weight is nan"):
        run_evaluate(config)


def test_the_convention_is_recorded_and_counts(config):
    convention = Convention("pad-16", "inclusive")
    metrics = run_evaluate(changed(config, convention=convention))
    plain = run_evaluate(config)
    assert metrics["ground_truth"] == {
        "first_frame": 0, "length": "pad-16", "ends": "inclusive", "beyond_the_length": "clipped",
    }  # fmt: skip
    lengths = [video["num_frames"] for video in json.loads(
        (config.results / "intervals.json").read_text())["videos"].values()]  # fmt: skip
    assert plain["num_frames"] == sum(lengths)
    assert metrics["num_frames"] == sum(-(-length // 16) * 16 for length in lengths)
    assert metrics["num_anomalous_frames"] == plain["num_anomalous_frames"] + 6


def copied_with(config, make_store, **manifest):
    """The same videos in another store."""
    other = make_store(name="other.zarr")
    with_attributes(other, manifest=manifest)
    return changed(config, store=other, split="train")


def test_training_videos_are_known_by_the_manifests_digest(config, make_store):
    same = FeatureStore.open(config.store).provenance["manifest"]["digest"]
    moved = copied_with(config, make_store, path="/elsewhere", digest=same)
    with pytest.raises(HiProbeError, match="were used for training"):
        run_evaluate(moved)


def test_coinciding_ids_of_another_manifest_are_refused_unless_allowed(config, make_store):
    other = copied_with(config, make_store, path="/m", digest="another")
    with pytest.raises(HiProbeError, match="video-00: same file, same id"):
        run_evaluate(other)
    metrics = run_evaluate(changed(other, allow_overlap=True))
    assert "12 of 12 videos tested on were trained on (overlap allowed)" in metrics["warnings"][0]


def test_a_threshold_must_be_a_number(config):
    with pytest.raises(HiProbeError, match="the threshold is nan"):
        run_evaluate(changed(config, threshold=float("nan")))


def test_what_an_earlier_evaluation_left_is_gone(config):
    config.results.mkdir()
    (config.results / "thumbnails.json").write_text('{"video-02": []}')
    run_evaluate(config)
    assert not (config.results / "thumbnails.json").exists()


def test_a_split_without_videos_says_so(make_store, config):
    with pytest.raises(StoreError, match="no finished videos in split 'test'"):
        run_evaluate(changed(config, store=make_store(num_videos=2, name="few.zarr")))


def test_text_in_the_report_is_escaped(config, tmp_path):
    from hiprobe.evaluate.report_content import ReportContent, ReportVideo
    from hiprobe.evaluate.report_page import render_page

    metrics = run_evaluate(config)
    video = ReportVideo(
        video_id="<script>alert(1)</script>",
        label="normal",
        category="",
        fps=25.0,
        num_frames=24,
        start_frames=np.array([0]),
        stop_frames=np.array([24]),
        scores=np.array([0.5]),
        smoothed=np.array([0.5]),
        intervals=(),
        annotations=(),
    )
    content = ReportContent(
        title="</title><script>",
        metrics=metrics,
        layers={"saliency": [None, 1.0]},
        chosen_layers=(1,),
        threshold=0.5,
        roc=(np.array([0, 1]), np.array([0, 1])),
        pr=(np.array([0, 1]), np.array([1, 0])),
        videos=[video],
        provenance={"prompt": "</script><b>"},
        warnings=["<i>"],
    )
    (tmp_path / "report.html").write_text(render_page(content), encoding="utf-8")
    page = (tmp_path / "report.html").read_text()
    for text in ("<script>alert", "</title><script>", "</script><b>", "<i>"):
        assert text not in page.replace("</script>\n", "").replace("<i class", "")
