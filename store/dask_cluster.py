"""Dask clusters: one that runs elsewhere, or processes on this machine.

What is to be done goes to the workers by `submit`, and its results come back by `as_they_end` and
`result_of`, which turn what can go wrong with a cluster into one clear message.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from queue import Empty, Queue
from typing import Any

from dask.distributed import Client, Future, KilledWorker, LocalCluster, get_worker
from distributed.security import Security

from hiprobe.store.errors import HiProbeError, listing

TIMEOUT_SECONDS = 20
# Without any worker; long enough for one that Dask starts again after it was killed.
PATIENCE_SECONDS = 30
GOES_ON = "What was finished is kept: the same command goes on there."


@contextmanager
def open_cluster(scheduler: str | None, num_workers: int) -> Iterator[Client]:
    """Connect to a running scheduler; where there is none, start `num_workers` processes here.

    Raises
    ------
    HiProbeError
        No scheduler answers at the address, or its workers have another hiprobe.
    """
    if scheduler is not None:
        with connect(scheduler) as client:
            check_workers(client)
            yield client
    else:
        with local_cluster(num_workers) as running, Client(running) as client:
            yield client


def connect(address: str) -> Client:
    """Connect to a running scheduler.

    Raises
    ------
    HiProbeError
        None answers at the address.
    """
    try:
        return Client(address, timeout=TIMEOUT_SECONDS)
    except (OSError, ValueError) as error:
        raise HiProbeError(
            f"--scheduler {address}: no Dask scheduler answers there: {error}. Start one with "
            "`dask scheduler`, and workers with `dask worker ADDRESS --nthreads 1`."
        ) from error


def local_cluster(num_workers: int) -> Any:
    """Start processes of one thread each, which only this process can talk to; a context manager.

    Notes
    -----
    Whoever can talk to a Dask scheduler can run code as its user, and every user of this machine
    can reach its loopback. So both sides show a certificate that is made for this cluster alone.
    """
    # No limit of Dask's own on a worker's memory: it holds a model, or a layer.
    return LocalCluster(
        n_workers=num_workers,
        threads_per_worker=1,
        memory_limit=0,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        security=Security.temporary(),
        silence_logs=50,
    )


def submit(client: Client, function: Callable[..., Any], *arguments: Any) -> Future:
    """Call a function on some worker that has the hiprobe of this process."""
    # Pure, it would be answered from memory the second time: perhaps of a worker now dead, or
    # about a file that has changed since.
    return client.submit(_call, version("hiprobe"), function, *arguments, pure=False)


def as_they_end(client: Client, futures: Collection[Future]) -> Iterator[Future]:
    """Go through futures in the order in which they end.

    Raises
    ------
    HiProbeError
        The scheduler is gone, or has had no worker for `PATIENCE_SECONDS`.
    """
    address, ended = client.scheduler.address, Queue[Future]()
    for future in futures:
        future.add_done_callback(ended.put)
    for _ in futures:
        future = _wait_for_one(client, address, ended)
        if future.cancelled():
            raise HiProbeError(
                f"the Dask scheduler at {address} is gone. {GOES_ON} "
                "Start the scheduler and its workers again first."
            )
        yield future


def result_of(client: Client, future: Future) -> Any:
    """Result of a future that has ended, or its error.

    Raises
    ------
    HiProbeError
        What the worker raised; or it was killed, or cannot run what this process sent.
    """
    error = future.exception()
    if isinstance(error, KilledWorker):
        raise HiProbeError(
            "a worker process was killed several times while it did the same thing, perhaps for "
            f"want of memory. {GOES_ON} Use fewer --workers, or machines with more memory."
        ) from error
    if error is not None and not isinstance(error, HiProbeError):
        # It may well be another hiprobe that stumbled over what this one sent, or half of one.
        check_workers(client, error.name if isinstance(error, ImportError) else None)
    return future.result()


def wait_for(client: Client, future: Future) -> Any:
    """Result of a single future, as `as_they_end` and `result_of` give it."""
    return next(result_of(client, ended) for ended in as_they_end(client, [future]))


def check_workers(client: Client, module: str | None = None) -> None:
    """Refuse workers that have no hiprobe or another one, or that cannot import a module.

    Raises
    ------
    HiProbeError
        It names them all.
    """
    # By functions of Python's own, which every worker has, whatever else it lacks.
    here, calls = version("hiprobe"), [(version, "hiprobe")]
    calls += [(import_module, module)] if module else []
    problems = {}
    for function, argument in calls:
        for worker, found in client.run(function, argument, on_error="return").items():
            if isinstance(found, ImportError):
                problems.setdefault(worker, f"{found}")
            elif isinstance(found, str) and found != here:
                problems.setdefault(worker, f"has hiprobe {found}, this process {here}")
    if problems:
        raise HiProbeError(
            "these Dask workers cannot take part:\n"
            + listing([f"{worker}: {problem}" for worker, problem in sorted(problems.items())])
            + f"\nInstall hiprobe {here} there, with the extras that this process has, and start "
            f"them again. {GOES_ON}"
        )


def _wait_for_one(client: Client, address: str, ended: Queue[Future]) -> Future:
    """Wait for the next future that ends, as long as there is somebody to work on it."""
    seen = time.monotonic()
    while True:
        try:
            return ended.get(timeout=1)
        except Empty:
            if client.status == "running" and client.scheduler_info()["workers"]:
                seen = time.monotonic()
        if time.monotonic() - seen > PATIENCE_SECONDS:
            raise HiProbeError(
                f"the Dask scheduler at {address} has had no worker for {PATIENCE_SECONDS} "
                f"seconds. {GOES_ON} Start workers with `dask worker {address} --nthreads 1`."
            )


def _call(expected: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run on a worker: call a function; what a user can fix there is said with the worker's name."""
    name = f"worker {get_worker().address} on {socket.gethostname()}"
    # Also one that came when the others had been checked.
    if (found := version("hiprobe")) != expected:
        raise HiProbeError(
            f"{name}: has hiprobe {found}, the process that started this has {expected}. Install "
            f"the same there, and start the worker again. {GOES_ON}"
        )
    try:
        return function(*arguments)
    except HiProbeError as error:
        raise type(error)(f"{name}: {error}") from error
