"""The paired bootstrap: is it right about what is clear and what is not?"""

import json

import numpy as np
import pandas as pd
import pytest

from hiprobe.evaluate.comparison import VISIBLE_ERRORS, compare, compare_all, holm
from hiprobe.evaluate.external import ScoresConfig, run_evaluate_scores
from hiprobe.evaluate.test_set import Convention
from hiprobe.store import HiProbeError, VideoRecord, write_manifest

NUM_VIDEOS, NUM_SEGMENTS = 30, 10


@pytest.fixture
def evaluated(tmp_path):
    """Evaluate scores that see the anomalies through noise."""

    def make(name, noise, seed, num_videos=NUM_VIDEOS, annotation=(48, 120), **options):
        rng = np.random.default_rng(seed)
        records, rows = [], []
        for index in range(num_videos):
            ranges = (annotation,) * (index % 2)
            label = "anomalous" if ranges else "normal"
            record = VideoRecord(f"v{index}", "x.mp4", "test", label, "", ranges, 240, 24.0)
            records.append(record)
            for segment in range(NUM_SEGMENTS):
                is_anomalous = any(a <= 24 * segment < b for a, b in ranges)
                score = is_anomalous + noise * rng.normal()
                rows.append((record.video_id, 24 * segment, 24 * segment + 24, score))
        write_manifest(tmp_path / f"{name}.csv", records)
        columns = ["video_id", "start_frame", "stop_frame", "score"]
        pd.DataFrame(rows, columns=columns).to_csv(tmp_path / f"{name}-scores.csv", index=False)
        config = ScoresConfig(
            tmp_path / f"{name}-scores.csv",
            tmp_path / f"{name}.csv",
            tmp_path / name,
            num_resamples=0,
            **options,
        )
        run_evaluate_scores(config)
        return tmp_path / name

    return make


def test_a_result_does_not_differ_from_itself(evaluated):
    folder = evaluated("a", 1.0, 0)
    result = compare(folder, folder, num_resamples=200)
    assert result["auc"]["difference"] == 0
    assert result["auc"]["p_value"] == 1
    assert not result["auc"]["is_clear"]


def test_a_real_difference_is_clear_and_has_a_sign(evaluated):
    good, bad = evaluated("good", 0.3, 0), evaluated("bad", 3.0, 1)
    forth, back = compare(bad, good, num_resamples=300), compare(good, bad, num_resamples=300)
    for metric in ("auc", "ap", "pr_auc_trapezoid"):
        assert forth[metric]["is_clear"]
        assert forth[metric]["difference"] == pytest.approx(-back[metric]["difference"])
        low, high = forth[metric]["interval"].values()
        assert 0 < low < forth[metric]["difference"] < high
        assert back[metric]["interval"] == pytest.approx({"low": -high, "high": -low})
    own = json.loads((good / "metrics.json").read_text())["smoothed"]
    assert forth["auc"]["b"] == pytest.approx(own["auc"], abs=1e-15)
    assert forth["ap"]["b"] == pytest.approx(own["ap"], abs=1e-15)


@pytest.mark.slow
def test_equally_good_results_are_rarely_called_different(evaluated):
    """Of forty pairs that differ by chance, about 5 % may look clear."""
    clear = 0
    for trial in range(40):
        a, b = evaluated("a", 1.5, 2 * trial), evaluated("b", 1.5, 2 * trial + 1)
        clear += compare(a, b, num_resamples=200, seed=trial)["auc"]["is_clear"]
    assert clear <= 6


def test_other_videos_are_refused_or_left_out(evaluated):
    whole, fewer = evaluated("whole", 1.0, 0), evaluated("fewer", 1.0, 0, num_videos=28)
    with pytest.raises(
        HiProbeError, match=r"2 video\(s\) are in one of them only:\n  v28: only in"
    ):
        compare(whole, fewer)
    result = compare(whole, fewer, common_videos=True, num_resamples=100)
    assert (result["num_videos"], result["num_videos_left_out"]) == (28, 2)
    assert result["auc"]["difference"] == 0


def test_another_ground_truth_is_refused(evaluated):
    a, b = evaluated("a", 1.0, 0), evaluated("b", 1.0, 0, annotation=(48, 100))
    with pytest.raises(HiProbeError, match=r"v1: 240 frames, annotations 48:100, expected 240"):
        compare(a, b)
    c = evaluated("c", 1.0, 0, convention=Convention(ends="inclusive"))
    with pytest.raises(HiProbeError, match="Evaluate both with the same --length and --ends"):
        compare(a, c)


def test_other_smoothing_is_refused_unless_raw_scores_are_compared(evaluated):
    a, b = evaluated("a", 1.0, 0), evaluated("b", 1.0, 0, sigma=2.0)
    with pytest.raises(
        HiProbeError,
        match=r"smoothed with σ = 2 rows of 24 frames, those of .*a with σ = 0.4 rows of 24 frames",
    ):
        compare(a, b)
    assert compare(a, b, scores="raw", num_resamples=100)["auc"]["difference"] == 0


def test_three_results_are_compared_in_pairs_with_holms_correction(evaluated):
    folders = [evaluated("a", 1.5, 0), evaluated("b", 1.5, 1), evaluated("good", 0.3, 2)]
    content = compare_all(folders, num_resamples=300)
    assert [(one["a"], one["b"]) for one in content["pairs"]] == [(0, 1), (0, 2), (1, 2)]
    alone = compare(*folders[:2], num_resamples=300)
    pair = content["pairs"][0]
    for name in ("difference", "p_value", "interval", "standard_error"):
        assert pair["auc"][name] == alone["auc"][name]
    raw = [one["auc"]["p_value"] for one in content["pairs"]]
    assert [one["auc"]["p_holm"] for one in content["pairs"]] == holm(raw)
    assert [one["auc"]["is_clear"] for one in content["pairs"]] == [False, True, True]
    with pytest.raises(HiProbeError, match="6 pairs of 4 results, and 100 resamples: no differen"):
        compare_all([*folders, folders[0]], num_resamples=100)


def test_holms_correction_equals_its_definition():
    """Holm (1979): the i-th smallest p times the number of those not smaller, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_the_smallest_visible_difference_is_seen_four_times_of_five():
    """What `compare` calls visible, a test of that difference at 5 % finds in 80 % of samples."""
    rng = np.random.default_rng(0)
    estimates = VISIBLE_ERRORS + rng.normal(size=100_000)
    assert np.mean(np.abs(estimates) > 1.96) == pytest.approx(0.80, abs=0.005)


def test_the_digest_of_the_ground_truth_tells_test_sets_apart(evaluated):
    a, b = evaluated("a", 1.0, 0), evaluated("b", 2.0, 1)
    other = evaluated("c", 1.0, 0, num_videos=28)
    digests = [
        compare(*pair, common_videos=True, num_resamples=100)["ground_truth_digest"]
        for pair in ((a, b), (b, a), (a, other))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_what_is_no_results_folder_says_so(evaluated, tmp_path):
    folder = evaluated("a", 1.0, 0)
    with pytest.raises(HiProbeError, match=r"no such file. Give a folder that `hiprobe evaluate`"):
        compare(folder, tmp_path / "nothing")
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(HiProbeError, match="not whole results of this hiprobe"):
        compare(folder, folder)
