"""Stores that earlier versions made open, go on, say what cannot be checked, and can be sealed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from hiprobe.store import DONE, FeatureStore, PlannedVideo, StoreError, StoreWriter, VideoRecord
from hiprobe.store.verify import seal_digests, verify

# Made with the commit before there were digests: two finished videos, a failed one, and one with a
# committed block, unsealed.
FROZEN = Path(__file__).parent / "frozen/schema-1-before-digests.zarr"


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(FROZEN, tmp_path / "old.zarr"))


def finish(path):
    """Go on with the killed run, and add a video."""
    with StoreWriter(path) as writer:
        assert writer.index.committed(3) == 1
        states, pictures = np.full((3, 2, 6), 0.25, "f4"), np.full((2, 4, 6, 3), 9, "u1")
        writer.write_block(3, 1, states, pictures)
        writer.finish_video(3, status=DONE, num_frames=141, fps=25.0)
        record = VideoRecord("new", "/v/new.mp4", "test", "normal")
        writer.add_videos([PlannedVideo(record, 45, 25.0, [(0, 24), (24, 45)])])
        writer.write_block(4, 0, states, pictures)
        writer.finish_video(4, status=DONE, num_frames=45, fps=25.0)


def test_it_opens_as_before(old):
    store = FeatureStore.open(old)
    assert store.videos["status"].to_dict() == {
        "one": "done", "two": "done", "broken": "failed", "later": "pending",
    }  # fmt: skip
    assert store.videos.loc["one", "annotations"] == ((24, 60),)
    assert store.provenance["x"] == 1
    rng = np.random.default_rng(5)
    np.testing.assert_array_equal(store.video("one"), rng.normal(size=(3, 5, 6)).astype("f4"))
    np.testing.assert_array_equal(
        store.thumbnails("one"), rng.integers(0, 256, (5, 4, 6, 3), dtype="u1")
    )
    assert store.file("one") is None


def test_verify_says_what_it_could_not_check(old):
    found = verify(old)
    assert found.problems == []
    assert "whether the index" in found.notes[0]
    assert "whether 4 of 4 whole blocks are the right ones" in found.notes[1]


def test_a_writer_goes_on_with_it(old):
    finish(old)
    store = FeatureStore.open(old)
    assert (store.video("later")[:, :4] == 0.5).all()
    assert (store.video("later")[:, 4:] == 0.25).all()
    assert len(store.layer(0)) == 5 + 2 + 6 + 2
    found = verify(old)
    assert found.problems == []
    assert "whether 4 of 6 whole blocks" in found.notes[1]


@pytest.mark.parametrize("is_gone_on_with", [False, True])
def test_sealed_it_is_checked_like_a_new_one(old, is_gone_on_with):
    if is_gone_on_with:
        finish(old)
    assert seal_digests(old) == 4
    assert (verify(old).problems, verify(old).notes) == ([], [])
    assert seal_digests(old) == 0
    shards = [old / f"hidden_states/c/0/{number}/0" for number in (0, 5)]
    content = shards[0].read_bytes()
    shards[0].write_bytes(shards[1].read_bytes() if shards[1].exists() else content[::-1])
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore.open(old).layer(0)
    shards[0].write_bytes(content)
    label = old / "label/c/0"
    label.write_bytes((old / "split/c/0").read_bytes())
    with pytest.raises(StoreError, match="label/c/0: damaged"):
        FeatureStore.open(old)


def test_a_damaged_one_is_not_sealed(old):
    shard = old / "hidden_states/c/0/1/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="not sealed"):
        seal_digests(old)
    assert verify(old).notes


def test_missing_pictures_of_one_are_not_black(old):
    (old / "thumbnail/c/0/0/0/0").unlink()
    with pytest.raises(StoreError, match="is missing"):
        FeatureStore.open(old).thumbnails("one")
