"""Curves for papers: exact points, figures that are vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_curve

from hiprobe.evaluate.curves import curve_points, write_curves
from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.evaluate.test_set import Convention
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import FeatureStore, HiProbeError, VideoRecord, write_manifest
from hiprobe.store.localization import DEFAULT_SIGMA
from hiprobe.store.results import Results


@pytest.fixture
def results(make_store, tmp_path):
    store = make_store()
    run_probe(ProbeConfig(store)).save(tmp_path / "probe.json")
    config = EvaluateConfig(store, tmp_path / "probe.json", tmp_path / "r", num_resamples=0)
    return config, run_evaluate(config)


def frames(config):
    """Each test frame's truth and smoothed score, one by one."""
    segments = pd.read_csv(config.results / "scores.csv", float_precision="round_trip")
    videos = FeatureStore.open(config.store).videos
    truth, scores = [], []
    for row in segments.to_dict("records"):
        ranges = videos.loc[row["video_id"], "annotations"]
        for frame in range(row["start_frame"], row["stop_frame"]):
            truth.append(any(start <= frame < stop for start, stop in ranges))
            scores.append(row["smoothed"])
    return np.array(truth), np.array(scores)


def test_the_points_are_those_of_all_frames(results):
    config, metrics = results
    paths = write_curves(config.results)
    truth, scores = frames(config)
    roc = pd.read_csv(config.results / "roc.csv", float_precision="round_trip")
    roc = roc[roc["scores"] == "smoothed"]
    false, true, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc["false_positive_rate"], false, atol=1e-12)
    np.testing.assert_allclose(roc["true_positive_rate"], true, atol=1e-12)
    np.testing.assert_array_equal(roc["threshold"], thresholds)
    area = np.trapezoid(roc["true_positive_rate"], roc["false_positive_rate"])
    assert area == pytest.approx(metrics["smoothed"]["auc"], abs=1e-12)
    curve = pd.read_csv(config.results / "precision_recall.csv", float_precision="round_trip")
    for name in ("raw", "smoothed"):
        own = curve[curve["scores"] == name]
        ap = np.diff(own["recall"], prepend=0.0) @ own["precision"]
        assert ap == pytest.approx(metrics[name]["ap"], abs=1e-12)
    assert ap == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert [path.name for path in paths] == [
        "roc.csv", "roc.pdf", "roc.svg",
        "precision_recall.csv", "precision_recall.pdf", "precision_recall.svg",
    ]  # fmt: skip


def test_the_figures_are_vectors_and_say_the_areas(results):
    config, metrics = results
    write_curves(config.results)
    assert (config.results / "roc.pdf").read_bytes().startswith(b"%PDF-")
    svg = (config.results / "roc.svg").read_text()
    assert "<image" not in svg
    assert f"smoothed, AUC {metrics['smoothed']['auc']:.4f}" in svg
    before = {path: path.read_bytes() for path in config.results.glob("*.pdf")}
    write_curves(config.results)
    assert {path: path.read_bytes() for path in config.results.glob("*.pdf")} == before


def test_frames_of_one_class_have_no_curve(results, tmp_path):
    config, _ = results
    videos = FeatureStore.open(config.store).videos
    records = [VideoRecord(name, "x", videos.loc[name, "split"], "normal") for name in videos.index]
    write_manifest(tmp_path / "m.csv", records)
    run_evaluate(
        EvaluateConfig(
            config.store, config.probe, config.results, sigma=DEFAULT_SIGMA, num_resamples=0,
            manifest=tmp_path / "m.csv",
        )
    )  # fmt: skip
    with pytest.raises(HiProbeError, match="frames are all of one class"):
        write_curves(config.results)
    assert not (config.results / "roc.csv").exists()


def test_the_areas_are_the_metrics_whatever_the_convention_and_older_curves_go(results):
    config, _ = results
    write_curves(config.results)
    convention = Convention("pad-16", "inclusive")
    metrics = run_evaluate(replace(config, convention=convention))
    assert not [*config.results.glob("roc.*"), *config.results.glob("precision_recall.*")]
    roc, precision_recall = curve_points(Results.read(config.results))
    roc = roc[roc["scores"] == "raw"]
    area = np.trapezoid(roc["true_positive_rate"], roc["false_positive_rate"])
    assert area == pytest.approx(metrics["raw"]["auc"], abs=1e-12)
    own = precision_recall[precision_recall["scores"] == "raw"]
    ap = np.diff(own["recall"], prepend=0.0) @ own["precision"]
    assert ap == pytest.approx(metrics["raw"]["ap"], abs=1e-12)
