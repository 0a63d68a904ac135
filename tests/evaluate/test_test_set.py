"""The ground-truth conventions, on the benchmarks' real lengths and annotations."""

import numpy as np
import pandas as pd
import pytest

from hiprobe.evaluate.test_set import Convention, attach_ground_truth, with_ground_truth
from hiprobe.manifest.benchmarks import ucf_crime, xd_violence
from hiprobe.store import ManifestError

UCF, XD = "ucf_crime", "xd_violence"


@pytest.mark.parametrize(
    ("name", "convention", "num_frames", "num_anomalous"),
    [
        (UCF, Convention(), 1_111_808, 84_182),
        (UCF, Convention(ends="inclusive"), 1_111_808, 84_331),
        (UCF, Convention("cut-16"), 1_109_824, None),
        (UCF, Convention("pad-16"), 1_114_144, 84_182),
        (XD, Convention(), 2_335_801, 538_324),
        (XD, Convention(ends="inclusive"), 2_335_801, 539_562),
    ],
)
def test_official_totals(shared_data, name, convention, num_frames, num_anomalous):
    folder = shared_data / "annotations"
    builder = {UCF: ucf_crime, XD: xd_violence}[name]
    records = builder(
        folder / f"{name}_temporal.txt", lengths=folder / f"{name}_test_lengths.csv"
    ).records
    fields = ("label", "num_frames", "annotations")
    videos = pd.DataFrame(
        {field: [getattr(record, field) for record in records] for field in fields},
        index=[record.video_id for record in records],
    )
    chosen = with_ground_truth(videos, folder, convention, [])
    assert chosen["num_frames"].sum() == num_frames
    anomalous = sum(stop - start for ranges in chosen["annotations"] for start, stop in ranges)
    if num_anomalous is not None:
        assert anomalous == num_anomalous
    assert all(stop <= row.num_frames for row in chosen.itertuples() for _, stop in row.annotations)


@pytest.mark.parametrize(
    ("length", "expected"), [("true", (33, 16)), ("cut-16", (32, 16)), ("pad-16", (48, 16))]
)
def test_lengths(length, expected):
    assert tuple(map(Convention(length).num_frames, (33, 16))) == expected


def test_inclusive_ends_join_ranges_that_then_touch():
    videos = pd.DataFrame(
        {"label": ["anomalous"], "num_frames": [50], "annotations": [((0, 10), (11, 20))]},
        index=["a"],
    )
    chosen = with_ground_truth(videos, None, Convention(ends="inclusive"), [])
    assert chosen["annotations"]["a"] == ((0, 21),)


def test_a_segment_that_the_convention_cuts_off_is_gone():
    videos = pd.DataFrame(
        {"label": ["normal", "normal"], "num_frames": [50, 48], "annotations": [(), ()]},
        index=["a", "b"],
    )
    chosen = with_ground_truth(videos, None, Convention("cut-16"), [])
    segments = pd.DataFrame(
        {
            "video_id": ["a", "a", "a", "b", "b"],
            "start_frame": [0, 24, 48, 0, 24],
            "stop_frame": [24, 48, 50, 24, 48],
        }
    )
    scored = attach_ground_truth(
        segments, chosen, np.array([0.1, 0.2, 0.3, 0.4, 0.5]), sigma=0, threshold=0.5
    )
    assert scored.raw.tolist() == [0.1, 0.2, 0.4, 0.5]
    assert scored.video.tolist() == [0, 0, 1, 1]
    assert scored.stop_frame.tolist() == [24, 48, 24, 48]
    padded = with_ground_truth(videos, None, Convention("pad-16"), [])
    scored = attach_ground_truth(segments, padded, np.zeros(5), sigma=0.4, threshold=0.5)
    assert scored.stop_frame.tolist() == [24, 48, 64, 24, 48]


def test_a_video_that_the_convention_leaves_nothing_of_is_refused():
    videos = pd.DataFrame(
        {"label": ["normal"], "num_frames": [15], "annotations": [()]}, index=["a"]
    )
    with pytest.raises(ManifestError, match="a: no frame of its 15 is evaluated"):
        with_ground_truth(videos, "m.csv", Convention("cut-16"), [])


def test_frames_that_padding_adds_are_normal():
    videos = pd.DataFrame(
        {"label": ["anomalous"], "num_frames": [50], "annotations": [((40, 60),)]}, index=["a"]
    )
    warnings = []
    chosen = with_ground_truth(videos, None, Convention("pad-16"), warnings)
    assert chosen["annotations"]["a"] == ((40, 50),)
    assert warnings == ["a: annotation ended at 60, clipped to its 50 frames"]
