"""Refinement over similar segments: what it is, whom it asks, and what it says of itself."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics.pairwise import cosine_similarity
from typer.testing import CliRunner

from hiprobe.cli.main import app
from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.evaluate.refine import Refinement
from hiprobe.evaluate.test_set import TestSet
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import FeatureStore, StoreError
from hiprobe.store.taps import FRAMES_MEAN, Tap
from tests.conftest import write_store

MEAN = Tap(FRAMES_MEAN, (0, 3), 6)


def mark(tap, states, segments):
    states[0, segments, :2] += 6.0


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("refine") / "s.zarr"
    return write_store(path, num_videos=24, best_layer=3, taps=[MEAN], mark=mark)


@pytest.fixture(scope="module")
def probe(path):
    run_probe(ProbeConfig(path, layer=3)).save(path.parent / "probe.json")
    return path.parent / "probe.json"


def test_it_is_the_formula_video_by_video(path):
    store = FeatureStore.open(path)
    test, refinement = TestSet.of_store(store), Refinement.of("within-video", store)
    assert refinement.layer == 0
    scores = np.random.default_rng(0).uniform(size=len(test.is_evaluated))
    found, first = refinement.weights(test) @ scores, 0
    for video_id in test.videos.index:
        states = store.video(video_id, [0], tap=FRAMES_MEAN)[0].astype(float)
        cosines = cosine_similarity(states - states.mean(axis=0))
        own = scores[first : first + len(states)]
        for row, cosine in enumerate(cosines):
            nearest = np.argsort(-cosine)[:10]
            expected = softmax(cosine[nearest] / 0.1) @ own[nearest]
            assert found[first + row] == pytest.approx(expected, rel=1e-9)
        first += len(states)


def test_other_videos_and_the_scale_of_scores_do_not_matter(path):
    store = FeatureStore.open(path)
    test = TestSet.of_store(store)
    weights = Refinement.of("within-video", store).weights(test)
    np.testing.assert_allclose(weights @ np.full(weights.shape[0], 0.3), 0.3)
    video = np.repeat(np.arange(len(test.videos)), test.videos["num_segments"].to_numpy(int))
    rows, columns = weights.nonzero()
    np.testing.assert_array_equal(video[rows], video[columns])


def test_a_video_of_few_or_equal_segments_is_refined_too():
    refinement = Refinement("within-video", 0)
    nearest, weights = refinement.of_video(np.ones((3, 4), np.float32))
    assert [sorted(row) for row in nearest.tolist()] == [[0, 1, 2]] * 3
    np.testing.assert_allclose(weights, 1 / 3)
    nearest, weights = refinement.of_video(np.ones((1, 4), np.float32))
    assert (nearest.tolist(), weights.tolist()) == ([[0]], [[1.0]])


def test_the_results_say_what_was_done_and_what_it_changed(path, probe, tmp_path):
    plain = run_evaluate(EvaluateConfig(path, probe, tmp_path / "plain", num_resamples=0))
    config = EvaluateConfig(path, probe, tmp_path / "out", num_resamples=0, refine="within-video")
    refined = run_evaluate(config)
    said = refined["refinement"]
    assert (said["kind"], said["tap"], said["layer"]) == ("within-video", FRAMES_MEAN, 0)
    assert said["without"] == {name: plain["smoothed"][name] for name in ("auc", "ap")}
    assert refined["smoothed"]["auc"] != plain["smoothed"]["auc"]
    assert refined["provenance"]["options"]["refine"] == "within-video"
    page = (tmp_path / "out/report.html").read_text()
    assert "refined within video" in page
    assert "within video" not in (tmp_path / "plain/report.html").read_text().split("Controls")[1]
    assert json.loads((tmp_path / "out/metrics.json").read_text())["refinement"] == said


def test_the_vision_tower_stands_beside_every_result(path, probe, tmp_path):
    metrics = run_evaluate(EvaluateConfig(path, probe, tmp_path / "out", num_resamples=0))
    assert metrics["controls"]["vision_tower"]["auc"] > 0.9
    assert "Vision tower alone" in (tmp_path / "out/report.html").read_text()
    bare = write_store(tmp_path / "bare.zarr", num_videos=8)
    config = EvaluateConfig(bare, probe, tmp_path / "bare", num_resamples=0, allow_overlap=True)
    assert "vision_tower" not in run_evaluate(config)["controls"]


def test_a_store_without_the_tap_is_refused_before_anything_is_scored(probe, tmp_path):
    bare = write_store(tmp_path / "bare.zarr", num_videos=8)
    config = EvaluateConfig(
        bare, probe, tmp_path / "out", allow_overlap=True, refine="within-video"
    )
    with pytest.raises(StoreError, match=r"no 'frames_mean'.* has hidden_states .*--taps frames_m"):
        run_evaluate(config)
    assert not (tmp_path / "out").exists()


def test_the_command_says_it_too(path, probe, tmp_path):
    arguments = ["evaluate", path, probe, tmp_path / "out", "--refine", "within-video"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--resamples", "0"])
    assert result.exit_code == 0, result.output
    assert "(smoothed scores, refined within each video)" in " ".join(result.output.split())
    assert Path(tmp_path / "out/metrics.json").exists()
