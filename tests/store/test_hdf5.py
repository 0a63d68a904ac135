"""Export to HDF5 and import again."""

import h5py
import numpy as np
import pandas as pd
import pytest

from hiprobe.store import FAILED, FeatureStore, PlannedVideo, StoreError, StoreWriter, VideoRecord
from hiprobe.store.hdf5 import export_hdf5, import_hdf5
from hiprobe.store.verify import verify


def test_both_ways_nothing_is_lost(make_store, tmp_path):
    path = make_store(num_videos=8)
    with StoreWriter(path) as writer:
        records = [
            VideoRecord(name, f"/{name}.mp4", "test", "normal") for name in ("坏 #1", "later")
        ]
        writer.add_videos(
            [PlannedVideo(records[0], 0, float("nan"), ()), PlannedVideo(records[1], 0, 25.0, ())]
        )
        writer.finish_video(8, status=FAILED, num_frames=0, fps=float("nan"), error="坏了")
    export_hdf5(path, tmp_path / "store.h5")
    import_hdf5(tmp_path / "store.h5", tmp_path / "again.zarr")
    one, other = FeatureStore.open(path), FeatureStore.open(tmp_path / "again.zarr")
    pd.testing.assert_frame_equal(other.videos, one.videos)
    pd.testing.assert_frame_equal(other.segments, one.segments)
    assert other.provenance == one.provenance
    for layer in one.layers:
        np.testing.assert_array_equal(other.layer(layer), one.layer(layer))
    assert verify(tmp_path / "again.zarr").problems == []


def test_any_hdf5_reader_can_use_the_file(make_store, tmp_path):
    path = make_store(num_videos=4)
    export_hdf5(path, tmp_path / "store.h5")
    store = FeatureStore.open(path)
    with h5py.File(tmp_path / "store.h5") as file:
        np.testing.assert_array_equal(file["hidden_states"][3], store.layer(3))
        assert list(file["videos/video_id"].asstr()) == list(store.videos.index)
        assert file["segments/video"].shape == (len(store.segments),)


def test_users_errors(make_store, tmp_path):
    path = make_store(num_videos=4)
    export_hdf5(path, tmp_path / "store.h5")
    with pytest.raises(StoreError, match=r"exists\. Choose another name"):
        export_hdf5(path, tmp_path / "store.h5")
    with pytest.raises(StoreError, match="no such file"):
        import_hdf5(tmp_path / "none.h5", tmp_path / "x.zarr")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(StoreError, match="cannot be read as HDF5"):
        import_hdf5(tmp_path / "text.h5", tmp_path / "x.zarr")
    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    with pytest.raises(StoreError, match="expected the schema 'hiprobe-hdf5-1', got None"):
        import_hdf5(tmp_path / "other.h5", tmp_path / "x.zarr")
    with pytest.raises(StoreError, match="exists and is no feature store"):
        import_hdf5(tmp_path / "store.h5", tmp_path)
