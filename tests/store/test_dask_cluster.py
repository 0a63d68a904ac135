"""Dask clusters: nobody else gets in, and what goes wrong with them is one message."""

import os
import subprocess
import sys
import time
from importlib.metadata import version

import psutil
import pytest
from dask.distributed import LocalCluster, get_worker

from hiprobe.store import HiProbeError, StoreError, dask_cluster
from hiprobe.store.dask_cluster import as_they_end, open_cluster, result_of, submit, wait_for
from tests.dask_processes import dask_scheduler, dask_worker

pytestmark = pytest.mark.slow

# As nobody, once everything is imported: the interpreter need not be readable to others.
INTRUDER = """
import os, sys, warnings
from dask.distributed import Client
from distributed.security import Security
os.setgid(65534)
os.setuid(65534)
own = Security.temporary() if sys.argv[1].startswith("tls") else None
try:
    with Client(sys.argv[1], security=own, timeout=5) as client:
        print("ran as", client.submit(os.getuid, pure=False).result(timeout=10))
except (OSError, TypeError) as error:
    print("refused", type(error).__name__)
"""


def intrude(address):
    run = subprocess.run(
        [sys.executable, "-c", INTRUDER, address], capture_output=True, text=True, check=False
    )
    return run.stdout.strip()


def listening(process):
    return [s.laddr for s in process.net_connections(kind="inet") if s.status == "LISTEN"]


def test_no_other_user_can_run_code_in_a_local_cluster():
    if os.getuid() != 0:
        pytest.skip("only root can act as another user")
    with open_cluster(None, 1) as client:
        assert wait_for(client, submit(client, os.getuid)) == 0
        me = psutil.Process()
        processes = [me, *me.children(recursive=True)]
        addresses = [one for process in processes for one in listening(process)]
        assert {one.ip for one in addresses} <= {"127.0.0.1", "::1"}
        scheduler = client.scheduler.address
        (worker,) = client.scheduler_info()["workers"]
        for address in (scheduler, worker):
            for protocol in ("tcp", "tls"):
                answer = intrude(f"{protocol}://{address.partition('://')[2]}")
                assert answer.startswith("refused"), answer


@pytest.fixture
def scheduler(tmp_path):
    with dask_scheduler(tmp_path) as (process, address):
        yield process, address


def test_a_scheduler_without_workers_is_said(scheduler, monkeypatch):
    monkeypatch.setattr(dask_cluster, "PATIENCE_SECONDS", 3)
    with (
        open_cluster(scheduler[1], 0) as client,
        pytest.raises(HiProbeError, match=r"has had no worker for 3 seconds.*`dask worker tcp://"),
    ):
        wait_for(client, submit(client, os.getuid))


def test_a_scheduler_that_dies_is_said_and_what_was_finished_is_kept(scheduler, tmp_path):
    process, address = scheduler
    with dask_worker(address, tmp_path), open_cluster(address, 0) as client:
        futures = [submit(client, time.sleep, seconds) for seconds in (0, 60)]
        ended = as_they_end(client, futures)
        assert result_of(client, next(ended)) is None
        process.kill()
        with pytest.raises(HiProbeError, match=r"is gone\. What was finished is kept"):
            next(ended)


def installed(folder, number):
    """Make a folder in which another version of hiprobe seems to be installed."""
    metadata = folder / f"{number}/hiprobe-{number}.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: hiprobe\nVersion: {number}\n")
    return str(folder / number)


def test_a_worker_of_another_version_is_refused(scheduler, tmp_path):
    _, address = scheduler
    older = installed(tmp_path, "0.0.9")
    with open_cluster(address, 0) as client, dask_worker(address, tmp_path, PYTHONPATH=older):
        with pytest.raises(HiProbeError, match=r"worker tcp:.*: has hiprobe 0\.0\.9\nInstall"):
            wait_for(client, submit(client, os.getuid))
        with (
            pytest.raises(
                HiProbeError,
                match=rf"worker tcp:.*: has hiprobe 0\.0\.9\nInstall hiprobe {version('hiprobe')}",
            ),
            open_cluster(address, 0),
        ):
            pass


def test_a_worker_that_lacks_a_library_is_named(scheduler, tmp_path, monkeypatch):
    """One that this process has, as torch may be missing elsewhere."""
    _, address = scheduler
    (tmp_path / "here").mkdir()
    (tmp_path / "here/only_here.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(tmp_path / "here")
    from only_here import answer

    with open_cluster(address, 0) as client, dask_worker(address, tmp_path) as worker:
        with pytest.raises(HiProbeError, match=r"  worker tcp:.*: No module named 'only_here'\n"):
            wait_for(client, submit(client, answer))
        assert worker.poll() is None


def refuse():
    raise StoreError("features.zarr: no space")


def die():
    get_worker().loop.add_callback(os._exit, 1)
    time.sleep(60)


def test_errors_name_the_worker_and_a_killed_one_is_said():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
        ) as running,
        open_cluster(running.scheduler_address, 0) as client,
    ):
        with pytest.raises(StoreError, match=r"^worker tcp://.* on .*: features.zarr: no spa"):
            wait_for(client, submit(client, refuse))
        with pytest.raises(HiProbeError, match="was killed several times"):
            wait_for(client, submit(client, die))
