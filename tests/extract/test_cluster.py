"""Extraction by several worker processes of a real Dask cluster, some of them killed."""

import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace

import dask
import numpy as np
import pytest
from dask.distributed import Client, LocalCluster

from hiprobe.demo.clips import plan_clips, write_clips
from hiprobe.demo.model import build_random_model
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.pipeline import extract
from hiprobe.store import FeatureStore, HiProbeError, VideoRecord, write_manifest
from hiprobe.store.journal import read_journal
from hiprobe.store.verify import verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    write_clips(plan_clips(10, seed=5), folder / "videos")
    (folder / "videos/test/normal/broken.mp4").write_text("no video")
    records = [
        VideoRecord(path.stem, str(path), "train", "normal")
        for path in sorted((folder / "videos").rglob("*.mp4"))
    ]
    write_manifest(folder / "manifest.csv", records)
    return ExtractConfig(
        manifest=folder / "manifest.csv",
        store=folder / "whole.zarr",
        backbone=BackboneConfig(str(build_random_model(folder / "model")), device="cpu"),
        batch_size=4,
    )


@pytest.fixture(scope="module")
def whole(job):
    extract(job)
    return FeatureStore.open(job.store)


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=3,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as running:
        yield running


def assert_equal(path, whole):
    store = FeatureStore.open(path)
    assert (store.videos["status"] == whole.videos["status"]).all()
    assert verify(path).problems == []
    for video_id in whole.videos.index[whole.videos["status"] == "done"]:
        # Threads of torch are shared out differently, which moves the last bits.
        np.testing.assert_allclose(store.video(video_id), whole.video(video_id), rtol=0, atol=1e-5)


def finished(path):
    entries = [entry for entry in read_journal(path / "journal") if entry["event"] == "video"]
    return Counter(entry["video"] for entry in entries)


def test_workers_of_our_own_share_the_videos(job, whole, tmp_path):
    seen = []
    mine = replace(job, store=tmp_path / "two.zarr", num_workers=2)
    summary = extract(mine, seen.append)
    assert (summary.num_done, len(summary.failures)) == (10, 1)
    assert max(summary.parity["max_relative_difference"].values()) < 1e-4
    assert_equal(mine.store, whole)
    assert set(finished(mine.store).values()) == {1}
    assert 0 < sum(step.num_segments for step in seen) <= summary.num_segments
    assert len([step for step in seen if step.outcome == "done"]) == 10


def test_a_killed_workers_video_goes_to_another_one(job, whole, cluster, tmp_path):
    mine = replace(job, store=tmp_path / "killed.zarr", scheduler=cluster.scheduler_address)
    killed = []

    def kill_one():
        """Kill a worker process as soon as two videos are finished."""
        journal = mine.store / "journal"
        while not journal.exists() or sum(finished(mine.store).values()) < 3:
            time.sleep(0.02)
        with Client(cluster.scheduler_address) as client:
            pids = client.run(os.getpid)
        victim = next(iter(pids.values()))
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary = extract(mine)
    killer.join()
    assert killed
    assert (summary.num_done, len(summary.failures)) == (10, 1)
    assert_equal(mine.store, whole)
    assert set(finished(mine.store).values()) == {1}


KILL = """
import os, signal
from hiprobe.extract.video import SegmentReader

# Dask runs a preload twice.
read = SegmentReader.undisturbed = getattr(SegmentReader, "undisturbed", SegmentReader.__iter__)

def deadly(reader):
    if "killer" in str(reader._path):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(reader)

SegmentReader.__iter__ = deadly
"""


@pytest.fixture
def clips(job, make_video, tmp_path):
    """Twenty-four clips of two or three segments."""
    records = [
        VideoRecord(name, str(make_video(f"{name}.mp4", 48 + number % 3 * 12)), "train", "normal")
        for number, name in enumerate([*(f"clip-{number:02d}" for number in range(23)), "killer"])
    ]
    records.insert(10, records.pop())
    write_manifest(tmp_path / "clips.csv", records)
    return replace(
        job, manifest=tmp_path / "clips.csv", store=tmp_path / "clips.zarr", batch_size=8, parity=0
    )


def test_short_clips_go_in_groups_and_none_is_counted_twice(clips):
    alone = replace(clips, store=clips.store.with_name("alone.zarr"), batch_size=1)
    expected, seen = extract(alone), []
    summary = extract(replace(clips, num_workers=2), seen.append)
    assert (summary.num_done, summary.num_segments) == (24, expected.num_segments)
    assert Counter(step.video_id for step in seen if step.outcome) == dict.fromkeys(
        FeatureStore.open(clips.store).videos.index, 1
    )
    assert summary.run["num_segments"] == summary.num_segments
    assert_equal(clips.store, FeatureStore.open(alone.store))


def test_a_clip_that_kills_its_worker_fails_alone(clips, tmp_path):
    alone = replace(clips, store=clips.store.with_name("alone.zarr"), batch_size=1)
    extract(alone)
    (tmp_path / "preload.py").write_text(KILL)
    seen = []
    settings = {
        "distributed.worker.preload": [str(tmp_path / "preload.py")],
        "distributed.scheduler.allowed-failures": 1,
    }
    with dask.config.set(settings):
        summary = extract(replace(clips, num_workers=2), seen.append)
    assert list(summary.failures) == ["killer"]
    assert "the process that extracted it was ended several times" in summary.failures["killer"]
    assert (summary.num_done, summary.num_pending) == (23, 0)
    assert set(finished(clips.store).values()) == {1}
    assert Counter(step.outcome for step in seen if step.outcome) == {"done": 23, "failed": 1}
    store, expected = FeatureStore.open(clips.store), FeatureStore.open(alone.store)
    for video_id in store.videos.index[store.videos["status"] == "done"]:
        states = store.video(video_id)
        np.testing.assert_allclose(states, expected.video(video_id), rtol=0, atol=1e-5)


def test_an_address_without_a_scheduler_is_one_clear_message(job, tmp_path):
    mine = replace(job, store=tmp_path / "none.zarr", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(HiProbeError, match="no Dask scheduler answers there"):
        extract(mine)
