"""Extraction on a Dask cluster: a task is a few videos, and each worker loads the model once.

Dask gives a killed worker's videos to another one, which goes on after the last committed blocks.
The workers write to the one store, each with a journal of its own, so they must see it, and the
videos, under the same paths as this process does. What they do stands in
`hiprobe.extract.cluster_worker`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

from dask.distributed import KilledWorker

from hiprobe.extract import cluster_worker
from hiprobe.extract.backbone import BackboneDescription
from hiprobe.extract.config import ExtractConfig
from hiprobe.extract.plan import Job, groups
from hiprobe.extract.tally import OnProgress, Progress
from hiprobe.store import FAILED, PENDING, StoreWriter
from hiprobe.store.dask_cluster import as_they_end, open_cluster, result_of, submit, wait_for


class Cluster:
    """A running cluster (``config.scheduler``), or one of ``config.num_workers`` processes here.

    Parameters
    ----------
    config : ExtractConfig
    on_note : callable
        Called with what workers say of themselves: their devices, and why they start anew.

    Raises
    ------
    HiProbeError
        No scheduler answers at the address, or it has no workers, or those of another hiprobe.
    ModelError
        A worker cannot load the model.
    """

    def __init__(
        self, config: ExtractConfig, on_note: Callable[[str], None] = lambda text: None
    ) -> None:
        self._config, self._on_note = _absolute(config), on_note
        self._stack = ExitStack()
        self._client = self._stack.enter_context(open_cluster(config.scheduler, config.num_workers))
        try:
            # Of some worker; the others are compared with the store before their first video.
            self.description: BackboneDescription = self._call(
                cluster_worker.describe, self._config.backbone
            )
        except BaseException:
            self.close()  # nobody else can: the caller never gets this object
            raise

    def extract(self, writer: StoreWriter, jobs: Sequence[Job], on_progress: OnProgress) -> None:
        """Extract videos; see `hiprobe.extract.workplace.Workplace`."""
        run, steps = f"hiprobe-{uuid4().hex}", _Once(on_progress)

        def on_event(event: tuple[float, dict[str, Any]]) -> None:
            if "note" in event[1]:
                self._on_note(event[1]["note"])
            else:
                steps.add(Progress(**event[1]["progress"]))

        self._client.subscribe_topic(run, on_event)
        try:
            with cluster_worker.marked(self._config.store, run):
                num_workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
                suspects = self._extract(run, groups(jobs, num_workers), steps)
                # The workers' journals: they have committed what they could.
                writer.refresh()
                for job in suspects:
                    if (outcome := cluster_worker.committed(writer, job)) is not None:
                        steps.add(outcome)
                    # One after the other: Dask suspects also what waits for the worker that dies.
                    elif self._extract(run, [[job]], steps):
                        _record_killer(writer, job, steps.add)
        finally:
            if self._client.status == "running":
                self._client.unsubscribe_topic(run)

    def _extract(self, run: str, tasks: Sequence[Sequence[Job]], steps: _Once) -> list[Job]:
        """Give groups to workers; return the videos of those whose workers died several times."""
        suspects: list[Job] = []
        futures = {
            submit(self._client, cluster_worker.extract_group, self._config, jobs, run): jobs
            for jobs in tasks
        }
        try:
            for future in as_they_end(self._client, futures):
                if isinstance(future.exception(), KilledWorker):
                    suspects += futures[future]
                else:
                    # Not only as events: these may get lost or come too late.
                    for outcome in result_of(self._client, future):
                        steps.add(outcome)
                future.release()
        finally:
            if self._client.status == "running":
                # A user's own cluster lives on: after Ctrl-C it must not go on with our videos.
                self._client.cancel(list(futures), force=True)
        return suspects

    def recompute(self, num_segments: int, seed: int) -> dict[str, Any]:
        """Make a parity certificate on a worker."""
        config = self._config
        return self._call(
            cluster_worker.recompute_segments, config.store, config.backbone, num_segments, seed
        )

    def close(self) -> None:
        """Leave the cluster; stop it if it is our own."""
        self._stack.close()

    def _call(self, function: Any, *arguments: Any) -> Any:
        """Call a function on some worker."""
        return wait_for(self._client, submit(self._client, function, *arguments))


class _Once:
    """Steps come as events, ends also as results, from two threads: counts nothing twice."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress, self._lock = on_progress, Lock()
        self._ended: set[str] = set()

    def add(self, step: Progress) -> None:
        """Pass on what is new in a step."""
        with self._lock:
            if step.video_id in self._ended:
                # The end has told how many segments there were.
                return
            if step.outcome:
                self._ended.add(step.video_id)
            self._on_progress(step)


def _absolute(config: ExtractConfig) -> ExtractConfig:
    """Name store and model so that workers with another working folder find them."""
    backbone = config.backbone
    if config.scheduler is not None and Path(backbone.model).is_dir():
        backbone = replace(backbone, model=str(Path(backbone.model).absolute()))
    return replace(config, store=config.store.absolute(), backbone=backbone)


def _record_killer(writer: StoreWriter, job: Job, on_progress: OnProgress) -> None:
    """A video whose worker died again and again has failed; the others go on."""
    reason = (
        f"{job.record.path}: the process that extracted it was ended several times, perhaps for "
        "want of memory or by an error of its GPU. Extract it with fewer --workers, or leave it "
        "out."
    )
    # The workers' journals: one of them may have committed the end just before it was killed.
    writer.refresh()
    if writer.index.status(job.video) == PENDING:
        writer.finish_video(
            job.video, status=FAILED, num_frames=job.num_frames, fps=job.fps, error=reason
        )
        on_progress(Progress(job.record.video_id, outcome=FAILED, reason=reason))
