"""Manifest builders on the official files: the totals that `shared/data/README.md` checks."""

import numpy as np
import pytest

from hiprobe.manifest.benchmarks import shanghaitech, ucf_crime, xd_category, xd_violence
from hiprobe.store import ManifestError, read_manifest, write_manifest


def totals(records):
    test = [record for record in records if record.split == "test"]
    frames = sum(record.num_frames for record in test)
    anomalous = sum(stop - start for record in test for start, stop in record.annotations)
    segments = sum(-(-record.num_frames // 24) for record in test)
    return len(test), frames, anomalous, segments


def test_ucf_crime_totals(shared_data, tmp_path):
    folder = shared_data / "annotations"
    manifest = ucf_crime(
        folder / "ucf_crime_temporal.txt",
        train_list=folder / "ucf_crime_train.txt",
        lengths=folder / "ucf_crime_test_lengths.csv",
    )
    assert totals(manifest.records) == (290, 1_111_808, 84_182, 46_460)
    assert sum("clipped" in warning for warning in manifest.warnings) == 5
    train = [record for record in manifest.records if record.split == "train"]
    assert len(train) == 1610
    assert sum(record.label == "normal" for record in train) == 800
    write_manifest(tmp_path / "manifest.csv", manifest.records)
    assert totals(read_manifest(tmp_path / "manifest.csv")) == totals(manifest.records)


def test_xd_violence_totals(shared_data, tmp_path):
    folder = shared_data / "annotations"
    manifest = xd_violence(
        folder / "xd_violence_temporal.txt", lengths=folder / "xd_violence_test_lengths.csv"
    )
    assert totals(manifest.records) == (800, 2_335_801, 538_324, 97_895)
    assert sum(record.label == "anomalous" for record in manifest.records) == 500
    write_manifest(tmp_path / "manifest.csv", manifest.records)
    assert totals(read_manifest(tmp_path / "manifest.csv")) == totals(manifest.records)


def test_files_are_found_and_missing_ones_left_out(shared_data):
    manifest = ucf_crime(
        shared_data / "annotations/ucf_crime_temporal.txt",
        root=shared_data / "videos/ucf_crime_test",
    )
    assert len(manifest.records) == 6
    assert "284 of 290 videos are not under" in manifest.warnings[-1]


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("v=x__#1_label_B4-0-0", "B4"),
        ("v=x__#1_label_G-B2-B6.mp4", "G-B2-B6"),
        ("A.Beautiful.Mind.2001__#00-25-20_00-29-20_label_A", ""),
    ],
)
def test_xd_names_encode_the_label(name, category):
    assert xd_category(name) == category


def test_a_bad_line_says_where(tmp_path):
    path = tmp_path / "annotations.txt"
    path.write_text("Abuse028_x264.mp4  Abuse  165  x  -1  -1\n")
    with pytest.raises(ManifestError, match="line 1: expected frame numbers"):
        ucf_crime(path)
    with pytest.raises(ManifestError, match="cannot read it"):
        xd_violence(tmp_path / "nothing.txt")


def test_what_cannot_be_matched_is_said(shared_data, tmp_path):
    folder = shared_data / "annotations"
    (tmp_path / "lengths.csv").write_text("video_id,num_frames,fps\nAbuse028_x264,200,30\nx,9,30\n")
    manifest = ucf_crime(folder / "ucf_crime_temporal.txt", lengths=tmp_path / "lengths.csv")
    said = "\n".join(manifest.warnings)
    assert "Abuse028_x264: annotation ended at 240, clipped to its 200 frames" in said
    assert "Abuse030_x264: no length known" in said
    assert "1 videos of" in said
    (tmp_path / "lengths.csv").write_text("video_id,num_frames,fps\nAbuse028_x264,100,30\n")
    manifest = ucf_crime(folder / "ucf_crime_temporal.txt", lengths=tmp_path / "lengths.csv")
    assert "annotation 165:240 lies beyond its 100 frames and was left out" in manifest.warnings[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4  Abuse  90  20  -1  -1", "line 1: the interval 90 20 is empty or reversed"),
        ("a.mp4  Abuse  5  5  -1  -1", "line 1: the interval 5 5 is empty or reversed"),
        ("a.mp4  Abuse  5  -1  -1  -1", "line 1: the interval 5 -1 is empty or reversed"),
        ("a.mp4  Abuse  5  9  -1  -1\n" * 2, r"1 wrong videos, listed more than once:\n  a: 2"),
    ],
)
def test_intervals_and_names_that_cannot_be_are_refused(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ManifestError, match=message):
        ucf_crime(tmp_path / "a.txt")


def test_shanghaitech_masks(shared_data, tmp_path):
    masks = shared_data / "annotations/shanghaitech"
    (tmp_path / "train.txt").write_text("01_001\n01_002.avi\n")
    manifest = shanghaitech(masks, train_list=tmp_path / "train.txt")
    by_id = {record.video_id: record for record in manifest.records}
    paths = list(masks.glob("*.npy"))
    assert len(by_id) == len(paths) + 2
    for path in paths:
        mask, record = np.load(path), by_id[path.stem]
        frames = np.zeros(record.num_frames)
        for start, stop in record.annotations:
            frames[start:stop] = 1
        np.testing.assert_array_equal(frames, mask)
    assert by_id["01_002"].split == "train"
    write_manifest(tmp_path / "m.csv", manifest.records)
    assert totals(read_manifest(tmp_path / "m.csv")) == totals(manifest.records)


def test_masks_that_cannot_be_are_listed(tmp_path):
    np.save(tmp_path / "a.npy", np.array([0, 1, 2]))
    np.save(tmp_path / "b.npy", np.zeros((2, 2)))
    np.save(tmp_path / "c.npy", np.zeros(7))
    (tmp_path / "d.npy").write_text("no array")
    (tmp_path / "l.csv").write_text("video_id,num_frames,fps\nc,8,24\n")
    with pytest.raises(ManifestError, match="4 wrong masks") as caught:
        shanghaitech(tmp_path, lengths=tmp_path / "l.csv")
    assert "c.npy: has 7 frames, the video 8" in str(caught.value)
    with pytest.raises(ManifestError, match="no masks in it"):
        shanghaitech(tmp_path / "empty")


@pytest.mark.parametrize("row", ["a,0,30", "a,-5,30", "a,9,0", "a,9,nan", "a,9", "a,x,30"])
def test_lengths_that_are_no_lengths_are_refused(tmp_path, row):
    (tmp_path / "l.csv").write_text(f"video_id,num_frames,fps\n{row}\n")
    (tmp_path / "a.txt").write_text("a.mp4  Abuse  1  5  -1  -1\n")
    with pytest.raises(
        ManifestError, match=r"1 wrong lengths|expected CSV video_id,num_frames,fps"
    ):
        ucf_crime(tmp_path / "a.txt", lengths=tmp_path / "l.csv")
