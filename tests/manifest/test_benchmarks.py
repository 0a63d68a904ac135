"""Manifest builders on the official files: the totals that `shared/data/README.md` checks."""

import numpy as np
import pytest

from hiprobe.manifest.benchmarks import msad, ucf_crime, xd_category, xd_violence
from hiprobe.manifest.shanghaitech import shanghaitech
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


def test_lengths_need_no_frame_rate(tmp_path):
    (tmp_path / "l.csv").write_text("video_id,num_frames\na,9\n")
    (tmp_path / "a.txt").write_text("a.mp4  Abuse  1  5  -1  -1\n")
    (record,) = ucf_crime(tmp_path / "a.txt", lengths=tmp_path / "l.csv").records
    assert (record.num_frames, record.fps) == (9, None)


def test_msad_totals(shared_data, tmp_path):
    folder = shared_data / "annotations"
    manifest = msad(folder / "msad_temporal.txt", lengths=folder / "msad_test_lengths.csv")
    num_videos, frames, anomalous, _ = totals(manifest.records)
    # 33,619 if the last frames did not belong to the intervals.
    assert (num_videos, frames, anomalous) == (240, 146_408, 33_671)
    assert sum(record.label == "normal" for record in manifest.records) == 120
    by_id = {record.video_id: record for record in manifest.records}
    assert by_id["Object_falling_4"].category == "Object_falling"
    assert by_id["Object_falling_4"].annotations == ((85, 201),)
    assert by_id["Object_falling_3"].annotations == ((1, 890),)
    assert manifest.warnings == [
        "68 intervals end one frame beyond their video's last one, clipped: the file may count "
        "from 1"
    ]
    write_manifest(tmp_path / "manifest.csv", manifest.records)
    assert totals(read_manifest(tmp_path / "manifest.csv")) == totals(manifest.records)


def test_msad_names_tell_the_label_of_training_videos(tmp_path):
    (tmp_path / "a.txt").write_text("Fire_1.mp4  Fire  5  9  -1  -1\n")
    (tmp_path / "t.txt").write_text("MSAD_normal_training_2.mp4\nPeople_falling_11.mp4\n")
    _, *train = msad(tmp_path / "a.txt", train_list=tmp_path / "t.txt").records
    assert [(r.label, r.category, r.split) for r in train] == [
        ("normal", "", "train"), ("anomalous", "People_falling", "train"),
    ]  # fmt: skip
    (tmp_path / "a.txt").write_text("MSAD_normal_testing_1.mp4  MSAD  5  9  -1  -1\n")
    with pytest.raises(ManifestError, match="is normal by its name, but has an interval"):
        msad(tmp_path / "a.txt")


def weak_lists(shared_data, tmp_path):
    """Lists in the published forms: real masks' videos, and normal ones to the right totals."""
    masks = shared_data / "annotations/shanghaitech_test_frame_labels.npz"
    with np.load(masks) as content:
        names = sorted(content.files)
        spans = {name: np.flatnonzero(content[name])[[0, -1]] for name in names}
        lengths = {name: len(content[name]) for name in names}
    train = [f"SHANGHAI_TRAIN/frames/{name} 0 {lengths[name]} 1" for name in names[:63]]
    train += [f"SHANGHAI_TRAIN/frames/01_{i:03} 0 500 0" for i in range(175)]
    test = [
        f"SHANGHAI_Test/frames/{name} {lengths[name]} 1 {spans[name][0]} {spans[name][1]}"
        for name in names[63:]
    ]
    test += [f"SHANGHAI_Test/frames/02_{i:03} 765 0 0 765" for i in range(155)]
    (tmp_path / "train.txt").write_text("\n".join(train))
    (tmp_path / "test.txt").write_text("\n".join(test))
    return masks


def test_shanghaitechs_split_for_weak_supervision(shared_data, tmp_path):
    masks = weak_lists(shared_data, tmp_path)
    manifest = shanghaitech(
        masks, train_list=tmp_path / "train.txt", test_list=tmp_path / "test.txt"
    )
    assert manifest.warnings == []
    counted = {
        (split, label): sum((r.split, r.label) == (split, label) for r in manifest.records)
        for split in ("train", "test")
        for label in ("normal", "anomalous")
    }
    assert [*counted.values()] == [175, 63, 155, 44]
    # All of the 107 videos have their own frames, gaps included.
    assert sum(b - a for r in manifest.records for a, b in r.annotations) == 17_326
    assert sum(r.num_frames or 0 for r in manifest.records) == 40_791
    write_manifest(tmp_path / "m.csv", manifest.records)
    assert len(read_manifest(tmp_path / "m.csv")) == 437


def test_the_other_form_of_the_lists_and_wrong_ones(shared_data, tmp_path):
    masks = weak_lists(shared_data, tmp_path)
    (tmp_path / "short.txt").write_text("01_0015,1,764\n01_001,0,764\n09_0001,1\n")
    manifest = shanghaitech(
        masks, train_list=tmp_path / "train.txt", test_list=tmp_path / "test.txt"
    )
    (tmp_path / "t.txt").write_text("08_001,0\n")
    manifest = shanghaitech(masks, train_list=tmp_path / "t.txt", test_list=tmp_path / "short.txt")
    by_id = {record.video_id: record for record in manifest.records}
    assert by_id["01_0015"].annotations == ((86, 374),)
    said = "\n".join(manifest.warnings)
    assert "t.txt: 1 normal and 0 anomalous videos, the split has 175 and 63" in said
    assert "106 masks are of videos in neither list" in said
    assert "1 anomalous test videos have no annotations, for example 09_0001" in said
    for text, message in {
        "01_0015,0": r"1 wrong labels:\n  01_0015: normal here, anomalous by its mask",
        "01_0015 433 1 90 80": "line 1: expected `FOLDER/NAME start stop label`",
        "01_0015": "line 1: expected `FOLDER/NAME start stop label`",
        "08_001,0": "listed more than once",
    }.items():
        (tmp_path / "wrong.txt").write_text(text)
        with pytest.raises(ManifestError, match=message):
            shanghaitech(masks, train_list=tmp_path / "t.txt", test_list=tmp_path / "wrong.txt")
    (tmp_path / "span.txt").write_text("x/01_0015 433 1 90 373\n")
    manifest = shanghaitech(masks, train_list=tmp_path / "t.txt", test_list=tmp_path / "span.txt")
    assert any(
        "frames 90:374 here, 86:374 by its mask, which counts" in w for w in manifest.warnings
    )
    with pytest.raises(ManifestError, match="expected --train-list too"):
        shanghaitech(masks, test_list=tmp_path / "t.txt")


def test_a_lists_span_counts_where_there_is_no_mask(tmp_path):
    np.savez(tmp_path / "masks.npz", **{"01_0015": np.array([0, 1, 1, 0])})
    (tmp_path / "train.txt").write_text("a/01_002 0 40 0\n")
    (tmp_path / "test.txt").write_text("b/01_0016 433 1 86 373\n")
    manifest = shanghaitech(
        tmp_path / "masks.npz", train_list=tmp_path / "train.txt", test_list=tmp_path / "test.txt"
    )
    assert [r.annotations for r in manifest.records] == [(), ((86, 374),)]


def test_archives_that_hold_no_masks_are_refused(tmp_path):
    (tmp_path / "a.npz").write_text("no archive")
    with pytest.raises(ManifestError, match="cannot be read as an archive of masks"):
        shanghaitech(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", a=np.zeros((2, 2)), b=np.array([None, 1], dtype=object))
    with pytest.raises(ManifestError, match="2 wrong masks"):
        shanghaitech(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", a=np.ones(50, dtype=np.uint8))
    content = bytearray((tmp_path / "c.npz").read_bytes())
    content[-200:-150] = bytes(50)
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(ManifestError, match=r"wrong masks|archive of masks|no masks"):
        shanghaitech(tmp_path / "c.npz")
