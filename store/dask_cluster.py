"""Dask clusters: one that runs elsewhere, or processes on this machine."""

from __future__ import annotations

from typing import Any

from dask.distributed import Client, LocalCluster

from hiprobe.store.errors import HiProbeError

TIMEOUT_SECONDS = 20


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
    """Start processes of one thread each; a context manager."""
    # No limit of Dask's own on a worker's memory: it holds a model, or a layer.
    return LocalCluster(
        n_workers=num_workers,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    )
