"""Is a video that is tested on one that was trained on?"""

from __future__ import annotations

import pytest

from hiprobe.store import (
    FeatureStore,
    FileIdentity,
    HiProbeError,
    PlannedVideo,
    StoreWriter,
    VideoRecord,
)
from hiprobe.store.train_test_overlap import check_overlap, files_of, files_trained_on


def known(path, content):
    """A video's file as `probe.json` keeps it."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    file = FileIdentity.of(path)
    return {"path": str(path), "size": file.size, "digest": file.digest}


def found(trained, tested, same_manifest=False):
    try:
        check_overlap(trained, tested, same_manifest=same_manifest, where="probe.json")
    except HiProbeError as error:
        return str(error)
    return ""


def test_a_copy_under_another_name_is_the_same_video(tmp_path):
    trained = {"a": known(tmp_path / "a.mp4", b"one video")}
    tested = {
        "b": known(tmp_path / "copies/b.mp4", b"one video"),
        "c": known(tmp_path / "c.mp4", b"one v1deo"),
    }
    message = found(trained, tested)
    assert "probe.json: 1 of 2 videos to evaluate were used for training" in message
    assert "  b: same content as a\n" in message
    assert "--allow-overlap" in message


def test_a_link_is_the_same_file_even_where_its_content_is_unknown(tmp_path):
    trained = {"a": known(tmp_path / "a.mp4", b"one video")}
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    assert "z: same file as a" in found(trained, {"z": {"path": str(tmp_path / "link.mp4")}})


def test_equal_ids_with_other_content_are_other_videos(tmp_path):
    trained = {"01": known(tmp_path / "first/01.mp4", b"a fight")}
    tested = {"01": known(tmp_path / "second/01.mp4", b"a walk!")}
    assert found(trained, tested) == ""
    # Of one manifest they are the same, whatever became of the file.
    assert "01: same id" in found(trained, tested, same_manifest=True)


@pytest.mark.parametrize("side", [0, 1])
def test_equal_ids_whose_content_one_side_does_not_know_are_refused(tmp_path, side):
    sides = [{"01": known(tmp_path / f"{name}/01.mp4", name.encode())} for name in ("a", "b")]
    sides[side] = {"01": {}}
    assert "01: same id" in found(*sides)


def test_files_that_nobody_knows_are_not_the_same():
    assert found({"a": {}, "b": {"path": ""}}, {"c": {}, "d": {"path": "", "digest": ""}}) == ""


def test_who_means_it_gets_a_warning_that_names_the_videos(tmp_path):
    files = {name: known(tmp_path / f"{name}.mp4", name.encode()) for name in "abcde"}
    (warning,) = check_overlap(files, files, same_manifest=True, allow=True, where="probe.json")
    assert warning.startswith("5 of 5 videos tested on were trained on (overlap allowed)")
    assert "a: same content, same file, same id; b: " in warning
    assert warning.endswith("; and 2 more")


def test_a_store_keeps_what_tells_its_files(tmp_path):
    video = tmp_path / "a.mp4"
    file = known(video, b"content")
    with StoreWriter.create(
        tmp_path / "s.zarr", layers=[1], num_features=2, provenance={}
    ) as writer:
        records = [VideoRecord(name, str(video), "train", "normal") for name in ("a", "b")]
        identities = [FileIdentity.of(video), None]
        writer.add_videos(
            PlannedVideo(record, 24, 25.0, [(0, 24)], identity)
            for record, identity in zip(records, identities, strict=True)
        )
    files = files_of(FeatureStore.open(tmp_path / "s.zarr"), ["a", "b"])
    assert files == {"a": file, "b": {"path": str(video)}}
    assert files_trained_on({"video_ids": ["a", "b", "c"], "files": files}) == {**files, "c": {}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "the training files is a list of 0"),
        ({"a": 3}, "the file of 'a' is 3"),
        ({"a": {"path": 3}}, "path of 'a' is 3"),
        ({"a": {"size": -3, "digest": ""}}, "size of 'a' is -3"),
    ],
)
def test_what_is_no_probes_list_of_files_says_so(files, message):
    with pytest.raises(HiProbeError, match=message):
        files_trained_on({"video_ids": ["a"], "files": files})


def test_a_path_that_can_be_none_is_no_file():
    assert found({"a": {"path": "a\0b"}}, {"b": {"path": "\ud800"}}) == ""
