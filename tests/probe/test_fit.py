"""Fits of several layers: what is averaged, what is held out, and the top segments."""

from functools import partial

import numpy as np
import pytest
from scipy.special import expit

from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe.fit import fit_members
from hiprobe.probe.multiple_instance import fit_samples, top_segments
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.probe.samples import draw_samples
from hiprobe.store import FeatureStore, HiProbeError, Probe
from hiprobe.store.scorers import fit_scorer


@pytest.fixture
def store(make_store):
    return FeatureStore.open(make_store())


def test_an_ensemble_is_the_mean_of_logits_over_their_training_deviation(store):
    samples = draw_samples(store)
    (fit,) = fit_samples(store, samples, (3, 1, 4), baseline=4)
    expected = []
    for layer, member in zip((1, 3, 4), fit.members, strict=True):
        states = samples.states(store, layer)
        logits = fit_scorer("logistic", states, samples.is_anomalous).logits(states)
        assert (member.layer, member.scale) == (layer, pytest.approx(logits.std()))
        expected.append(logits / logits.std())
    np.testing.assert_allclose(fit.logits, np.mean(expected, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(fit.training_logits, fit.logits)
    assert (fit.baseline.layer, fit.baseline.scale) == (4, 1.0)


def test_an_ensemble_survives_its_file_and_scores_as_it_was_fitted(store, tmp_path):
    probe = run_probe(ProbeConfig(store.path, layer="all"))
    probe.save(tmp_path / "probe.json")
    again = Probe.load(tmp_path / "probe.json")
    assert again == probe
    samples = draw_samples(store)
    states = {layer: samples.states(store, layer) for layer in again.layers_read}
    scores = expit(fit_samples(store, samples, (1, 2, 3, 4))[0].logits)
    np.testing.assert_allclose(again.score(states), scores, rtol=1e-12)
    assert again.threshold["mean"] == pytest.approx(scores.mean())


def test_subsets_are_fitted_by_themselves_and_the_rest_is_held_out(store):
    samples = draw_samples(store)
    halves = [np.arange(12) < 8, np.arange(12) >= 4]
    read = partial(samples.states, store)
    fits = fit_members(read, (2, 3), samples.is_anomalous, subsets=halves)
    for rows, fit in zip(halves, fits, strict=True):
        (alone,) = fit_members(
            lambda layer, rows=rows: read(layer)[rows], (2, 3), samples.is_anomalous[rows]
        )
        np.testing.assert_allclose(fit.training_logits, alone.logits, rtol=1e-12)
        held_out = {layer: read(layer)[~rows] for layer in (2, 3)}
        expected = sum(one.logits(held_out[one.layer]) for one in alone.members) / 2
        np.testing.assert_allclose(fit.logits[~rows], expected, rtol=1e-12)


def test_the_top_segments_are_three_in_ten_and_at_least_one():
    logits = np.array([0.1, 3.0, -1.0, 2.0, 0.0, 2.5, 1.0, -2.0, 0.2, 0.3])
    assert top_segments(logits).tolist() == [1, 3, 5]
    assert top_segments(np.array([1.0, 2.0])).tolist() == [1]


def by_hand(store, layer, rounds):
    """Relabelling written out for one layer and videos of few segments."""
    samples = draw_samples(store)
    segments = {
        video_id: store.video(video_id)[store.layers.index(layer)].astype(np.float64)
        for video_id in samples.video_ids
    }
    means = np.stack([segments[video_id].mean(axis=0) for video_id in samples.video_ids])
    scorer = fit_scorer("logistic", means, samples.is_anomalous)
    for _ in range(rounds):
        states, labels = [], []
        for video_id, label in samples.labels.items():
            own = segments[video_id]
            if label == "anomalous":
                own = own[np.sort(np.argsort(-scorer.logits(own))[: -(-3 * len(own) // 10)])]
            states.append(own)
            labels += [label == "anomalous"] * len(own)
        scorer = fit_scorer("logistic", np.concatenate(states), np.array(labels))
    return scorer, np.array(labels)


@pytest.mark.parametrize("rounds", [1, 3])
def test_relabelling_fits_on_the_top_segments_and_all_of_normal_videos(store, rounds):
    expected, labels = by_hand(store, 3, rounds)
    (fit,) = fit_samples(store, draw_samples(store), (3,), mil=rounds)
    np.testing.assert_allclose(fit.members[0].fitted.weight, expected.weight, atol=1e-6)
    np.testing.assert_array_equal(fit.training_labels, labels)
    assert len(fit.training_logits) == len(labels)
    assert len(fit.logits) == 12


def test_relabelling_of_draws_is_that_of_each_draw_by_itself(store):
    samples = draw_samples(store)
    halves = [samples.rows_of(samples.video_ids[:8]), samples.rows_of(samples.video_ids[4:])]
    together = fit_samples(store, samples, (2, 3), mil=2, subsets=halves)
    for rows, fit in zip(halves, together, strict=True):
        (alone,) = fit_samples(store, samples, (2, 3), mil=2, subsets=[rows])
        np.testing.assert_allclose(fit.logits, alone.logits, atol=1e-6)
        assert fit.training_labels.sum() == alone.training_labels.sum()


def test_relabelling_finds_the_anomalous_segments(make_store):
    """They are a part of their videos only: fitted on them, a scorer parts segments better."""
    path = make_store(num_videos=60)
    config = EvaluateConfig(path, path.parent / "p.json", path.parent / "r", num_resamples=0)
    areas = []
    for mil in (0, 3):
        probe = run_probe(ProbeConfig(path, layer=3, mil=mil))
        assert probe.training["mil"] == mil
        probe.save(config.probe)
        areas.append(run_evaluate(config)["raw"]["ap"])
    assert areas[1] > areas[0] + 0.01


def test_segments_of_long_videos_are_averaged_in_32_bins(make_store, monkeypatch):
    """Bins of one segment each are the segments; of more, their mean."""
    monkeypatch.setattr("hiprobe.probe.multiple_instance.MAX_INSTANCES", 4)
    store = FeatureStore.open(make_store())
    samples = draw_samples(store)
    (fit,) = fit_samples(store, samples, (3,), mil=1)
    num_normal = int((~samples.is_anomalous).sum())
    assert (~fit.training_labels).sum() == 4 * num_normal
    assert fit.training_labels.sum() == 2 * (12 - num_normal)  # three in ten of four, rounded up


def test_relabelling_segments_with_labels_of_their_own_is_refused(store):
    with pytest.raises(HiProbeError, match="the annotations say so"):
        run_probe(ProbeConfig(store.path, labels="segment", mil=1))
