"""Folders' names say what is in them; lengths come from whoever is asked for them."""

import pytest

from hiprobe.manifest.benchmarks import ucf_crime
from hiprobe.manifest.draft import VideoLength
from hiprobe.manifest.folder import folder_manifest
from hiprobe.store import ManifestError, VideoError


def hundred_frames(path):
    if path.stem == "broken":
        raise VideoError(f"{path}: not a video")
    return VideoLength(100, 25.0)


@pytest.fixture
def folder(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def test_folders_tell_split_label_and_category(folder):
    root = folder("train/Normal/a.mp4", "Testing/Fire/b.MOV", "Testing/Fire/c.ts", "readme.txt")
    draft = folder_manifest(root, inspect=hundred_frames, whole_video=True)
    told = [(r.video_id, r.split, r.label, r.category, r.annotations) for r in draft.records]
    assert told == [
        ("Testing/Fire/b", "test", "anomalous", "Fire", ((0, 100),)),
        ("Testing/Fire/c", "test", "anomalous", "Fire", ((0, 100),)),
        ("train/Normal/a", "train", "normal", "", ()),
    ]
    assert {(r.num_frames, r.fps) for r in draft.records} == {(100, 25.0)}


def test_a_video_that_cannot_be_read_stays_without_a_length(folder):
    root = folder("train/fire/broken.mp4", "train/fire/whole.mp4")
    draft = folder_manifest(root, inspect=hundred_frames, whole_video=True)
    assert draft.warnings == [f"{root}/train/fire/broken.mp4: not a video"]
    assert [record.num_frames for record in draft.records] == [None, 100]


def test_what_names_no_label_or_no_video_is_refused(folder, tmp_path):
    with pytest.raises(ManifestError, match="no such folder"):
        folder_manifest(tmp_path / "nothing", inspect=hundred_frames)
    with pytest.raises(ManifestError, match=r"no videos in it \(.avi, "):
        folder_manifest(folder("readme.txt"), inspect=hundred_frames)
    with pytest.raises(ManifestError, match="names its label"):
        folder_manifest(folder("train/a.mp4"), inspect=hundred_frames)


def test_benchmarks_know_the_same_endings(folder, tmp_path):
    root = folder("videos/Abuse028_x264.mov") / "videos"
    (tmp_path / "test.txt").write_text("Abuse028_x264.mp4  Abuse  165  240  -1  -1\n")
    (record,) = ucf_crime(tmp_path / "test.txt", root=root).records
    assert record.path == str(root / "Abuse028_x264.mov")
