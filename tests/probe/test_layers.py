"""The layer analysis on a store whose best layer is known."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

from hiprobe.probe.layer_plots import write_analysis
from hiprobe.probe.layers import analyse_layers
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.probe.samples import make_samples
from hiprobe.store import FeatureStore, HiProbeError


@pytest.fixture
def store(make_store):
    return make_store(num_videos=40)


def test_the_informative_layer_is_found(store):
    analysis = analyse_layers(ProbeConfig(store))
    probe = run_probe(ProbeConfig(store))
    assert analysis.summary["dlsp_layer"] == probe.layer == 3
    assert analysis.summary["best_cv_layer"] == 3
    assert analysis.table.index.tolist() == [1, 2, 3, 4]
    assert analysis.table["silhouette"].idxmax() == 3
    assert analysis.table["chosen_share"].sum() == pytest.approx(1)
    assert analysis.table.loc[3, "chosen_share"] >= 0.5
    for name in ("kl_divergence", "ldr", "entropy", "saliency"):
        np.testing.assert_allclose(analysis.table[name], probe.layers[name][1:], rtol=1e-9)


def test_the_silhouette_is_of_standardised_samples(store):
    features = FeatureStore.open(store)
    videos = features.videos[features.videos["split"] == "train"]
    samples = make_samples(features, list(videos.index), videos["label"])
    states = samples.states(features, 3)
    standardised = (states - states.mean(0)) / states.std(0)
    expected = silhouette_score(standardised, samples.is_anomalous)
    assert analyse_layers(ProbeConfig(store)).table.loc[3, "silhouette"] == pytest.approx(expected)


def test_everything_is_written(store, tmp_path):
    written = write_analysis(analyse_layers(ProbeConfig(store), tsne_layers=[1, 3]), tmp_path)
    assert {path.name for path in written} == {
        *("layers.csv", "tsne.csv", "summary.json"),
        *(f"{name}.{end}" for name in ("saliency", "separation", "tsne") for end in ("png", "svg")),
    }
    assert all(path.stat().st_size > 100 for path in written)
    points = pd.read_csv(tmp_path / "tsne.csv")
    assert points.groupby("layer").size().to_dict() == {1: 20, 3: 20}
    assert json.loads((tmp_path / "summary.json").read_text())["num_draws"] == 20


@pytest.mark.parametrize("labels", ["video", "segment"])
def test_samples_of_any_kind(store, labels):
    config = ProbeConfig(store, labels=labels, samples_per_video=3)
    assert analyse_layers(config, num_draws=3).summary["dlsp_layer"] == 3


def test_a_store_of_unknown_origin_is_analysed(make_store):
    path = make_store(num_videos=40, provenance={})
    assert analyse_layers(ProbeConfig(path), num_draws=2).summary["dlsp_layer"] == 3


def test_a_layer_that_is_not_there_is_refused_before_the_work(store):
    with pytest.raises(HiProbeError, match="no layer 9; it has layers 0 to 4"):
        analyse_layers(ProbeConfig(store), tsne_layers=[9])


def test_a_store_of_the_embedding_only_is_refused(make_store):
    with pytest.raises(HiProbeError, match="it has layer 0 only"):
        analyse_layers(ProbeConfig(make_store(num_layers=1, best_layer=0)))
