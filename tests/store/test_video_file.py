"""Which file a video was."""

import os

import pytest

from hiprobe.store import FeatureStore, FileIdentity, PlannedVideo, StoreWriter, VideoRecord
from hiprobe.store.merge import merge
from tests.store.test_store import create, states_of, write_video


def test_another_content_has_another_digest_whatever_its_size_and_time(tmp_path):
    file = tmp_path / "a.mp4"
    file.write_bytes(b"a" * 1000)
    before = FileIdentity.of(file)
    file.write_bytes(b"a" * 999 + b"b")
    os.utime(file, ns=(before.mtime_ns, before.mtime_ns))
    after = FileIdentity.of(file)
    assert (after.size, after.mtime_ns) == (before.size, before.mtime_ns) == (1000, after.mtime_ns)
    assert after.digest != before.digest
    assert len(after.digest) == 32


@pytest.mark.parametrize("where", [0, 4 * 2**20 + 5, -1])
def test_a_large_files_ends_and_samples_count(tmp_path, where):
    file = tmp_path / "a.mp4"
    with file.open("wb") as out:
        out.truncate(100 * 2**20)  # sparse
    before = FileIdentity.of(file).digest
    with file.open("r+b") as out:
        out.seek(where, os.SEEK_END if where < 0 else os.SEEK_SET)
        out.write(b"x")
    assert FileIdentity.of(file).digest != before


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(OSError, match="not a regular file"):
        FileIdentity.of(tmp_path / "pipe.mp4")


def test_a_store_knows_the_files_and_merge_carries_them(tmp_path):
    identity = FileIdentity(5, 7, "0" * 32)
    records = [VideoRecord(name, f"/{name}", "train", "normal") for name in ("known", "unknown")]
    with create(tmp_path / "s") as writer:
        writer.add_videos(
            [
                PlannedVideo(records[0], 21, 25.0, [(0, 21)], identity),
                PlannedVideo(records[1], 21, 25.0, [(0, 21)]),
            ]
        )
        for video in range(2):
            write_video(writer, video, states_of("x", 1))
    with StoreWriter(tmp_path / "s") as writer:
        assert [writer.index.file(video) for video in range(2)] == [identity, None]
    merge(tmp_path / "merged", [tmp_path / "s"])
    store = FeatureStore.open(tmp_path / "merged")
    assert [store.file(name) for name in ("known", "unknown")] == [identity, None]
