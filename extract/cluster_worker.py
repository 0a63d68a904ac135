"""What the workers of a Dask cluster do; a model each, and a few videos at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from dask.distributed import get_worker

from hiprobe.extract.backbone import Backbone, BackboneDescription
from hiprobe.extract.batch_size import BatchSize
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.devices import GpuError, claim_device, describe_device, gpu_errors
from hiprobe.extract.extractor import extract_videos
from hiprobe.extract.parity import recompute
from hiprobe.extract.plan import Job, is_left, job_of
from hiprobe.extract.recipe import compare_with_model
from hiprobe.extract.tally import Progress
from hiprobe.store import BlockWriter, ModelError, StoreError
from hiprobe.store.provenance import Provenance, Purpose
from hiprobe.store.schema import JOURNAL

# A worker that was started with several threads has still one model, which keeps the states of a
# pass until they are taken: two passes at a time would mix them.
_ONE_AT_A_TIME = threading.Lock()
SECONDS_FOR_LAST_WORDS = 1.0
# The loaded model, by what it was loaded from.
_loaded: dict[Any, Backbone] = {}


def describe(config: BackboneConfig) -> BackboneDescription:
    """Load the model and describe it."""
    with _ONE_AT_A_TIME:
        return _backbone(config).describe()


def recompute_segments(
    path: Path, config: BackboneConfig, num_segments: int, seed: int
) -> dict[str, Any]:
    """Make a parity certificate."""
    with _ONE_AT_A_TIME, gpu_errors("parity"):
        return recompute(path, _backbone(config), num_segments, seed)


def extract_group(config: ExtractConfig, jobs: Sequence[Job], run: str) -> list[Progress]:
    """Extract videos, each from its first block that nobody has committed on.

    Parameters
    ----------
    config : ExtractConfig
    jobs : sequence of Job
    run : str
        Name of the run that they belong to: the topic of its events, and its mark on the store.

    Returns
    -------
    list of Progress
        How each video has ended, here or with a worker that had them before. Steps in between and
        ends are sent as events too, for whoever is still listening.

    Raises
    ------
    ModelError
        The model that this worker has, or how it runs it, is not the store's.
    StoreError
        This worker does not see the store.
    """
    with _ONE_AT_A_TIME:
        _check_mark(config.store, run)
        writer, backbone = _writer(config.store, run), _backbone(config.backbone)
        # Dask gives a lost task to somebody else: most of its videos may be on the disk.
        writer.refresh()
        ends = [committed(writer, job) for job in jobs]
        outcomes = [end for end in ends if end is not None]
        left = [
            job_of(writer, job.video, job.record)
            for job, end in zip(jobs, ends, strict=True)
            if end is None
        ]
        if not left:
            return outcomes
        _check_alike(writer, backbone)
        _introduce(run, str(backbone.device))
        try:
            return outcomes + _extract(writer, backbone, config, left, run)
        except GpuError as error:
            _start_anew(run, str(error))
            raise


def committed(writer: BlockWriter, job: Job) -> Progress | None:
    """Say how a video has ended, if it has."""
    if is_left(writer, job.video):
        return None
    status = writer.index.status(job.video)
    reason = writer.index.error(job.video)
    return Progress(job.record.video_id, outcome=status, reason=reason)


@contextmanager
def marked(path: Path, run: str) -> Iterator[None]:
    """Mark a store as what a run writes to, so that workers can tell it from another folder."""
    mark = _mark(path, run)
    mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def _mark(path: Path, run: str) -> Path:
    # Of a killed run, it is swept like every other file that is not finished.
    return path / JOURNAL / f"{run}.partial"


def _check_mark(path: Path, run: str) -> None:
    if not _mark(path, run).exists():
        raise StoreError(
            f"{path}: is not the folder that this run writes to: it is missing here, or a copy. "
            "Every worker must see the store, and the videos, under the same paths as the process "
            "that started this. Mount them, and the same command goes on where it was."
        )


def _extract(
    writer: BlockWriter,
    backbone: Backbone,
    config: ExtractConfig,
    jobs: Sequence[Job],
    run: str,
) -> list[Progress]:
    worker, outcomes = get_worker(), []

    def report(progress: Progress) -> None:
        # Of a run that was stopped: the next one may have given the videos to somebody else.
        _check_mark(config.store, run)
        if progress.outcome:
            outcomes.append(progress)
        worker.log_event(run, {"progress": asdict(progress)})

    extract_videos(
        writer,
        backbone,
        jobs,
        segment_frames=config.segment_frames,
        keyframes=config.keyframes,
        window=config.window,
        batch_size=_batch_size(run, config.batch_size, str(backbone.device)),
        num_readers=config.num_readers,
        on_progress=report,
    )
    return outcomes


@lru_cache(maxsize=1)
def _batch_size(run: str, size: int | None, device: str) -> BatchSize:
    """Keep, once a run, what its groups of videos have taught."""
    return BatchSize(size, torch.device(device))


@lru_cache(maxsize=1)
def _writer(path: Path, run: str) -> BlockWriter:
    """Open the store, once a run: it has planned its videos. With it comes a journal of its own."""
    return BlockWriter(path)


def _backbone(config: BackboneConfig) -> Backbone:
    """Load the model, once a worker process; workers of one machine take turns with its GPUs."""
    # A worker may live for weeks: somebody may have put another model there.
    key = (config, _files(Path(config.model)))
    if key not in _loaded:
        _loaded.clear()  # first, as two models may not fit
        # By itself, torch takes all cores in every one of the processes.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // _num_neighbours()))
        device = claim_device(config.device, share=config.share_gpu)
        _loaded[key] = Backbone(replace(config, device=str(device)))
    return _loaded[key]


@lru_cache(maxsize=1)
def _introduce(run: str, device: str) -> None:
    """Say, once a run, on which device this worker has its model."""
    worker, described = get_worker(), describe_device(torch.device(device))
    worker.log_event(run, {"note": f"worker {worker.address}: {described}"})


def _start_anew(run: str, reason: str) -> None:
    """End this process, which can use its GPU no more: a nanny starts another.

    Dask gives the video to whoever is there, and after several such ends to nobody.
    """
    worker = get_worker()
    worker.log_event(run, {"note": f"worker {worker.address} ends, to start anew: {reason}"})
    time.sleep(SECONDS_FOR_LAST_WORDS)  # the worker's own thread sends them
    os._exit(1)


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a model's files; none of a hub's, whose revisions never change."""
    files = [(str(file), file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    return tuple((name, found.st_size, found.st_mtime_ns) for name, found in files)


def _check_alike(writer: BlockWriter, backbone: Backbone) -> None:
    """Refuse to fill a store with other numbers than its other videos'."""
    origin = Provenance.of(writer.provenance, backbone.num_features)
    if differences := compare_with_model(origin, backbone, Purpose.FILL).refused:
        raise ModelError(
            "would not give the numbers of the store's other videos:\n"
            + "\n".join(
                f"  {one.name}: store {one.first!r}, this worker {one.second!r}"
                for one in differences
            )
            + "\nGive it the same model and libraries, and start it again; what other workers "
            "have finished is kept."
        )


def _num_neighbours() -> int:
    """Worker processes of this cluster on this machine."""
    worker = get_worker()
    host = worker.address.rpartition(":")[0]
    addresses = worker.client.scheduler_info(n_workers=-1)["workers"]
    return max(1, sum(address.rpartition(":")[0] == host for address in addresses))
