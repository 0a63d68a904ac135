"""Dask clusters: one that runs elsewhere, or processes on this machine.

What is to be done goes to the workers by `submit`, and its results come back by `as_they_end` and
`result_of`, which turn what can go wrong with a cluster into one clear message.
"""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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


def submit(
    client: Client, function: Callable[..., Any], *arguments: Any, needs: Sequence[Future] = ()
) -> Future:
    """Call a function on some worker that has the hiprobe of this process.

    Parameters
    ----------
    client : Client
    function : callable
    *arguments
        Its first arguments.
    needs : sequence of Future
        Their results are its last arguments.
    """
    # Pure, it would be answered from memory the second time: perhaps of a worker now dead, or
    # about a file that has changed since.
    return client.submit(_sendable(partial(_call, function, *arguments)), *needs, pure=False)


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
    """Refuse workers with another hiprobe, or none, or that cannot import a module.

    Raises
    ------
    HiProbeError
        It names them all.
    """
    # By functions of Python's own, which are there whatever else is not.
    problems = {}
    for name, found in _call_everywhere(client, version, "hiprobe"):
        if isinstance(found, ImportError):
            problems[name] = f"has no hiprobe: {found}"
        elif found != version("hiprobe"):
            problems[name] = f"has hiprobe {found}"
    for name, found in _call_everywhere(client, import_module, module) if module else ():
        if isinstance(found, ImportError):
            problems.setdefault(name, str(found))
    if problems:
        raise HiProbeError(
            "these Dask workers cannot take part:\n"
            + listing([f"{name}: {problem}" for name, problem in problems.items()])
            + f"\nInstall hiprobe {version('hiprobe')} there, with the same extras as here, and "
            f"start them again. {GOES_ON}"
        )


def _call_everywhere(
    client: Client, function: Callable[..., Any], argument: str
) -> Iterator[tuple[str, Any]]:
    """Call a function on all workers, beside what they are doing; their results and errors."""
    for worker, found in sorted(client.run(function, argument, on_error="return").items()):
        # What else may have gone wrong, as a worker that has just died, is nothing to be told here.
        if isinstance(found, ImportError) or not isinstance(found, Exception):
            yield f"worker {worker}", found


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


def _sendable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that it arrives anywhere, also where hiprobe or torch is missing."""
    here, pickled = version("hiprobe"), pickle.dumps(function)

    # Dask sends a local function as code, not by its name. It reads what is sent outside of the
    # task, where an import that fails takes the worker down, and with it whatever it held.
    def call(*arguments: Any) -> Any:
        import importlib.metadata
        import pickle

        if (found := importlib.metadata.version("hiprobe")) != here:
            raise RuntimeError(f"hiprobe {found} cannot do what hiprobe {here} wants")
        return pickle.loads(pickled)(*arguments)

    return call


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on a worker, whose name is added to what the user is told."""
    try:
        return function(*arguments)
    except HiProbeError as error:
        name = f"worker {get_worker().address} on {socket.gethostname()}"
        raise type(error)(f"{name}: {error}") from error
