"""The layer analysis on a store whose best layer is known."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, silhouette_score

from hiprobe.probe.folds import folds_by_video, shuffle_by_video
from hiprobe.probe.layer_plots import write_analysis
from hiprobe.probe.layers import analyse_layers
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.probe.samples import make_samples
from hiprobe.store import FeatureStore, HiProbeError
from hiprobe.store.answer_rows import Answers
from hiprobe.store.scorers import fit_scorer


@pytest.fixture
def store(make_store):
    return make_store(num_videos=40)


def test_the_informative_layer_is_found(store):
    analysis = analyse_layers(ProbeConfig(store), num_shuffles=0)
    probe = run_probe(ProbeConfig(store, layer="dlsp"))
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
    assert analyse_layers(ProbeConfig(store), num_shuffles=0).table.loc[
        3, "silhouette"
    ] == pytest.approx(expected)


def test_everything_is_written(store, tmp_path):
    written = write_analysis(
        analyse_layers(ProbeConfig(store), tsne_layers=[1, 3], num_shuffles=2), tmp_path
    )
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
    assert analyse_layers(config, num_draws=3, num_shuffles=1).summary["dlsp_layer"] == 3


def test_folds_part_no_video_so_that_a_video_known_by_its_looks_gains_nothing():
    """Segments of a video are alike; labels are drawn at random, so there is nothing to learn."""
    rng = np.random.default_rng(1)
    owner = np.repeat([f"v{i}" for i in range(40)], 6).astype(object)
    labels = np.repeat(rng.permutation(40) % 2 == 0, 6)
    states = np.repeat(rng.normal(size=(40, 60)), 6, axis=0) + rng.normal(0, 0.1, (240, 60))

    def auc(folds):
        return np.mean(
            [
                roc_auc_score(
                    labels[test],
                    fit_scorer("logistic", states[~test], labels[~test]).logits(states[test]),
                )
                for test in folds
            ]
        )

    folds = folds_by_video(owner, labels, seed=0, num_repeats=2)
    assert len(folds) == 10
    for test in folds:
        assert not set(owner[test]) & set(owner[~test])
        assert {True, False} == set(labels[test]) == set(labels[~test])
    np.testing.assert_array_equal(np.sum(folds, axis=0), 2)
    by_segment = [np.isin(np.arange(240), test) for test in np.array_split(rng.permutation(240), 5)]
    assert auc(by_segment) > 0.99
    assert abs(auc(folds) - 0.5) < 0.2


def test_one_video_with_anomalies_cannot_be_held_out_and_that_is_said():
    owner = np.array(["a", "a", "b", "c"], object)
    with pytest.raises(HiProbeError, match="1 of the 3 videos drawn have anomalous samples"):
        folds_by_video(owner, np.array([True, False, False, False]))


def test_shuffled_labels_keep_the_runs_of_the_videos():
    owner = np.repeat([f"v{i}" for i in range(6)], 4).astype(object)
    labels = np.repeat([True, False, True, False, True, False], 4)
    seen = set()
    for seed in range(20):
        shuffled = shuffle_by_video(owner, labels, np.random.default_rng(seed)).reshape(6, 4)
        assert (shuffled == shuffled[:, :1]).all()
        assert shuffled.sum() == labels.sum()
        seen.add(tuple(shuffled[:, 0]))
    assert len(seen) > 5


def test_the_best_layer_stands_above_that_of_shuffled_labels_only_where_labels_mean_something(
    make_store, store
):
    found = analyse_layers(ProbeConfig(store), num_draws=1).summary
    assert found["num_shuffles"] == 20
    assert found["best_cv_p_value"] == pytest.approx(1 / 21)
    assert 0.5 < found["best_cv_null_95"] < found["cv_auc_at_best_layer"]
    # Layer 0 is constant and no candidate: the other four know nothing of the labels.
    nothing = make_store(num_videos=40, best_layer=0, name="nothing.zarr", num_layers=9)
    found = analyse_layers(ProbeConfig(nothing), num_draws=1).summary
    assert found["cv_auc_at_best_layer"] > 0.55, "the best of eight looks like something"
    assert found["cv_auc_at_best_layer"] <= found["best_cv_null_95"]


def test_a_store_of_unknown_origin_is_analysed(make_store):
    path = make_store(num_videos=40, provenance={})
    assert analyse_layers(ProbeConfig(path), num_draws=2, num_shuffles=0).summary["dlsp_layer"] == 3


def answers_about(features, num_features=16, last=4):
    """Yes along some features, no against them, in two spellings each."""
    head = np.zeros((5, num_features), "f4")
    head[:2, features], head[2:4, features] = 1, -1
    words = ("Yes", " yes", "No", " no", "A")
    ones = np.ones(num_features, "f4")
    return Answers(words, (0, 1, 2, 3, 4), head, np.zeros(5, "f4"), ones, 1e-6, last)


@pytest.mark.parametrize("samples_per_video", [1, 3])
def test_the_logit_lens_stands_beside_the_probes_auc(make_store, samples_per_video):
    """Against a loop over layers and segments that knows nothing of the code."""
    path = make_store(num_videos=40, answers=answers_about(slice(0, 4)))
    config = ProbeConfig(path, samples_per_video=samples_per_video)
    found = analyse_layers(config, num_draws=1, num_shuffles=0).table["lens_auc"]
    store = FeatureStore.open(path)
    samples = config.draw(store)
    for layer in (1, 2, 3, 4):
        of_segments = []
        for state in store.layer(layer, samples.video_ids).astype(float):
            normed = state / np.sqrt((state**2).mean() + 1e-6) if layer < 4 else state
            z = normed[:4].sum()
            of_segments.append(2 * np.exp(z) / (2 * np.exp(z) + 2 * np.exp(-z)))
        p_yes = samples.averaging @ np.array(of_segments)
        assert found[layer] == pytest.approx(roc_auc_score(samples.is_anomalous, p_yes), abs=1e-12)
    assert found.idxmax() == 3


@pytest.mark.parametrize("words", [("Yes", "A"), ("B", "no")])
def test_without_both_words_there_is_no_lens(make_store, words):
    kept = answers_about(slice(0, 4))
    kept = replace(kept, words=words, tokens=(0, 1), head=kept.head[:2], bias=kept.bias[:2])
    for name, answers in (("some.zarr", kept), ("none.zarr", None)):
        path = make_store(num_videos=16, name=name, answers=answers)
        assert "lens_auc" not in analyse_layers(ProbeConfig(path), num_shuffles=0).table


def test_a_layer_that_is_not_there_is_refused_before_the_work(store):
    with pytest.raises(HiProbeError, match="no layer 9; it has layers 0 to 4"):
        analyse_layers(ProbeConfig(store), tsne_layers=[9])


def test_a_store_of_the_embedding_only_is_refused(make_store):
    with pytest.raises(HiProbeError, match="it has layer 0 only"):
        analyse_layers(ProbeConfig(make_store(num_layers=1, best_layer=0)))
