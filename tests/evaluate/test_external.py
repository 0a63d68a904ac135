"""Scores of other methods, on the benchmarks' real ground truth."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from hiprobe.evaluate.external import ScoresConfig, run_evaluate_scores
from hiprobe.evaluate.score_rows import read_rows
from hiprobe.evaluate.test_set import Convention
from hiprobe.manifest.benchmarks import msad, ucf_crime, xd_violence
from hiprobe.store import HiProbeError, ManifestError, VideoRecord, write_manifest

BENCHMARKS = {"ucf_crime": ucf_crime, "xd_violence": xd_violence}


@pytest.fixture
def benchmark_manifest(shared_data, tmp_path):
    def make(name):
        folder = shared_data / "annotations"
        manifest = BENCHMARKS[name](
            folder / f"{name}_temporal.txt", lengths=folder / f"{name}_test_lengths.csv"
        )
        write_manifest(tmp_path / f"{name}.csv", manifest.records)
        return tmp_path / f"{name}.csv", manifest.records

    return make


@pytest.fixture
def job(tmp_path):
    """Two videos of 40 and 30 frames, 10:20 of the first anomalous; scores to be written."""

    def make(*rows, header="video_id,start_frame,stop_frame,score", num_frames=(40, 30), **options):
        records = [
            VideoRecord("a", "a.mp4", "test", "anomalous", "", ((10, 20),), num_frames[0], 25.0),
            VideoRecord("b", "b.mp4", "test", "normal", "", (), num_frames[1]),
        ]
        write_manifest(tmp_path / "m.csv", records)
        (tmp_path / "s.csv").write_text("\n".join([header, *rows]) + "\n")
        return ScoresConfig(
            tmp_path / "s.csv", tmp_path / "m.csv", tmp_path / "r", num_resamples=0, **options
        )

    return make


def test_the_published_scores_of_vadtree(benchmark_manifest, shared_data, tmp_path):
    manifest, records = benchmark_manifest("ucf_crime")
    published = pd.read_csv(shared_data / "scores/vadtree_ucf_coarse_refined.tsv", sep="\t")
    length = published["video"].map({record.video_id: record.num_frames for record in records})
    scores = pd.DataFrame(
        {
            "video_id": published["video"],
            "start_frame": published["start"],
            "stop_frame": (published["end_inclusive"] + 1).clip(upper=length),
            "score": published["score"],
        }
    )
    scores.to_csv(tmp_path / "s.csv", index=False)
    config = ScoresConfig(tmp_path / "s.csv", manifest, tmp_path / "r", sigma=0, num_resamples=0)
    metrics = run_evaluate_scores(config)
    assert metrics["raw"]["auc"] == pytest.approx(0.8282457229, abs=1e-10)
    assert metrics["raw"]["ap"] == pytest.approx(0.3279697829, abs=1e-10)
    assert metrics["pairs"]["within_video_auc"] == pytest.approx(0.606, abs=5e-4)
    assert metrics["pairs"]["within_video_share"] == pytest.approx(0.00388, abs=5e-6)
    assert metrics["controls"]["video_oracle"]["auc"] == pytest.approx(0.816, abs=5e-4)
    assert "layers" not in metrics
    assert (tmp_path / "r/report.html").stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("levels", [7, 10**9])
def test_random_scores_equal_scikit_learn_on_frames(benchmark_manifest, tmp_path, name, levels):
    manifest, records = benchmark_manifest(name)
    rng = np.random.default_rng(levels)
    rows, truth, expanded = [], [], []
    for record in records:
        starts = np.arange(0, record.num_frames, 24)
        stops = np.minimum(starts + 24, record.num_frames)
        scores = rng.integers(0, levels, len(starts)) / levels
        rows.append(pd.DataFrame({"start_frame": starts, "stop_frame": stops, "score": scores}))
        rows[-1].insert(0, "video_id", record.video_id)
        frames = np.zeros(record.num_frames, bool)
        for start, stop in record.annotations:
            frames[start:stop] = True
        truth.append(frames)
        expanded.append(np.repeat(scores, stops - starts))
    pd.concat(rows).to_csv(tmp_path / "s.csv", index=False)
    config = ScoresConfig(tmp_path / "s.csv", manifest, tmp_path / "r", sigma=0, num_resamples=0)
    metrics = run_evaluate_scores(config)
    truth, expanded = np.concatenate(truth), np.concatenate(expanded)
    assert metrics["num_frames"] == len(truth)
    assert metrics["num_anomalous_frames"] == truth.sum()
    assert metrics["raw"]["auc"] == pytest.approx(roc_auc_score(truth, expanded), abs=1e-12)
    assert metrics["raw"]["ap"] == pytest.approx(
        average_precision_score(truth, expanded), abs=1e-12
    )


def test_later_rows_win(job):
    config = job("a,0,40,0.1", "a,10,20,0.9", "a,15,18,0.3", "b,0,30,0.2")
    metrics = run_evaluate_scores(config)
    table = pd.read_csv(config.results / "scores.csv")
    found = table[["video_id", "start_frame", "stop_frame", "score"]].to_numpy().tolist()
    assert found == [
        ["a", 0, 10, 0.1],
        ["a", 10, 15, 0.9],
        ["a", 15, 18, 0.3],
        ["a", 18, 20, 0.9],
        ["a", 20, 40, 0.1],
        ["b", 0, 30, 0.2],
    ]
    assert metrics["smoothed"]["auc"] == 1.0
    assert metrics["ground_truth"]["length"] == "true"


def test_the_order_of_videos_in_the_file_does_not_matter(job):
    rows = ["a,0,10,0.1", "a,10,40,0.8", "b,0,15,0.2", "b,15,30,0.9"]
    straight = run_evaluate_scores(job(*rows))
    mixed = run_evaluate_scores(job(rows[2], rows[0], rows[3], rows[1]))
    assert mixed["smoothed"] == straight["smoothed"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,0,40,1", "b,0,30,1", "c,0,9,1"], "c: not a test video of the manifest"),
        (["a,0,40,1"], "b: no scores"),
        (["a,0,10,1", "a,12,40,1", "b,0,30,1"], "a: no score from frame 10 on"),
        (["a,5,40,1", "b,0,30,1"], "a: no score from frame 0 on"),
        (["a,0,39,1", "b,0,30,1"], "a: scores end at frame 39, expected 40"),
        (["a,0,40,nan", "b,0,30,1"], "line 2: score is not a finite number: a,0,40,nan"),
        (["a,0,40,1", "b,0,30,inf"], "line 3: score is not a finite number"),
        (["a,40,0,1", "b,0,30,1"], "line 2: start_frame and stop_frame are not whole numbers"),
        (["a,0,40.5,1", "b,0,30,1"], "line 2: start_frame and stop_frame are not whole numbers"),
        (["a,0,40,high", "b,0,30,1"], "line 2: score is not a finite number: a,0,40,high"),
        ([",0,40,1", "b,0,30,1"], "line 2: video_id is empty"),
        (["a,0,40,1,1,1", "b,0,30,1"], "wrong line|cannot read it as CSV"),
    ],
)
def test_wrong_scores_are_listed(job, rows, message):
    with pytest.raises(HiProbeError, match=message):
        run_evaluate_scores(job(*rows))


def test_what_is_no_scores_file_says_so(job, tmp_path):
    with pytest.raises(HiProbeError, match=r"the header lacks score. Expected video_id,"):
        run_evaluate_scores(job("a,0,40", header="video_id,start_frame,stop_frame"))
    with pytest.raises(HiProbeError, match=r"no such file. Expected CSV with the columns"):
        read_rows(tmp_path / "nothing.csv")


def test_another_convention_is_proposed_and_works(job):
    rows = ["a,0,32,0.4", "b,0,16,0.5"]
    with pytest.raises(HiProbeError, match="All lengths fit with --length cut-16"):
        run_evaluate_scores(job(*rows))

    metrics = run_evaluate_scores(job(*rows, convention=Convention("cut-16")))
    assert metrics["num_frames"] == 48


def test_a_manifest_without_lengths_is_refused(job):
    with pytest.raises(ManifestError, match="1 test video\\(s\\) lack their length:\n  b: no num_"):
        run_evaluate_scores(job("a,0,40,1", num_frames=(40, None)))


def test_one_class_is_undefined_not_half(job, tmp_path):
    config = job("b,0,30,0.3")
    write_manifest(config.manifest, [VideoRecord("b", "b.mp4", "test", "normal", num_frames=30)])
    metrics = run_evaluate_scores(config)
    assert metrics["smoothed"]["auc"] is None
    assert metrics["map_at_iou"]["mean"] is None


def test_the_published_scores_of_vadtree_on_msad(shared_data, tmp_path):
    """The figures of their own result file; its manifest has the inclusive ends half-open."""
    folder = shared_data / "annotations"
    records = msad(folder / "msad_temporal.txt", lengths=folder / "msad_test_lengths.csv").records
    write_manifest(tmp_path / "m.csv", records)
    scores = shared_data / "scores/vadtree_msad_ensemble.csv"
    metrics = run_evaluate_scores(
        ScoresConfig(scores, tmp_path / "m.csv", tmp_path / "r", sigma=0, num_resamples=0)
    )
    assert metrics["num_frames"] == 146_408
    assert metrics["smoothed"]["auc"] == pytest.approx(0.8932, abs=5e-5)
    assert metrics["smoothed"]["pr_auc_trapezoid"] == pytest.approx(0.7141, abs=5e-5)
    assert (metrics["num_videos"], metrics["num_anomalous_videos"]) == (240, 120)
    assert metrics["events"]["num_events"] == sum(len(one.annotations) for one in records)
    # No frame rates are published with it: alarms are counted, hours are not.
    assert metrics["events"]["normal_hours"] is None
    assert len(metrics["map_at_iou_by_category"]["categories"]) == 11
