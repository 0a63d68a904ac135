"""Workers of a Dask cluster that are not alike, or do not see what they need."""

import os
import shutil
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from dask.distributed import LocalCluster

from hiprobe.demo.clips import plan_clips, write_clips
from hiprobe.demo.model import build_random_model
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.pipeline import extract
from hiprobe.store import FeatureStore, HiProbeError, ModelError, StoreError, VideoRecord
from hiprobe.store.manifest import write_manifest
from hiprobe.store.verify import verify
from tests.dask_processes import dask_scheduler, dask_worker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A manifest of six videos, and two models of one shape."""
    folder = tmp_path_factory.mktemp("workers")
    write_clips(plan_clips(6, seed=5), folder / "videos")
    records = [
        VideoRecord(path.stem, str(path), "train", "normal")
        for path in sorted((folder / "videos").rglob("*.mp4"))
    ]
    write_manifest(folder / "manifest.csv", records)
    write_manifest(folder / "few.csv", records[:2])
    build_random_model(folder / "a/model", seed=0)
    build_random_model(folder / "b/model", seed=1)
    (folder / "without").mkdir()
    return folder


def job(base, store, **options):
    defaults = {
        "manifest": base / "manifest.csv",
        # Relative, and not in this process's folder: each worker has its own.
        "backbone": BackboneConfig("model", device="cpu"),
        "batch_size": 4,
        "parity": 0,
    }
    return ExtractConfig(store=store, **(defaults | options))


@pytest.fixture(scope="module")
def whole(base):
    config = job(base, base / "a.zarr", backbone=BackboneConfig(str(base / "a/model")))
    extract(config)
    return FeatureStore.open(config.store)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with dask_scheduler(tmp_path_factory.mktemp("scheduler")) as (_, address):
        yield address


def assert_equal(path, whole):
    """Whatever is done is right."""
    store, problems = FeatureStore.open(path), verify(path).problems
    assert problems == []
    done = store.videos.index[store.videos["status"] == "done"]
    for video_id in done:
        np.testing.assert_allclose(store.video(video_id), whole.video(video_id), rtol=0, atol=1e-5)
    return len(done)


def test_a_worker_with_another_model_fills_no_video(base, whole, address, tmp_path):
    """One that comes when the other has described itself, and the store is made."""
    mine = job(base, tmp_path / "mixed.zarr", scheduler=address)
    with dask_worker(address, base / "a"):
        with ExitStack() as later:
            with pytest.raises(
                ModelError, match=r"^worker tcp://.*\n  model.weights_digest: store 'sha256:.*'"
            ):
                extract(
                    mine,
                    on_plan=lambda *_: later.enter_context(dask_worker(address, base / "b")),
                )
            assert_equal(mine.store, whole)
        extract(mine)
    assert assert_equal(mine.store, whole) == 6


def test_a_worker_without_the_model_is_named(base, address, tmp_path):
    with (
        dask_worker(address, base / "without", HF_HUB_OFFLINE="1"),
        pytest.raises(ModelError, match=r"^worker tcp://.* on .*: model: cannot load it"),
    ):
        extract(job(base, tmp_path / "none.zarr", scheduler=address))


def test_a_worker_without_torch_is_named(base, address, tmp_path):
    """The CPU-only install has hiprobe, and no torch."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    with (
        dask_worker(address, base / "a", PYTHONPATH=str(tmp_path)),
        pytest.raises(HiProbeError, match=r"worker tcp://.*: No module named 'torch'\nInstall"),
    ):
        extract(job(base, tmp_path / "none.zarr", scheduler=address))


def test_a_worker_that_does_not_see_the_store_is_named(base, whole, address, tmp_path):
    """With a mount of its own: it sees an empty folder where the others see the store."""
    mine = job(base, tmp_path / "shared/here.zarr", scheduler=address)
    mine.store.parent.mkdir()
    hidden = f'mount -t tmpfs none {mine.store.parent} && exec "$@"'
    if os.system(f"unshare -m sh -c 'mount -t tmpfs none {tmp_path}' 2>/dev/null"):
        pytest.skip("only root can mount")
    with (
        dask_worker(address, base / "a", before=("unshare", "-m", "sh", "-c", hidden, "sh")),
        pytest.raises(StoreError, match=r"worker tcp://.*here.zarr: is not the folder that this"),
    ):
        extract(mine)
    assert not list((mine.store / "journal").glob("*.partial"))
    with dask_worker(address, base / "a"):
        extract(mine)
    assert assert_equal(mine.store, whole) == 6


def test_a_scheduler_that_dies_leaves_what_was_done(base, whole, tmp_path):
    mine = job(base, tmp_path / "died.zarr")
    with dask_scheduler(tmp_path) as (scheduler, address), dask_worker(address, base / "a"):

        def kill(step):
            if step.outcome:
                scheduler.kill()

        with pytest.raises(HiProbeError, match=r"is gone\. What was finished is kept: the same "):
            extract(replace(mine, scheduler=address), kill)
    assert 1 <= assert_equal(mine.store, whole) < 6
    extract(replace(mine, backbone=BackboneConfig(str(base / "a/model"), device="cpu")))
    assert assert_equal(mine.store, whole) == 6


def test_a_living_cluster_extends_a_store_and_notices_another_model(base, whole, address, tmp_path):
    model = shutil.copytree(base / "a/model", tmp_path / "model")
    backbone = BackboneConfig(str(model), device="cpu")
    mine = job(base, tmp_path / "s.zarr", scheduler=address, backbone=backbone)
    with dask_worker(address, tmp_path):
        extract(replace(mine, manifest=base / "few.csv"))
        extract(mine)
        assert assert_equal(mine.store, whole) == 6
        # A store that was deleted and made anew, under the same path.
        shutil.rmtree(mine.store)
        extract(replace(mine, manifest=base / "few.csv"))
        assert assert_equal(mine.store, whole) == 2
        shutil.copytree(base / "b/model", model, dirs_exist_ok=True)
        with pytest.raises(StoreError, match=r"\n  model.weights_digest: store"):
            extract(mine)
        other = replace(mine, store=tmp_path / "other.zarr", manifest=base / "few.csv")
        extract(other)
    stores = [FeatureStore.open(path) for path in (mine.store, other.store)]
    video_id = stores[0].videos.index[0]
    assert not np.allclose(stores[0].video(video_id), stores[1].video(video_id))


def test_a_worker_of_several_threads_mixes_no_states(base, whole, tmp_path):
    with LocalCluster(
        n_workers=1, threads_per_worker=4, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as cluster:
        mine = job(
            base,
            tmp_path / "threads.zarr",
            scheduler=cluster.scheduler_address,
            backbone=BackboneConfig(str(base / "a/model"), device="cpu"),
        )
        extract(mine)
    assert assert_equal(mine.store, whole) == 6
