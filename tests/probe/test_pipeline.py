import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hiprobe.probe
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.probe.samples import choose_videos, make_samples, temporal_bins
from hiprobe.store import (
    FeatureStore,
    HiProbeError,
    ManifestError,
    Probe,
    StoreError,
    VideoRecord,
    write_manifest,
)


def test_the_informative_layer_is_chosen_and_the_threshold_is_equation_10(make_store):
    path = make_store(best_layer=3)
    probe = run_probe(ProbeConfig(path, layer="dlsp", kappa=0.5))
    assert probe.layer == 3
    store = FeatureStore.open(path)
    means = np.stack(
        [store.video(video_id)[3].mean(axis=0) for video_id in probe.training["video_ids"]]
    )
    scores = probe.score(means)
    assert probe.threshold["mean"] == pytest.approx(scores.mean(), abs=1e-6)
    assert probe.threshold["value"] == pytest.approx(scores.mean() + 0.5 * scores.std(), abs=1e-6)
    assert all(len(values) == 5 for values in probe.layers.values())
    assert probe.layers["saliency"][0] is None


def test_only_the_training_split_is_used(make_store):
    probe = run_probe(ProbeConfig(make_store()))
    videos = FeatureStore.open(probe.store["path"]).videos
    assert set(videos.loc[probe.training["video_ids"], "split"]) == {"train"}


def test_a_probe_reads_back_as_it_was(make_store, tmp_path):
    probe = run_probe(ProbeConfig(make_store()))
    probe.save(tmp_path / "probe.json")
    assert Probe.load(tmp_path / "probe.json") == probe


def test_one_class_only_is_refused(make_store):
    with pytest.raises(StoreError, match="12 normal and 0 anomalous finished videos"):
        run_probe(ProbeConfig(make_store(labels=("normal",))))


def test_labels_of_another_manifest(make_store, tmp_path):
    path = make_store(labels=("normal",))
    records = [
        VideoRecord(video_id, "x.mp4", "train", "anomalous" if i % 3 else "normal")
        for i, video_id in enumerate(FeatureStore.open(path).videos.index)
    ]
    write_manifest(tmp_path / "other.csv", records)
    probe = run_probe(ProbeConfig(path, manifest=tmp_path / "other.csv"))
    assert probe.training["num_samples"] == 24


def test_a_manifest_means_what_it_means_everywhere(make_store, tmp_path):
    """Videos that it does not list take no part, which is recorded; unknown ones are refused."""
    path = make_store()
    videos = FeatureStore.open(path).videos
    records = [
        VideoRecord(video_id, "x.mp4", row["split"], row["label"])
        for video_id, row in videos.iloc[:16].iterrows()
    ]
    write_manifest(tmp_path / "some.csv", records)
    probe = run_probe(ProbeConfig(path, manifest=tmp_path / "some.csv"))
    assert probe.training["num_videos"] == 8
    assert probe.training["warnings"] == [
        "4 train videos of the store are not in some.csv and take no part, for example video-16"
    ]
    write_manifest(
        tmp_path / "other.csv", [*records, VideoRecord("unknown", "x.mp4", "train", "normal")]
    )
    with pytest.raises(ManifestError, match="unknown: not in the store"):
        run_probe(ProbeConfig(path, manifest=tmp_path / "other.csv"))


def test_a_store_of_unknown_origin_is_probed(make_store, tmp_path):
    probe = run_probe(ProbeConfig(make_store(provenance={})))
    probe.save(tmp_path / "probe.json")
    assert Probe.load(tmp_path / "probe.json").origin.model.weights_digest is None


def test_the_face_for_notebooks_gives_what_the_command_gives(make_store):
    """Choose videos and draw samples, choose a layer, fit: three calls."""
    path = make_store()
    store = FeatureStore.open(path)
    samples = hiprobe.probe.draw_samples(store, num_videos=8, seed=3)
    layer = hiprobe.probe.dlsp(hiprobe.probe.measure_layers(store, samples)).layer
    states = samples.states(store, layer)
    scorer = hiprobe.probe.fit_scorer("logistic", states, samples.is_anomalous)
    config = hiprobe.probe.ProbeConfig(path, num_videos=8, seed=3, layer="dlsp")
    probe = hiprobe.probe.run_probe(config)
    assert samples.video_ids == probe.training["video_ids"]
    assert (layer, scorer.to_json()) == (probe.layer, probe.scorer)
    with pytest.raises(HiProbeError, match="labels is 'segments', expected video or segment"):
        hiprobe.probe.draw_samples(store, labels="segments")


def test_the_face_is_imported_when_used():
    code = "import sys, hiprobe.probe; print('numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "False\n"
    assert all(getattr(hiprobe.probe, name) for name in hiprobe.probe.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'draw_sample'"):
        _ = hiprobe.probe.draw_sample


def test_a_layer_that_is_not_there(make_store):
    with pytest.raises(StoreError, match="no layer 9; it has layers 0 to 4"):
        run_probe(ProbeConfig(make_store(), layer=9))


def test_few_shot_draw_is_stratified_and_seeded():
    labels = pd.Series(["normal"] * 100 + ["anomalous"] * 40, index=[f"v{i}" for i in range(140)])
    chosen = choose_videos(labels, 0.1, seed=1)
    assert labels[chosen].value_counts().to_dict() == {"normal": 10, "anomalous": 4}
    assert chosen == choose_videos(labels, 0.1, seed=1)
    assert chosen != choose_videos(labels, 0.1, seed=2)
    assert labels[choose_videos(labels, 0.0, 0)].value_counts().tolist() == [2, 2]


@given(st.integers(1, 100), st.integers(1, 40))
def test_temporal_bins_are_never_empty_and_cover_long_videos(num_segments, num_bins):
    bins = temporal_bins(num_segments, num_bins)
    assert len(bins) == num_bins
    assert all(0 <= start < stop <= num_segments for start, stop in bins)
    if num_segments >= num_bins:
        assert [i for start, stop in bins for i in range(start, stop)] == list(range(num_segments))


def test_samples_are_means_over_temporal_bins(make_store):
    store = FeatureStore.open(make_store())
    videos = list(store.videos.index[[5, 2]])
    samples = make_samples(store, videos, store.videos["label"], samples_per_video=3)
    states = samples.states(store, 2)
    expected = [
        store.video(video_id)[2][start:stop].mean(axis=0)
        for video_id in samples.video_ids
        for start, stop in temporal_bins(int(store.videos.loc[video_id, "num_segments"]), 3)
    ]
    np.testing.assert_allclose(states, expected, rtol=1e-6)
    assert samples.is_anomalous.tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("num_videos", [4, 5, 6, 11, 40])
def test_so_many_videos_are_drawn_as_asked_for(num_videos):
    labels = pd.Series(["normal"] * 30 + ["anomalous"] * 10, index=[f"v{i}" for i in range(40)])
    drawn = choose_videos(labels, 1.0, 0, num_videos)
    assert len(drawn) == num_videos
    assert min((labels[drawn] == label).sum() for label in ("normal", "anomalous")) >= 2
