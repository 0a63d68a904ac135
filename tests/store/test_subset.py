"""A store that is made smaller keeps its numbers, and can be gone on with."""

import numpy as np
import pytest

from hiprobe.store import FeatureStore, StoreError, StoreWriter
from hiprobe.store.merge import merge
from hiprobe.store.subset import subset
from hiprobe.store.verify import verify


def test_the_layers_and_videos_asked_for_are_kept_bit_for_bit(make_store, tmp_path):
    path, out = make_store(), tmp_path / "small.zarr"
    train = subset(path, out, layers=(4, 1), split="train")
    whole, small = FeatureStore.open(path), FeatureStore.open(out)
    assert small.layers == [1, 4]
    assert small.origin.layers == (1, 4)
    assert list(small.videos.index) == list(whole.videos.index[whole.videos["split"] == "train"])
    assert train == len(small.videos)
    for video_id in small.videos.index:
        np.testing.assert_array_equal(small.video(video_id), whole.video(video_id)[[1, 4]])
    columns = ["path", "label", "annotations", "num_frames", "fps"]
    kept = whole.videos.loc[small.videos.index]
    assert small.videos[columns].equals(kept[columns])
    assert verify(out).problems == []


def test_videos_are_chosen_by_id_and_pattern(make_store, tmp_path):
    path, out = make_store(), tmp_path / "small.zarr"
    assert subset(path, out, only=("video-03", "video-1*")) == 11
    assert FeatureStore.open(out).layers == FeatureStore.open(path).layers


def test_a_killed_copy_goes_on_and_a_finished_one_can_gain_videos(make_store, tmp_path):
    path, out = make_store(), tmp_path / "small.zarr"

    def killed(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        subset(path, out, layers=(3,), split="train", on_video=killed)
    assert subset(path, out, layers=(3,), split="train") == 12
    assert subset(path, out, layers=(3,)) == 24
    whole = FeatureStore.open(path)
    for video_id in whole.videos.index:
        np.testing.assert_array_equal(
            FeatureStore.open(out).video(video_id), whole.video(video_id, [3])
        )


def test_unfinished_videos_are_left_out(make_store, tmp_path):
    path, out = make_store(), tmp_path / "small.zarr"
    with StoreWriter(path) as writer:
        writer.finish_video(2, status="failed", num_frames=0, fps=25.0, error="broken")
    assert subset(path, out) == 23
    assert "video-02" not in FeatureStore.open(out).videos.index


def test_what_cannot_be_kept_is_refused(make_store, tmp_path):
    path, out = make_store(), tmp_path / "small.zarr"
    with pytest.raises(StoreError, match="no layer 9; it has layers 0 to 4"):
        subset(path, out, layers=(9,))
    with pytest.raises(StoreError, match="'fire-\\*' fits none of its 24 finished videos"):
        subset(path, out, only=("fire-*",))
    with pytest.raises(StoreError, match="none of its 24 finished videos is asked for"):
        subset(path, out, only=("video-00",), split="test")
    with pytest.raises(StoreError, match="is the store itself"):
        subset(path, path)
    assert not out.exists()
    subset(path, out, layers=(1,))
    with pytest.raises(StoreError, match="layers is \\[1\\], not \\[2\\]"):
        subset(path, out, layers=(2,))


def test_subsets_of_one_store_merge_again(make_store, tmp_path):
    path = make_store()
    parts = [tmp_path / "train.zarr", tmp_path / "test.zarr"]
    for part, split in zip(parts, ("train", "test"), strict=True):
        subset(path, part, split=split)
    assert merge(tmp_path / "merged.zarr", parts) == 24
