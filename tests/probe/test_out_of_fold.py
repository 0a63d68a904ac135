"""Thresholds, calibration and one-class training, by segments whose videos were held out."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe.folds import folds_by_video
from hiprobe.probe.out_of_fold import coarse_target, far_threshold, platt
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import FeatureStore, HiProbeError, Probe
from hiprobe.store.scorers import fit_scorer


@pytest.fixture
def store(make_store):
    return make_store(num_videos=40)


def test_the_threshold_is_the_quantile_of_normal_segments_scored_by_a_probe_of_others(store):
    """Done here by hand, video by video."""
    probe = run_probe(ProbeConfig(store, layer=3, target_far=0.1))
    features = FeatureStore.open(store)
    videos = features.videos[features.videos["split"] == "train"]
    states = {video_id: features.layer(3, [video_id]) for video_id in videos.index}
    means = np.stack([one.mean(axis=0) for one in states.values()]).astype(np.float64)
    labels = (videos["label"] == "anomalous").to_numpy()
    logits = []
    for held_out in folds_by_video(videos.index.to_numpy(object), labels, seed=0):
        scorer = fit_scorer("logistic", means[~held_out], labels[~held_out])
        logits += [scorer.logits(states[one]) for one in videos.index[held_out & ~labels]]
    expected = np.sort(expit(np.concatenate(logits)))
    rank = int(np.ceil((len(expected) + 1) * 0.9))
    assert probe.threshold["kind"] == "target-far"
    assert probe.threshold["num_segments"] == len(expected)
    assert probe.threshold["value"] == pytest.approx(expected[rank - 1], rel=1e-5)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_new_normal_segments_pass_the_threshold_at_the_rate_asked_for(rate):
    rng = np.random.default_rng(0)
    shares = [
        (rng.random(500) > far_threshold(rng.random(60), rate)["value"]).mean() for _ in range(400)
    ]
    assert rate - 0.02 < np.mean(shares) <= rate + 0.005


def test_a_rate_finer_than_the_segments_is_said():
    assert far_threshold(np.array([0.2, 0.9, 0.4]), 0.05)["value"] == 0.9
    assert "finer than 3 normal segments" in coarse_target(3, 0.05)[0]
    assert coarse_target(19, 0.05) == []


def test_false_alarms_are_fewer_than_with_the_papers_threshold(store, tmp_path):
    found = {}
    for name, settings in {"paper": {}, "far": {"target_far": 0.05}}.items():
        run_probe(ProbeConfig(store, layer=3, **settings)).save(tmp_path / f"{name}.json")
        config = EvaluateConfig(
            store=store, probe=tmp_path / f"{name}.json", results=tmp_path / name, num_resamples=0
        )
        found[name] = run_evaluate(config)
    assert found["far"]["false_alarm_rate"] < 0.1 < found["paper"]["false_alarm_rate"]
    # The scores are the same: only the threshold moved.
    assert found["far"]["smoothed"]["auc"] == found["paper"]["smoothed"]["auc"]


def test_platt_is_logistic_regression_on_the_log_odds():
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.3
    logits = 40 * rng.normal(size=20_000) + 30 * labels + 500
    found = platt(logits, labels)
    model = LogisticRegression(C=np.inf, tol=1e-8).fit((logits[:, None] - 500) / 40, labels)
    # Platt's targets differ from 0 and 1 by less than 1 in 6,000.
    assert found["slope"] == pytest.approx(model.coef_[0, 0] / 40, rel=1e-2)
    chance = expit(found["slope"] * logits + found["intercept"])
    np.testing.assert_allclose(
        chance, model.predict_proba((logits[:, None] - 500) / 40)[:, 1], atol=5e-3
    )


def test_separable_segments_are_given_no_certainty():
    logits = np.array([-2.0, -1.0, 1.0, 2.0])
    found = platt(logits, logits > 0)
    chance = expit(found["slope"] * logits + found["intercept"])
    assert 0.7 < chance[2:].mean() < 0.8  # Platt's target: 3/4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([True, True, False, False]), "do not rise with"),
        (np.zeros(4, bool), "on 4 normal and 0 anomalous segments"),
    ],
)
def test_what_cannot_be_calibrated_is_said(labels, message):
    with pytest.raises(HiProbeError, match=message):
        platt(np.arange(4.0), labels)


def expected_calibration_error(scores, labels):
    bins = np.minimum((scores * 10).astype(int), 9)
    gaps = [abs(scores[bins == b].sum() - labels[bins == b].sum()) for b in set(bins)]
    return sum(gaps) / len(scores)


def test_calibrated_scores_of_new_segments_are_nearer_to_probabilities(make_store, tmp_path):
    train = make_store(num_videos=16)  # few: the scorer is too sure of itself
    errors = {}
    for name, calibration in (("raw", None), ("platt", "platt")):
        probe = run_probe(
            ProbeConfig(train, layer=3, labels="segment", l2=0.0, calibration=calibration)
        )
        probe.save(tmp_path / "probe.json")
        again = Probe.load(tmp_path / "probe.json")
        other = FeatureStore.open(make_store(num_videos=60, seed=7, name=f"{name}.zarr"))
        labels = np.zeros(len(other.segments), dtype=bool)
        for video_id, video in other.videos.iterrows():
            own = (other.segments["video_id"] == video_id).to_numpy()
            for start, stop in video["annotations"]:
                inside = (other.segments["start_frame"] < stop) & (
                    other.segments["stop_frame"] > start
                )
                labels |= own & inside.to_numpy()
        errors[name] = expected_calibration_error(again.score(other.layer(3)), labels)
    assert errors["platt"] < errors["raw"]


@pytest.mark.parametrize(
    "scorer", ["mahalanobis", "nearest", "distance", "sklearn.svm:OneClassSVM"]
)
def test_a_store_without_anomalous_training_videos_trains_a_one_class_probe(
    make_store, tmp_path, scorer
):
    path = make_store(labels=("normal", "normal"), name="normal.zarr", num_videos=40)
    probe = run_probe(ProbeConfig(path, scorer=scorer))
    probe.save(tmp_path / "probe.json")
    assert Probe.load(tmp_path / "probe.json").layers_read == (3, 4)
    assert probe.training["layer_choice"] == "upper-half"
    assert probe.threshold["target_far"] == 0.05
    mixed = make_store(num_videos=40, seed=3, name="mixed.zarr")
    config = EvaluateConfig(
        store=mixed, probe=tmp_path / "probe.json", results=tmp_path / "r", num_resamples=0
    )
    found = run_evaluate(config)
    assert found["smoothed"]["auc"] > 0.7
    assert found["false_alarm_rate"] < 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "20 normal and 0 anomalous .* take --scorer mahalanobis"),
        ({"scorer": "nearest", "layer": "dlsp"}, "--layer dlsp and --mil need"),
        ({"scorer": "nearest", "calibration": "platt"}, "0 anomalous segments"),
    ],
)
def test_what_cannot_do_without_anomalous_videos_says_so(make_store, settings, message):
    path = make_store(labels=("normal", "normal"), num_videos=40)
    with pytest.raises(HiProbeError, match=message):
        run_probe(ProbeConfig(path, **settings))
