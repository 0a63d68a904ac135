"""Thumbnails in a store: committed with their block, and carried wherever the states go."""

import numpy as np
import pytest
import zarr

from hiprobe.store import DONE, FeatureStore, PlannedVideo, StoreError, StoreWriter, VideoRecord
from hiprobe.store.hdf5 import export_hdf5, import_hdf5
from hiprobe.store.merge import merge
from hiprobe.store.verify import verify

SIZE, BLOCK = (6, 8), 4
LENGTHS = {"short": 2, "long": 9}


def pictures_of(name, num_segments):
    rng = np.random.default_rng(list(name.encode()))
    return rng.integers(0, 256, (num_segments, *SIZE, 3), dtype=np.uint8)


def plan(name, num_segments):
    ranges = [(24 * i, 24 * i + 24) for i in range(num_segments)]
    record = VideoRecord(name, f"/v/{name}.mp4", "test", "normal")
    return PlannedVideo(record, 24 * num_segments, 25.0, ranges)


def make(path, lengths=LENGTHS, size=SIZE, pictures=pictures_of):
    with StoreWriter.create(
        path, layers=[0, 1], num_features=3, provenance={}, row_block=BLOCK, thumbnail_size=size
    ) as writer:
        writer.add_videos([plan(name, length) for name, length in lengths.items()])
        for video, (name, length) in enumerate(lengths.items()):
            shown = None if size is None else pictures(name, length)
            for block, start in enumerate(range(0, length, BLOCK)):
                own = slice(start, min(start + BLOCK, length))
                states = np.ones((2, own.stop - own.start, 3))
                writer.write_block(video, block, states, None if shown is None else shown[own])
            writer.finish_video(video, status=DONE, num_frames=24 * length, fps=25.0)
    return path


def test_they_read_as_written_everywhere(tmp_path):
    path = make(tmp_path / "s")
    export_hdf5(path, tmp_path / "s.h5")
    import_hdf5(tmp_path / "s.h5", tmp_path / "imported")
    parts = [make(tmp_path / name, {name: LENGTHS[name]}) for name in LENGTHS]
    merge(tmp_path / "merged", parts)
    for name in ("s", "imported", "merged"):
        store = FeatureStore.open(tmp_path / name)
        assert store.thumbnail_size == SIZE
        assert verify(tmp_path / name).problems == []
        for video_id, length in LENGTHS.items():
            np.testing.assert_array_equal(store.thumbnails(video_id), pictures_of(video_id, length))
        some = store.thumbnails("long", [1, 5, 8])
        np.testing.assert_array_equal(some, pictures_of("long", 9)[[1, 5, 8]])


def test_all_black_pictures_are_there_and_missing_ones_are_found(tmp_path):
    path = make(tmp_path / "s", pictures=lambda name, length: np.zeros((length, *SIZE, 3), "uint8"))
    assert not FeatureStore.open(path).thumbnails("long").any()
    assert verify(path).problems == []
    (path / "thumbnail/c/1/0/0/0").unlink()
    damaged = path / "thumbnail/c/2/0/0/0"
    content = bytearray(damaged.read_bytes())
    content[5] ^= 0xFF
    damaged.write_bytes(content)
    missing, broken = verify(path).problems
    assert missing.startswith("long, segments 0 on")
    assert missing.endswith("1/0/0/0 is missing")
    assert "long, segments 4 on: cannot be decoded" in broken
    with pytest.raises(StoreError, match="damaged at rows"):
        FeatureStore.open(path).thumbnails("long")


def test_a_block_is_committed_only_after_its_thumbnails(tmp_path, monkeypatch):
    writer = StoreWriter.create(
        tmp_path / "s", layers=[0], num_features=3, provenance={}, thumbnail_size=SIZE
    )
    writer.add_videos([plan("short", 2)])
    monkeypatch.setattr(writer, "_write_thumbnails", lambda *_: (_ for _ in ()).throw(OSError(28)))
    with pytest.raises(StoreError, match="What was committed is intact"):
        writer.write_block(0, 0, np.ones((1, 2, 3)), pictures_of("short", 2))
    writer.refresh()
    assert writer.index.committed(0) == 0
    assert not (tmp_path / "s/hidden_states/c").exists()


@pytest.mark.parametrize(
    ("size", "shape"), [(SIZE, None), (None, (2, *SIZE, 3)), (SIZE, (1, 6, 8, 3))]
)
def test_thumbnails_that_the_store_does_not_keep_are_refused(tmp_path, size, shape):
    pictures = None if shape is None else np.zeros(shape, np.uint8)
    with StoreWriter.create(
        tmp_path / "s", layers=[0], num_features=3, provenance={}, thumbnail_size=size
    ) as writer:
        writer.add_videos([plan("short", 2)])
        with pytest.raises(ValueError, match="expected thumbnails of shape"):
            writer.write_block(0, 0, np.ones((1, 2, 3)), pictures)


def test_a_store_without_says_so_and_does_not_merge_with_one_that_has(tmp_path):
    without, has = make(tmp_path / "a", {"short": 2}, size=None), make(tmp_path / "b", {"long": 9})
    store = FeatureStore.open(without)
    assert store.thumbnail_size is None
    assert "thumbnail" not in zarr.open_group(without, mode="r")
    with pytest.raises(StoreError, match=r"keeps no thumbnails.*--thumbnails"):
        store.thumbnails("short")
    with pytest.raises(StoreError, match="thumbnail_size is"):
        merge(tmp_path / "merged", [without, has])
