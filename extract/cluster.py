"""Extraction on a Dask cluster: a task is a video, and each worker loads the model once.

Dask gives a killed worker's video to another one, which goes on after the last committed block.
The workers write to the one store, each with a journal of its own, so they must see it, and the
videos, under the same paths as this process does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from dask.distributed import KilledWorker, as_completed, get_worker

from hiprobe.extract.backbone import Backbone, BackboneDescription
from hiprobe.extract.batch_size import BatchSize
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.extractor import OnProgress, Progress, extract_videos
from hiprobe.extract.parity import recompute
from hiprobe.extract.plan import Job
from hiprobe.store import FAILED, PENDING, BlockWriter, StoreWriter
from hiprobe.store.dask_cluster import connect, local_cluster


class Cluster:
    """A running cluster (``config.scheduler``), or one of ``config.num_workers`` processes here.

    Parameters
    ----------
    config : ExtractConfig

    Raises
    ------
    HiProbeError
        No scheduler answers at the address.
    ModelError
        A worker cannot load the model.
    """

    def __init__(self, config: ExtractConfig) -> None:
        self._config = config
        self._local: Any = None if config.scheduler else local_cluster(config.num_workers)
        address = config.scheduler if self._local is None else self._local.scheduler_address
        self._client = connect(str(address))
        try:
            self.description: BackboneDescription = self._call(_describe, config.backbone)
        except BaseException:
            self.close()  # nobody else can: the caller never gets this object
            raise

    def extract(self, writer: StoreWriter, jobs: Sequence[Job], on_progress: OnProgress) -> None:
        """Extract videos, one a task; see `hiprobe.extract.workplace.Workplace`."""
        topic = f"hiprobe-{uuid4().hex}"
        config = _absolute(self._config)
        self._client.subscribe_topic(
            topic, lambda event: on_progress(Progress(**event[1]["progress"]))
        )
        futures = {
            self._client.submit(_extract_video, config, job, topic, pure=False): job for job in jobs
        }
        try:
            for future in as_completed(futures):
                error, job = future.exception(), futures[future]
                if isinstance(error, KilledWorker):
                    _record_killer(writer, job, on_progress)
                elif error is not None:
                    raise error
                elif (outcome := future.result()) is not None:
                    # As a result and not as an event: events may get lost or come too late.
                    on_progress(outcome)
                future.release()
        finally:
            # A user's own cluster lives on: after Ctrl-C it must not go on with our videos.
            self._client.cancel(list(futures), force=True)
            self._client.unsubscribe_topic(topic)

    def recompute(self, num_segments: int, seed: int) -> dict[str, Any]:
        """Make a parity certificate on a worker."""
        config = _absolute(self._config)
        return self._call(_recompute, config.store, config.backbone, num_segments, seed)

    def close(self) -> None:
        """Leave the cluster; stop it if it is our own."""
        self._client.close()
        if self._local is not None:
            self._local.close()

    def _call(self, function: Any, *arguments: Any) -> Any:
        """Call a function on some worker."""
        # Pure, it would be answered from memory the second time, perhaps of a worker now dead.
        return self._client.submit(function, *arguments, pure=False).result()


def _absolute(config: ExtractConfig) -> ExtractConfig:
    """Name the store so that workers with another working folder find it."""
    return replace(config, store=config.store.absolute())


def _record_killer(writer: StoreWriter, job: Job, on_progress: OnProgress) -> None:
    """A video whose worker died again and again has failed; the others go on."""
    reason = (
        f"{job.record.path}: the process that extracted it was killed several times, perhaps for "
        "want of memory. Extract it with fewer --workers, or leave it out."
    )
    # The workers' journals: one of them may have committed the end just before it was killed.
    writer.refresh()
    if writer.index.status(job.video) == PENDING:
        writer.finish_video(
            job.video, status=FAILED, num_frames=job.num_frames, fps=job.fps, error=reason
        )
        on_progress(Progress(job.record.video_id, outcome=FAILED, reason=reason))


# What follows runs on the workers.


@lru_cache(maxsize=1)
def _backbone(config: BackboneConfig) -> Backbone:
    """Load the model, once a worker process; workers of one machine take turns with its GPUs."""
    # By itself, torch takes all cores in every one of the processes.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // _num_neighbours()))
    return Backbone(config if config.device != "auto" else _with_own_gpu(config))


@lru_cache(maxsize=1)
def _writer(path: Path) -> BlockWriter:
    """Open the store, once a worker process: with it comes a journal of its own."""
    return BlockWriter(path)


def _describe(config: BackboneConfig) -> BackboneDescription:
    return _backbone(config).describe()


def _recompute(path: Path, config: BackboneConfig, num_segments: int, seed: int) -> dict[str, Any]:
    return recompute(path, _backbone(config), num_segments, seed)


def _extract_video(config: ExtractConfig, job: Job, topic: str) -> Progress | None:
    """Extract one video, from its first block that nobody has committed on; say how it ended.

    Steps in between are sent as events, for whoever is still listening.
    """
    writer, backbone = _writer(config.store), _backbone(config.backbone)
    # Dask gives a lost task to somebody else: most of the video, or all, may be on the disk.
    writer.refresh()
    if writer.index.status(job.video) != PENDING:
        return None
    worker, outcomes = get_worker(), []

    def report(progress: Progress) -> None:
        if progress.outcome:
            outcomes.append(progress)
        else:
            worker.log_event(topic, {"progress": asdict(progress)})

    extract_videos(
        writer,
        backbone,
        [replace(job, first_block=writer.index.committed(job.video))],
        segment_frames=config.segment_frames,
        keyframes=config.keyframes,
        batch_size=BatchSize(config.batch_size, backbone.device),
        num_readers=1,  # there is one video
        on_progress=report,
    )
    return outcomes[-1]


def _num_neighbours() -> int:
    """Worker processes of this cluster on this machine."""
    worker = get_worker()
    host = worker.address.rpartition(":")[0]
    addresses = worker.client.scheduler_info(n_workers=-1)["workers"]
    return max(1, sum(address.rpartition(":")[0] == host for address in addresses))


def _with_own_gpu(config: BackboneConfig) -> BackboneConfig:
    """Deal the GPUs that this process sees to the workers of a local cluster, by their names."""
    name, num_gpus = str(get_worker().name), torch.cuda.device_count()
    # Workers that a user started have names of their own, and GPUs that the user gave them.
    if num_gpus < 2 or not name.isdecimal():
        return config
    return replace(config, device=f"cuda:{int(name) % num_gpus}")
