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
    assert f"{root}/train/fire/broken.mp4: not a video" in draft.warnings
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


def by_id(draft):
    return {r.video_id: (r.split, r.label, r.category) for r in draft.records}


@pytest.mark.parametrize(
    "name",
    ["normal", "NORMAL", "Normal_Videos", "benign", "NonFight", "nonfight", "noFight", "NON-FIGHT",
     "non-violence", "NonViolent", "no_accident", "Training-Normal-Videos-Part-1",
     "Testing_Normal_Videos_Anomaly", "Normal_Videos_for_Event_Recognition", "non-anomalous"],
)  # fmt: skip
def test_the_fields_names_of_normal_videos_are_known_at_any_depth(folder, name):
    root = folder(f"train/{name}/cam2/day 3/x.mp4", f"test/{name}/y.mp4")
    told = by_id(folder_manifest(root, inspect=hundred_frames))
    assert {label[1:] for label in told.values()} == {("normal", "")}
    assert [label[0] for label in told.values()] == ["test", "train"]


@pytest.mark.parametrize(
    ("path", "category"),
    [
        ("abnormal", "abnormal"),
        ("Non-Normal", "Non-Normal"),
        ("anomaly/Abuse", "Abuse"),
        ("Anomaly-Videos-Part-1/RoadAccidents", "RoadAccidents"),
        ("cam2/Fighting", "Fighting"),
        ("Fighting/cam2", "Fighting"),
        ("no_helmet", "no_helmet"),
        ("abnormal/ladder/cam1", "ladder"),
        ("videos/spill", "spill"),
    ],
)
def test_the_kind_of_an_anomaly_is_found_between_other_folders(folder, path, category):
    draft = folder_manifest(folder(f"train/{path}/x.mp4"), inspect=hundred_frames)
    assert by_id(draft) == {f"train/{path}/x": ("train", "anomalous", category)}


def test_ucf_crimes_folders_tell_the_split_too(folder):
    root = folder("Training-Normal-Videos-Part-1/a.mp4", "Testing_Normal_Videos_Anomaly/b.mp4")
    told = by_id(folder_manifest(root, inspect=hundred_frames))
    assert [label[:2] for label in told.values()] == [("test", "normal"), ("train", "normal")]


def test_names_above_the_split_count_where_none_is_below(folder):
    root = folder("NonFight/train/a.mp4", "Fight/val/b.mp4")
    told = by_id(folder_manifest(root, inspect=hundred_frames))
    assert told == {
        "NonFight/train/a": ("train", "normal", ""), "Fight/val/b": ("test", "anomalous", "Fight"),
    }  # fmt: skip


def test_a_name_that_nobody_knows_is_a_visible_guess_until_it_is_told(folder):
    root = folder("train/empty street/a.mp4", "train/empty street/b.mp4", "test/Fire/c.mp4")
    draft = folder_manifest(root, inspect=hundred_frames)
    said = "\n".join(draft.warnings)
    assert "2 videos count as anomalous because no known name is among their folders'" in said
    assert "(empty street): --normal NAME" in said
    assert "no video is normal by its folders' names" in said
    rows = [(c.folder, c.label, c.told_by, c.num_train, c.num_test) for c in draft.folders]
    assert rows == [
        ("test/Fire", "anomalous", "Fire", 0, 1),
        ("train/empty street", "anomalous", "empty street?", 2, 0),
    ]
    draft = folder_manifest(root, inspect=hundred_frames, normal=["Empty Street"])
    assert by_id(draft)["train/empty street/a"] == ("train", "normal", "")
    assert "--normal" not in "\n".join(draft.warnings)
    with pytest.raises(ManifestError, match=r"--normal street: no folder .*\n  Fire\n  empty str"):
        folder_manifest(root, inspect=hundred_frames, normal=["street"])


def test_a_part_of_a_path_tells_one_of_two_folders_of_a_name(folder):
    root = folder("train/cam1/yard/a.mp4", "train/cam2/yard/b.mp4")
    draft = folder_manifest(root, inspect=hundred_frames, normal=["cam2/yard"])
    assert [r.label for r in draft.records] == ["anomalous", "normal"]


def test_names_that_contradict_each_other_are_said(folder):
    draft = folder_manifest(folder("train/normal/fire/a.mp4"), inspect=hundred_frames)
    assert by_id(draft) == {"train/normal/fire/a": ("train", "anomalous", "fire")}
    assert "train/normal/fire: is anomalous by 'fire', despite 'normal'" in draft.warnings


def test_hidden_files_and_what_macos_leaves_are_no_videos(folder):
    root = folder(
        "train/fire/a.mp4", "train/fire/._a.mp4", "train/fire/.DS_Store", "train/.trash/fire/b.mp4",
        "__MACOSX/train/fire/c.mp4",
    )  # fmt: skip
    draft = folder_manifest(root, inspect=hundred_frames)
    assert [r.video_id for r in draft.records] == ["train/fire/a"]
    assert any("3 hidden files were left out, for example" in text for text in draft.warnings)


def test_folders_without_a_split_are_counted_as_drawn(folder):
    root = folder(*(f"normal/{i}.mp4" for i in range(10)), "train/fire/a.mp4")
    draft = folder_manifest(root, inspect=hundred_frames)
    counts = {c.folder: (c.is_drawn, c.num_train, c.num_test) for c in draft.folders}
    assert counts == {"normal": (True, 7, 3), "train/fire": (False, 1, 0)}


def annotated(folder, text, **options):
    root = folder("test/fire/a.mp4", "test/normal/b.mp4")
    (root / "annotations.csv").write_text(f"video_id,annotations\n{text}\n")
    return folder_manifest(
        root, inspect=hundred_frames, annotations=root / "annotations.csv", **options
    )


def test_an_annotation_of_a_normal_video_is_refused_with_its_id(folder):
    with pytest.raises(ManifestError, match="1 annotated videos are normal") as caught:
        annotated(folder, "test/normal/b,5:9\ntest/fire/a,1:2")
    assert "  test/normal/b: 5:9\n" in str(caught.value)
    assert annotated(folder, "test/normal/b,\ntest/fire/a,1:2").records[0].annotations == ((1, 2),)


def test_ids_that_fit_nothing_stand_beside_ids_that_would(folder):
    with pytest.raises(ManifestError, match="2 of 2 annotated videos are not in") as caught:
        annotated(folder, "a.mp4,5:9\nb,1:2")
    assert "  a.mp4\n  b\n" in str(caught.value)
    assert "for example 'test/fire/a', 'test/normal/b'." in str(caught.value)


def test_annotations_beyond_the_end_are_clipped(folder):
    draft = annotated(folder, "test/fire/a,90:120")
    assert draft.records[0].annotations == ((90, 100),)
    assert "test/fire/a: annotation ended at 120, clipped to its 100 frames" in draft.warnings


def test_anomalous_test_videos_without_annotations_are_said(folder):
    root = folder("test/fire/a.mp4", "train/fire/b.mp4", "test/normal/c.mp4")
    (text,) = [t for t in folder_manifest(root, inspect=hundred_frames).warnings if "annot" in t]
    assert text.startswith(
        "1 anomalous test videos have no annotations, for example test/fire/a: f"
    )
    assert "frame-level evaluation will refuse them: give --annotations, or --whole-video" in text
    draft = folder_manifest(root, inspect=hundred_frames, whole_video=True)
    assert draft.warnings == []


def test_the_real_fights_are_read_right(shared_data):
    draft = folder_manifest(shared_data / "videos/fights", inspect=hundred_frames)
    assert [(c.folder, c.label) for c in draft.folders] == [
        ("fight", "anomalous"), ("normal", "normal"),
    ]  # fmt: skip
    assert sum(c.num_train + c.num_test for c in draft.folders) == 48
