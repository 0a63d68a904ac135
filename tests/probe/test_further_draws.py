"""A probe with further draws of the same recipe, and what an evaluation makes of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe.further_draws import run_repeats
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import HiProbeError, Probe


@pytest.fixture
def config(make_store):
    return ProbeConfig(make_store(num_videos=32), fraction=0.5, layer="top3")


def evaluated(config, probe, folder, **options):
    probe.save(folder / "probe.json")
    return run_evaluate(
        EvaluateConfig(config.store, folder / "probe.json", folder / "r", **options)
    )


def test_each_draw_scores_as_a_probe_of_its_own_seed(config, tmp_path):
    probe = run_repeats(config, 3)
    metrics = evaluated(config, probe, tmp_path, num_resamples=100)
    draws, report = metrics["draws"], (tmp_path / "r/report.html").read_text()
    assert draws["seeds"] == [0, 1, 2]
    alone = [
        evaluated(config, run_probe(replace(config, seed=seed)), tmp_path, num_resamples=100)
        for seed in (0, 1, 2)
    ]
    for area in ("auc", "ap"):
        values = [one["smoothed"][area] for one in alone]
        assert draws[area]["values"] == pytest.approx(values, abs=1e-12)
        assert draws[area]["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    error = np.sqrt(np.mean([one["smoothed"]["auc_se"] ** 2 for one in alone]))
    assert draws["auc"]["se_videos"] == pytest.approx(error, abs=1e-12)
    assert draws["auc"]["se_total"] == pytest.approx(np.hypot(draws["auc"]["std"], error))
    assert draws["ap"]["se_videos"] == alone[0]["smoothed"]["ap_se"]
    # The result itself is the first draw's, as without repeats.
    assert metrics["smoothed"] == alone[0]["smoothed"]
    assert report.count("over 3 draws of training videos") == 2
    assert "draws" not in alone[0]


def test_draws_are_read_back_and_damage_is_named(config, tmp_path):
    probe = run_repeats(config, 2)
    path = tmp_path / "probe.json"
    probe.save(path)
    assert Probe.load(path) == probe
    content = json.loads(path.read_text())
    content["draws"][0]["members"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(HiProbeError, match="not a whole probe: members of draw 2 is empty"):
        Probe.load(path)


def test_a_video_of_any_draw_is_one_that_was_trained_on(config, tmp_path):
    probe = run_repeats(replace(config, num_videos=4), 3)
    alone = replace(probe, draws=())
    only_later = {one for draw in probe.draws for one in draw.training["video_ids"]} - set(
        probe.training["video_ids"]
    )
    assert only_later
    for one, expected in ((probe, 4 + len(only_later)), (alone, 4)):
        with pytest.raises(HiProbeError, match=f"{expected} of 16 videos to evaluate were used f"):
            evaluated(config, one, tmp_path, split="train")


def test_repeats_that_cannot_differ_are_refused(config):
    with pytest.raises(HiProbeError, match="3 repeats were asked for, and only 1 draw of training"):
        run_repeats(replace(config, fraction=1.0), 3)
    assert run_repeats(replace(config, fraction=1.0), 1).draws == ()


def test_seeds_that_draw_the_same_videos_are_passed_over(make_store):
    """Of three normal and three anomalous videos, two each: nine draws, and repeats by chance."""
    config = ProbeConfig(make_store(num_videos=12), num_videos=4, layer=3)
    probe = run_repeats(config, 9)
    sets = {frozenset(draw.training["video_ids"]) for draw in probe.draws}
    assert len(sets | {frozenset(probe.training["video_ids"])}) == 9
    with pytest.raises(HiProbeError, match="10 repeats were asked for, and only 9 draws of train"):
        run_repeats(config, 10)
