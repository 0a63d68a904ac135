"""Export to HDF5 and import again."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from hiprobe.store import (
    DONE,
    FAILED,
    FeatureStore,
    PlannedVideo,
    StoreError,
    StoreWriter,
    VideoRecord,
)
from hiprobe.store.hdf5 import export_hdf5, import_hdf5
from hiprobe.store.verify import verify
from hiprobe.store.video_file import FileIdentity

OLD_FILE = Path(__file__).parent / "data/hiprobe-hdf5-1.h5"


def assert_equal_stores(path, again):
    one, other = FeatureStore.open(path), FeatureStore.open(again)
    pd.testing.assert_frame_equal(other.videos, one.videos)
    pd.testing.assert_frame_equal(other.segments, one.segments)
    assert other.provenance == one.provenance
    for layer in one.layers:
        np.testing.assert_array_equal(other.layer(layer), one.layer(layer))
    for video_id in one.videos.index:
        assert other.file(video_id) == one.file(video_id)
    assert other.thumbnail_size == one.thumbnail_size
    for video_id in one.segments["video_id"].unique() if one.thumbnail_size else ():
        np.testing.assert_array_equal(other.thumbnails(video_id), one.thumbnails(video_id))


def test_both_ways_nothing_is_lost(make_store, tmp_path):
    path = make_store(num_videos=8)
    with StoreWriter(path) as writer:
        records = [
            VideoRecord(name, f"/{name}.mp4", "test", "normal") for name in ("坏 #1", "later")
        ]
        writer.add_videos(
            [
                PlannedVideo(records[0], 0, float("nan"), (), FileIdentity(3, 10**18, "0a" * 16)),
                PlannedVideo(records[1], 0, 25.0, ()),
            ]
        )
        writer.finish_video(8, status=FAILED, num_frames=0, fps=float("nan"), error="坏了")
    export_hdf5(path, tmp_path / "store.h5")
    import_hdf5(tmp_path / "store.h5", tmp_path / "again.zarr")
    assert_equal_stores(path, tmp_path / "again.zarr")
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
    with pytest.raises(StoreError, match="expected the schema 'hiprobe-hdf5-2', got None"):
        import_hdf5(tmp_path / "other.h5", tmp_path / "x.zarr")
    with pytest.raises(StoreError, match="exists and is no feature store"):
        import_hdf5(tmp_path / "store.h5", tmp_path)


def test_every_dataset_has_checksums_and_the_whole_has_a_digest(make_store, tmp_path):
    export_hdf5(make_store(num_videos=4), tmp_path / "store.h5")
    with h5py.File(tmp_path / "store.h5") as file:
        names = []
        file.visit(names.append)
        datasets = [file[name] for name in names if isinstance(file[name], h5py.Dataset)]
        assert len(datasets) == 21
        assert all(dataset.fletcher32 for dataset in datasets)
        assert file.attrs["digest"].startswith(b"sha256:")


def test_a_store_without_finished_videos_goes_both_ways(tmp_path):
    provenance = {"long": "x" * 100_000}
    with StoreWriter.create(
        tmp_path / "a", layers=[0, 4], num_features=3, provenance=provenance
    ) as writer:
        export_hdf5(tmp_path / "a", tmp_path / "none.h5")
        import_hdf5(tmp_path / "none.h5", tmp_path / "none.zarr")
        assert_equal_stores(tmp_path / "a", tmp_path / "none.zarr")
        writer.add_videos([PlannedVideo(VideoRecord("b", "/b", "test", "normal"), 0, 1.0, ())])
        writer.finish_video(0, status=FAILED, num_frames=0, fps=float("nan"), error="e" * 5000)
    export_hdf5(tmp_path / "a", tmp_path / "one.h5")
    import_hdf5(tmp_path / "one.h5", tmp_path / "one.zarr")
    assert_equal_stores(tmp_path / "a", tmp_path / "one.zarr")


def test_videos_that_are_planned_only_are_left_out_and_named(make_store, tmp_path):
    """With no segments in the file, they could never be finished in the new store."""
    path = make_store(num_videos=2)
    with StoreWriter(path) as writer:
        later = VideoRecord("later", "/later", "test", "normal")
        writer.add_videos([PlannedVideo(later, 48, 25.0, [(0, 24), (24, 48)])])
    export_hdf5(path, tmp_path / "store.h5")
    warnings = []
    import_hdf5(tmp_path / "store.h5", tmp_path / "again", on_warning=warnings.append)
    assert [*FeatureStore.open(tmp_path / "again").videos.index] == ["video-00", "video-01"]
    (warning,) = warnings
    assert "videos that were not extracted yet are left out" in warning
    assert warning.endswith("later")


def test_a_file_of_the_first_version_is_imported_with_a_warning(tmp_path):
    warnings = []
    import_hdf5(OLD_FILE, tmp_path / "a", on_warning=warnings.append)
    (warning,) = warnings
    assert "without digests" in warning
    store = FeatureStore.open(tmp_path / "a")
    with h5py.File(OLD_FILE) as file:
        assert [*store.videos.index] == [*file["videos/video_id"].asstr()]
        np.testing.assert_array_equal(store.layer(1), file["hidden_states"][1])
        np.testing.assert_array_equal(store.thumbnails("video-0"), file["thumbnail"][:9])
    assert store.videos.loc["坏 #1", "error"] == "坏了"
    assert verify(tmp_path / "a").problems == []


def test_states_that_are_not_finite_are_not_exported(tmp_path):
    with StoreWriter.create(tmp_path / "a", layers=[0], num_features=3, provenance={}) as writer:
        record = VideoRecord("b", "/b", "test", "normal")
        writer.add_videos([PlannedVideo(record, 24, 1.0, [(0, 24)])])
        writer.write_block(0, 0, np.array([[[1.0, np.inf, 1.0]]]))
        writer.finish_video(0, status=DONE, num_frames=24, fps=1.0)
    with pytest.raises(StoreError, match=r"layer 0 of video 'b' has values that are not finite"):
        export_hdf5(tmp_path / "a", tmp_path / "a.h5")
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


class InterruptedByTestError(Exception):
    pass


def interrupt_after(count):
    def on_done(done, total):
        if done == count:
            raise InterruptedByTestError

    return on_done


def test_an_interrupted_import_goes_on_and_writes_no_finished_video_again(make_store, tmp_path):
    path = make_store(num_videos=6)
    export_hdf5(path, tmp_path / "store.h5")
    again = tmp_path / "again.zarr"
    with pytest.raises(InterruptedByTestError):
        import_hdf5(tmp_path / "store.h5", again, interrupt_after(3))
    written = {one: one.stat().st_mtime_ns for one in again.glob("hidden_states/c/0/*/0")}
    assert len(written) >= 3
    import_hdf5(tmp_path / "store.h5", again)
    assert_equal_stores(path, again)
    assert {one: one.stat().st_mtime_ns for one in written} == written
    import_hdf5(tmp_path / "store.h5", again)  # once more: nothing to do


def test_only_an_import_of_the_same_file_is_gone_on_with(make_store, tmp_path):
    other, export = {"seed": 1}, tmp_path / "store.h5"
    export_hdf5(make_store(num_videos=4), export)
    for number, (settings, difference) in enumerate(
        [
            (other, "another content of 'video-00'"),
            ({"num_videos": 3}, "another number of videos"),
            ({"num_features": 8}, "another num_features"),
            ({"provenance": {"model": {"id": "another"}}}, "another provenance"),
            ({"labels": ("normal",)}, "another label"),
        ]
    ):
        made = make_store(**({"num_videos": 4} | settings), name=f"other-{number}")
        if "provenance" not in settings:
            _give_provenance(made, FeatureStore.open(tmp_path / "features.zarr"))
        before = FeatureStore.open(made).layer(3)
        with pytest.raises(StoreError, match=f"no unfinished import of .*: {difference}"):
            import_hdf5(export, made)
        np.testing.assert_array_equal(FeatureStore.open(made).layer(3), before)


def _give_provenance(path, store):
    """`make_store` names the manifest after the store."""
    with StoreWriter(path) as writer:
        writer.record("manifest", store.provenance["manifest"])


def test_an_interrupted_export_leaves_no_file_and_starts_again(make_store, tmp_path):
    path, out = make_store(num_videos=4), tmp_path / "out/store.h5"
    out.parent.mkdir()
    with pytest.raises(InterruptedByTestError):
        export_hdf5(path, out, interrupt_after(2))
    assert not [*out.parent.iterdir()]
    shutil.copy(OLD_FILE, out.with_name("store.h5.partial"))  # what a killed one leaves
    export_hdf5(path, out)
    import_hdf5(out, tmp_path / "again")
    assert_equal_stores(path, tmp_path / "again")


def test_two_exports_to_one_file_do_not_meet(make_store, tmp_path):
    path, out = make_store(num_videos=4), tmp_path / "store.h5"

    def export_too(done, total):
        with pytest.raises(StoreError, match="another process is exporting to this file"):
            export_hdf5(path, out)

    export_hdf5(path, out, export_too)
    import_hdf5(out, tmp_path / "again")
