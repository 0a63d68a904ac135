"""Real schedulers and workers of Dask, a process each, on loopback."""

import os
import subprocess
import sys
from contextlib import contextmanager
from uuid import uuid4

from dask.distributed import Client


@contextmanager
def _process(*command, folder, log, **environment):
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, stdout=file, stderr=file, env=os.environ | environment
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def dask_scheduler(folder, **environment):
    """Yield the process and its address."""
    dask = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0"]
    log = folder / "scheduler.log"
    with _process(*dask, "--no-dashboard", folder=folder, log=log, **environment) as process:
        while "Scheduler at:" not in log.read_text():
            assert process.poll() is None, log.read_text()
        address = log.read_text().split("Scheduler at:")[1].split()[0]
        yield process, address


@contextmanager
def dask_worker(address, folder, *, threads=1, before=(), **environment):
    """Yield the process of a worker that has joined; `before` is a command that starts it."""
    # Never used before: the scheduler may still list a worker that was just killed.
    name = f"worker-{uuid4().hex[:8]}"
    dask = [*before, sys.executable, "-m", "dask", "worker", address, "--host", "127.0.0.1"]
    options = ["--nthreads", str(threads), "--name", name, "--no-nanny", "--no-dashboard"]
    log = folder / f"{name}.log"
    with _process(*dask, *options, folder=folder, log=log, **environment) as process:
        with Client(address) as client:
            while name not in {w["name"] for w in client.scheduler_info()["workers"].values()}:
                assert process.poll() is None, log.read_text()
        yield process
