"""A video file that another one has taken the name of is never gone on with in silence."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from hiprobe.extract import batches
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.dry_run import dry_run
from hiprobe.extract.parity import certify
from hiprobe.extract.pipeline import extract
from hiprobe.extract.video import SegmentReader
from hiprobe.extract.workplace import Here
from hiprobe.store import DONE, FeatureStore, VideoRecord, write_manifest
from hiprobe.store.verify import verify
from tests.conftest import forget_digests


@pytest.fixture
def job(tmp_path, make_video, model):
    """Two videos, one of them longer than a block."""
    records = [
        VideoRecord(name, str(make_video(f"{name}.mp4", num, seed=1)), "train", "normal")
        for name, num in {"one": 30, "long": 24 * 70}.items()
    ]
    write_manifest(tmp_path / "manifest.csv", records)
    return ExtractConfig(
        manifest=tmp_path / "manifest.csv",
        store=tmp_path / "features.zarr",
        backbone=BackboneConfig(str(model), device="cpu"),
        num_readers=1,
        parity=0,
    )


def states(store, video_id="one"):
    return FeatureStore.open(store).video(video_id)


def interrupt(job, num_batches):
    """Extract, and be killed in the middle of the long video."""
    calls = 0

    class Disturbed(Backbone):
        def launch(self, inputs):
            nonlocal calls
            calls += 1
            if calls > num_batches:
                raise KeyboardInterrupt
            return super().launch(inputs)

    with pytest.raises(KeyboardInterrupt):
        extract(job, workplace=Here(job, Disturbed(job.backbone)))


def test_a_finished_video_whose_file_has_changed_is_named_and_left(job, make_video):
    extract(job)
    before = states(job.store)
    make_video("one.mp4", 54, seed=2)
    summary = extract(job)
    assert list(summary.changed) == ["one"]
    assert (
        "one.mp4: is another file than the store's states were made from"
        in (summary.changed["one"])
    )
    assert "--replace-changed" in summary.changed["one"]
    assert (summary.num_done, summary.failures) == (2, {})
    np.testing.assert_array_equal(states(job.store), before)
    assert dry_run(job).failures == summary.changed


def test_a_video_begun_with_another_file_is_not_gone_on_with(job, make_video):
    interrupt(job, num_batches=9)
    make_video("long.mp4", 24 * 70, seed=2)
    summary = extract(job)
    assert list(summary.changed) == ["long"]
    assert (summary.num_done, summary.num_pending) == (1, 1)

    again = extract(replace(job, replace_changed=True))
    assert (again.num_done, again.num_pending, again.changed) == (2, 0, {})
    fresh = replace(job, store=job.store.with_name("fresh.zarr"))
    extract(fresh)
    for video_id in ("one", "long"):
        np.testing.assert_array_equal(states(job.store, video_id), states(fresh.store, video_id))
    assert verify(job.store).problems == []
    assert extract(job).changed == {}


def test_replace_changed_extracts_a_finished_video_again(job, make_video):
    extract(job)
    long = states(job.store, "long")
    make_video("one.mp4", 54, seed=2)
    assert dry_run(replace(job, replace_changed=True)).num_segments == 3
    summary = extract(replace(job, replace_changed=True))
    assert (summary.num_done, summary.changed, summary.num_segments) == (2, {}, 3 + 70)
    store = FeatureStore.open(job.store)
    assert store.videos.index.is_unique
    assert store.video("one").shape[1] == 3
    np.testing.assert_array_equal(store.video("long"), long)
    assert verify(job.store).problems == []
    # Any Zarr reader sees the rows of finished videos only.
    valid = zarr.open_group(job.store, mode="r")["valid"][:]
    assert valid.sum() == len(store.segments)
    assert extract(replace(job, replace_changed=True)).num_segments == 3 + 70


def test_a_file_of_the_same_size_and_other_content_has_changed(job):
    extract(job)
    path = job.manifest.with_name("one.mp4")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "the same size, other content" in extract(job).changed["one"]


def test_a_file_that_was_moved_copied_or_touched_is_the_same(job, tmp_path):
    interrupt(job, num_batches=9)
    os.utime(tmp_path / "one.mp4", (1, 1))
    moved = shutil.copy(tmp_path / "long.mp4", tmp_path / "moved.mp4")
    (tmp_path / "long.mp4").unlink()
    records = [
        VideoRecord(name, str(path), "train", "normal")
        for name, path in {"one": tmp_path / "one.mp4", "long": moved}.items()
    ]
    write_manifest(job.manifest, records)
    summary = extract(replace(job, parity=3))
    assert (summary.num_done, summary.changed) == (2, {})
    assert len(summary.parity["segments"]) == 3
    assert "warnings" not in summary.parity


def test_a_finished_video_whose_file_is_gone_is_fine(job, tmp_path):
    extract(job)
    (tmp_path / "one.mp4").unlink()
    summary = extract(job)
    assert (summary.num_done, summary.changed, summary.failures) == (2, {}, {})


def test_a_file_that_changes_between_the_plan_and_its_turn_is_left(job, make_video, monkeypatch):
    """As the workers of a cluster see it, long after the plan was made."""
    read, steps = batches.changed_file, []

    def late(known, path):
        if Path(path).name == "one.mp4" and not steps:
            make_video("one.mp4", 30, seed=2)
        return read(known, path)

    monkeypatch.setattr(batches, "changed_file", late)
    summary = extract(job, steps.append)
    monkeypatch.undo()
    assert list(summary.changed) == ["one"]
    assert (summary.num_done, summary.num_pending) == (1, 1)
    assert [step.outcome for step in steps if step.video_id == "one"] == ["changed"]


def test_a_file_that_changes_while_it_is_read_is_left_unfinished(job, make_video, monkeypatch):
    read = SegmentReader.__iter__

    def meanwhile(reader):
        yield from read(reader)
        if reader.num_decoded == 30:
            make_video("one.mp4", 30, seed=2)

    monkeypatch.setattr(SegmentReader, "__iter__", meanwhile)
    summary = extract(job)
    assert list(summary.changed) == ["one"]
    assert FeatureStore.open(job.store).videos["status"].to_dict() == {
        "one": "pending",
        "long": DONE,
    }


def test_a_store_of_an_earlier_version_knows_no_files_and_goes_on(job, make_video):
    interrupt(job, num_batches=9)
    forget_digests(job.store)
    for name in ("file_size", "file_mtime_ns", "file_digest"):
        shutil.rmtree(job.store / name)
    make_video("one.mp4", 54, seed=2)
    summary = extract(job)
    assert (summary.num_done, summary.changed) == (2, {})


def test_parity_passes_over_what_has_changed(job, make_video):
    extract(replace(job, only=("one",)))
    make_video("one.mp4", 54, seed=2)
    summary = extract(replace(job, parity=4))
    assert {video_id for video_id, _ in summary.parity["segments"]} == {"long"}
    assert summary.parity["exceeded"] == []


def move(job, *names):
    """Move videos into another folder, and say so in the manifest."""
    folder = job.manifest.parent / "elsewhere"
    folder.mkdir()
    text = job.manifest.read_text()
    for name in names:
        job.manifest.with_name(f"{name}.mp4").rename(folder / f"{name}.mp4")
        text = text.replace(f"{name}.mp4", f"elsewhere/{name}.mp4")
    job.manifest.write_text(text)
    return folder


def test_a_moved_video_is_found_where_the_manifest_has_it_now(job):
    extract(replace(job, only=("one",)))
    folder = move(job, "one", "long")
    summary = extract(replace(job, parity=60))
    assert (summary.num_done, summary.changed) == (2, {})
    assert {video_id for video_id, _ in summary.parity["segments"]} == {"one", "long"}
    assert "warnings" not in summary.parity
    store = FeatureStore.open(job.store)
    assert store.videos.loc["one", "path"] == str(folder / "one.mp4")
    # `hiprobe store verify --parity` has no manifest.
    again = certify(job.store, 60, device="cpu")
    assert {video_id for video_id, _ in again["segments"]} == {"one", "long"}
    assert verify(job.store).problems == []


def test_a_moved_video_is_found_when_nothing_is_left_to_do(job):
    extract(job)
    folder = move(job, "long")
    assert extract(job).changed == {}
    assert FeatureStore.open(job.store).videos.loc["long", "path"] == str(folder / "long.mp4")


def test_a_path_where_nothing_is_leaves_the_stores_own(job):
    extract(job)
    job.manifest.write_text(job.manifest.read_text().replace("one.mp4", "nowhere/one.mp4"))
    assert extract(job).num_done == 2
    path = FeatureStore.open(job.store).videos.loc["one", "path"]
    assert path == str(job.manifest.with_name("one.mp4"))


def test_another_video_at_the_new_path_is_no_moved_one(job, make_video):
    extract(job)
    other = make_video("elsewhere/one.mp4", 30, seed=5)
    job.manifest.write_text(job.manifest.read_text().replace("one.mp4", "elsewhere/one.mp4"))
    assert str(other) in extract(job).changed["one"]
    path = FeatureStore.open(job.store).videos.loc["one", "path"]
    assert path == str(job.manifest.with_name("one.mp4"))
