"""The ground-truth conventions, on the benchmarks' real lengths and annotations."""

import numpy as np
import pandas as pd
import pytest

from hiprobe.evaluate.test_set import DEFAULT_CONVENTION, Convention, TestSet
from hiprobe.manifest.benchmarks import ucf_crime, xd_violence
from hiprobe.store import (
    FeatureStore,
    HiProbeError,
    ManifestError,
    VideoRecord,
    write_manifest,
)

UCF, XD = "ucf_crime", "xd_violence"


@pytest.mark.parametrize(
    ("name", "convention", "num_frames", "num_anomalous"),
    [
        (UCF, Convention(), 1_111_808, 84_182),
        (UCF, Convention(ends="inclusive"), 1_111_808, 84_331),
        (UCF, Convention("cut-16"), 1_109_824, None),
        (UCF, Convention("pad-16"), 1_114_144, 84_182),
        (XD, Convention(), 2_335_801, 538_324),
        (XD, Convention("cut-16"), 2_331_248, None),
        (XD, Convention("cut-16-xd"), 2_330_384, None),
        (XD, Convention(ends="inclusive"), 2_335_801, 539_562),
    ],
)
def test_official_totals(shared_data, tmp_path, name, convention, num_frames, num_anomalous):
    folder = shared_data / "annotations"
    builder = {UCF: ucf_crime, XD: xd_violence}[name]
    records = builder(
        folder / f"{name}_temporal.txt", lengths=folder / f"{name}_test_lengths.csv"
    ).records
    write_manifest(tmp_path / "m.csv", records)
    chosen = TestSet.of_manifest(tmp_path / "m.csv", convention=convention).videos
    assert chosen["num_frames"].sum() == num_frames
    anomalous = sum(stop - start for ranges in chosen["annotations"] for start, stop in ranges)
    if num_anomalous is not None:
        assert anomalous == num_anomalous
    assert all(stop <= row.num_frames for row in chosen.itertuples() for _, stop in row.annotations)


@pytest.mark.parametrize(
    ("length", "expected"),
    [("true", (33, 32)), ("cut-16", (32, 32)), ("cut-16-xd", (32, 16)), ("pad-16", (48, 32))],
)
def test_lengths(length, expected):
    assert tuple(map(Convention(length).num_frames, (33, 32))) == expected


def test_the_two_cuts_differ_where_a_length_is_a_multiple_of_16(shared_data):
    """Of XD-Violence's 800, 746 are alike: as many as cut-16 fits of the field's features."""
    lengths = pd.read_csv(shared_data / "annotations/xd_violence_test_lengths.csv")["num_frames"]
    pairs = [[Convention(cut).num_frames(n) for cut in ("cut-16", "cut-16-xd")] for n in lengths]
    assert sum(one == other for one, other in pairs) == 746
    assert {one - other for one, other in pairs} == {0, 16}


@pytest.fixture
def test_set(tmp_path):
    """Make a test set of videos ``(id, frames, annotations)``."""

    def make(*videos, convention=DEFAULT_CONVENTION):
        records = []
        for video_id, num_frames, ranges in videos:
            label = "anomalous" if ranges else "normal"
            records.append(VideoRecord(video_id, "x", "test", label, "", ranges, num_frames))
        write_manifest(tmp_path / "m.csv", records)
        return TestSet.of_manifest(tmp_path / "m.csv", convention=convention)

    return make


def test_inclusive_ends_join_ranges_that_then_touch(test_set):
    chosen = test_set(("a", 50, ((0, 10), (11, 20))), convention=Convention(ends="inclusive"))
    assert chosen.videos["annotations"]["a"] == ((0, 21),)


def test_a_segment_that_the_convention_cuts_off_is_gone(test_set):
    segments = pd.DataFrame(
        {
            "video_id": ["a", "a", "a", "b", "b"],
            "start_frame": [0, 24, 48, 0, 24],
            "stop_frame": [24, 48, 50, 24, 48],
        }
    )
    videos = (("a", 50, ()), ("b", 48, ()))
    cut = test_set(*videos, convention=Convention("cut-16")).with_segments(segments)
    scored = cut.score(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), sigma=0, threshold=0.5)
    assert scored.raw.tolist() == [0.1, 0.2, 0.4, 0.5]
    assert scored.video.tolist() == [0, 0, 1, 1]
    assert scored.stop_frame.tolist() == [24, 48, 24, 48]
    padded = test_set(*videos, convention=Convention("pad-16")).with_segments(segments)
    scored = padded.score(np.zeros(5), sigma=0.4, threshold=0.5)
    assert scored.stop_frame.tolist() == [24, 48, 64, 24, 48]


def test_a_video_that_the_convention_leaves_nothing_of_is_refused(test_set):
    with pytest.raises(ManifestError, match="a: no frame of its 15 is evaluated"):
        test_set(("a", 15, ()), convention=Convention("cut-16"))


def test_frames_that_padding_adds_are_normal(test_set):
    chosen = test_set(("a", 50, ((40, 60),)), convention=Convention("pad-16"))
    assert chosen.videos["annotations"]["a"] == ((40, 50),)
    assert chosen.warnings == ("a: annotation ended at 60, clipped to its 50 frames",)


def test_a_store_gives_states_to_score_and_an_evaluation(make_store):
    test = TestSet.of_store(FeatureStore.open(make_store()))
    states = np.concatenate(list(test.states(3)))
    assert len(states) == len(test.segments.video)
    # Anomalous segments are shifted in the first four features.
    metrics = test.evaluate(1 / (1 + np.exp(4 - states[:, :4].sum(axis=1))), num_resamples=10)
    assert metrics["smoothed"]["auc"] > 0.9
    assert metrics["num_videos"] == len(test.videos) == 12


def test_as_many_scores_as_segments_are_needed(make_store):
    test = TestSet.of_store(FeatureStore.open(make_store()))
    with pytest.raises(HiProbeError, match=r"got scores of shape \(3,\), expected one for each"):
        test.score(np.zeros(3))


def test_who_needs_labels_of_frames_can_ask(test_set, tmp_path):
    test_set(("a", 50, ((10, 20),))).require_frame_labels()
    records = [VideoRecord(name, "x", "test", "anomalous", num_frames=50) for name in "ab"]
    write_manifest(tmp_path / "m.csv", records)
    with pytest.raises(ManifestError, match="in the 2 anomalous test videos .* example in 'a'"):
        TestSet.of_manifest(tmp_path / "m.csv").require_frame_labels()
