"""Scores as the field saves them: frame-level arrays, in one file or one a video."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score

from hiprobe.evaluate.external import ScoresConfig, run_evaluate_scores
from hiprobe.evaluate.test_set import Convention
from hiprobe.manifest.benchmarks import xd_violence
from hiprobe.store import HiProbeError, VideoRecord, write_manifest

LENGTHS = {"A.Film.2001__#1": 40, "sub/b": 32}


@pytest.fixture
def job(tmp_path):
    """Two videos, of which one has an event; what `save` saves are their scores."""
    records = [
        VideoRecord(name, "x.mp4", "test", label, "", ranges, LENGTHS[name], 25.0)
        for name, label, ranges in zip(
            LENGTHS, ("anomalous", "normal"), (((10, 20),), ()), strict=True
        )
    ]
    write_manifest(tmp_path / "m.csv", records)

    def make(arrays, **options):
        path = tmp_path / "scores.npy"
        if isinstance(arrays, dict):
            path = tmp_path / "scores"
            for name, values in arrays.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                np.save(path / f"{name}.npy", values)
        else:
            np.save(path, arrays)
        return ScoresConfig(path, tmp_path / "m.csv", tmp_path / "r", num_resamples=0, **options)

    return make


def truth(*lengths):
    frames = np.zeros(sum(lengths), bool)
    frames[10:20] = True
    return frames


def test_one_array_of_all_frames_in_the_manifests_order(job):
    scores = np.random.default_rng(0).random(72).astype(np.float32)
    metrics = run_evaluate_scores(job(scores))
    assert metrics["raw"]["auc"] == pytest.approx(roc_auc_score(truth(40, 32), scores), abs=1e-12)
    assert "in the manifest's order" in metrics["warnings"][-1]


def test_a_folder_of_an_array_a_video(job):
    rng = np.random.default_rng(1)
    arrays = {name: rng.random((length, 1)) for name, length in LENGTHS.items()}
    metrics = run_evaluate_scores(job(arrays))
    expected = roc_auc_score(truth(40, 32), np.concatenate(list(arrays.values()))[:, 0])
    assert metrics["raw"]["auc"] == pytest.approx(expected, abs=1e-12)
    assert metrics["warnings"] == []


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_value_for_16_frames(job, is_folder):
    clips = np.array([0.9, 0.4, 0.7, 0.1])
    given = dict(zip(LENGTHS, np.split(clips, 2), strict=True)) if is_folder else clips
    metrics = run_evaluate_scores(job(given, repeat=16, convention=Convention("cut-16")))
    expected = roc_auc_score(truth(32, 32), np.repeat(clips, 16))
    assert metrics["raw"]["auc"] == pytest.approx(expected, abs=1e-12)
    assert metrics["provenance"]["options"]["repeat"] == 16


def test_frames_of_one_score_are_one_row_unless_they_are_smoothed(job):
    scores = np.repeat([0.2, 0.8, 0.3, 0.5], [10, 30, 20, 12])
    config = job(scores, sigma=0)
    metrics = run_evaluate_scores(config)
    table = pd.read_csv(config.results / "scores.csv")
    assert table["stop_frame"].tolist() == [10, 40, 20, 32]
    assert metrics["num_segments"] == 4
    assert run_evaluate_scores(job(scores, sigma=1.0))["num_segments"] == 72


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (np.zeros(64), {}, r"fits with --repeat 1 --length cut-16\."),
        (np.zeros(4), {}, r"fits with --repeat 16 --length cut-16\."),
        (np.zeros(48), {}, r"fits with --repeat 1 --length cut-16-xd\."),
        (np.zeros(72), {"repeat": 16}, r"fits with --repeat 1 --length true\."),
        (np.zeros(71), {}, r"71 values, .* are 71 frames(.|\n)*true: 72 frames(.|\n)*None fits"),
        (np.zeros(72), {"convention": Convention("as-scored")}, "does not say where a video ends"),
        (np.zeros((72, 2)), {}, r"holds float64 of shape \(72, 2\), expected one number a frame"),
        (np.zeros(0), {}, r"shape \(0,\), expected one number"),
        (np.full(72, "0.1"), {}, "holds <U3 of shape"),
        (np.array([0.1] * 71 + [np.nan]), {}, "1 of 72 scores are not finite.* number 71"),
        (dict.fromkeys(LENGTHS, np.zeros(2)), {}, "fit with --repeat 16 --length cut-16"),
        (
            {"A.Film.2001__#1": np.zeros(40), "sub/b": np.zeros(9)},
            {},
            r"sub/b: scores end at frame 9, expected 32\n.*of 2 videos with scores: true 1, .*"
            "--length as-scored",
        ),
        ({"A.Film.2001__#1": np.zeros(40), "c": np.zeros(9)}, {}, "c: not a test video of the"),
        (
            dict.fromkeys(LENGTHS, np.array([1j])),
            {},
            r"2 wrong file\(s\):\n.*A\.Film\.2001__#1\.npy: holds complex128",
        ),
    ],
)
def test_what_does_not_fit_says_what_would(job, given, options, message):
    config = job(given, **options)
    with pytest.raises(HiProbeError, match=message):
        run_evaluate_scores(config)
    assert not config.results.exists()


def test_files_that_are_no_arrays_are_refused(job, tmp_path):
    config = job(np.zeros(72))
    path = tmp_path / "scores.npy"
    whole = path.read_bytes()
    np.save(path, np.array([{"a": 1}] * 72), allow_pickle=True)
    pickled = path.read_bytes()
    # The header says more values than there are, or than any memory holds.
    for content in (whole[:-8], whole.replace(b"(72,), ", b"(99999999999999,), ")[:128], b"", b"x",
                    pickled, whole.replace(b"descr", b"de(cr")):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(HiProbeError, match=r"scores\.npy: (cannot read it as \.npy|holds obj)"):
            run_evaluate_scores(config)
    with path.open("wb") as file:
        np.savez(file, scores=np.zeros(72))
    with pytest.raises(HiProbeError, match="is an archive of arrays"):
        run_evaluate_scores(config)
    path.unlink()
    with pytest.raises(HiProbeError, match="no such file"):
        run_evaluate_scores(config)
    (tmp_path / "scores.npy").mkdir()
    with pytest.raises(HiProbeError, match=r"no \.npy file in it"):
        run_evaluate_scores(config)


def test_rows_of_a_csv_are_not_repeated(job, tmp_path):
    config = job(np.zeros(72), repeat=16)
    (tmp_path / "s.csv").write_text("video_id,start_frame,stop_frame,score\n")
    with pytest.raises(HiProbeError, match=r"--repeat is for \.npy files"):
        run_evaluate_scores(ScoresConfig(**{**vars(config), "scores": tmp_path / "s.csv"}))


def test_as_scored_takes_each_videos_own_length_and_lists_the_differences(job):
    arrays = {"A.Film.2001__#1": np.linspace(0, 1, 45), "sub/b": np.linspace(0, 1, 16)}
    metrics = run_evaluate_scores(job(arrays, convention=Convention("as-scored")))
    scores = np.concatenate(list(arrays.values()))
    assert metrics["num_frames"] == 61
    assert metrics["raw"]["auc"] == pytest.approx(roc_auc_score(truth(45, 16), scores), abs=1e-12)
    assert metrics["ground_truth"]["length"] == "as-scored"
    assert metrics["length_differences"] == {
        "A.Film.2001__#1": {"true": 40, "scored": 45},
        "sub/b": {"true": 32, "scored": 16},
    }
    assert metrics["warnings"] == [
        "2 of 2 videos are scored over another number of frames than they have: 16 frames too few, "
        "5 too many; most in sub/b, 16 of 32. All are listed in metrics.json"
    ]


def test_as_scored_says_nothing_where_nothing_differs(job):
    arrays = {name: np.linspace(0, 1, length) for name, length in LENGTHS.items()}
    own = run_evaluate_scores(job(arrays, convention=Convention("as-scored")))
    true = run_evaluate_scores(job(arrays))
    assert own["length_differences"] == {}
    assert own["warnings"] == []
    assert own["smoothed"] == true["smoothed"]


def test_xd_violence_with_a_score_for_16_frames_in_one_array(shared_data, tmp_path):
    """As the field's script: features of ⌊(T-1)/16⌋ clips, scores repeated 16 times."""
    folder = shared_data / "annotations"
    records = xd_violence(
        folder / "xd_violence_temporal.txt", lengths=folder / "xd_violence_test_lengths.csv"
    ).records
    write_manifest(tmp_path / "m.csv", records)
    rng = np.random.default_rng(0)
    frames = []
    for record in records:
        own = np.zeros((record.num_frames - 1) // 16 * 16, bool)
        for start, stop in record.annotations:
            own[start:stop] = True
        frames.append(own)
    labels = np.concatenate(frames)
    scores = rng.random(len(labels) // 16).astype(np.float32) + labels[::16] / 4
    np.save(tmp_path / "s.npy", scores)
    config = ScoresConfig(
        tmp_path / "s.npy", tmp_path / "m.csv", tmp_path / "r", num_resamples=0, repeat=16,
        convention=Convention("cut-16-xd"),
    )  # fmt: skip
    metrics = run_evaluate_scores(config)
    expanded = np.repeat(scores, 16)
    precision, recall, _ = precision_recall_curve(labels, expanded)
    assert metrics["num_frames"] == 2_330_384 == len(labels)
    assert metrics["raw"]["auc"] == pytest.approx(roc_auc_score(labels, expanded), abs=1e-12)
    assert metrics["raw"]["pr_auc_trapezoid"] == pytest.approx(auc(recall, precision), abs=1e-12)
    assert metrics["events"]["normal_hours"] == pytest.approx((~labels).sum() / 24 / 3600)
