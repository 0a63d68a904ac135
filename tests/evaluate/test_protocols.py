"""Manifest builders on the official files: the totals that `shared/data/README.md` checks."""

import pytest

from hiprobe.evaluate.protocols import ucf_crime, xd_category, xd_violence
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
