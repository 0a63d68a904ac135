"""Exports and imports that are killed, or run into a full disk: the same command goes on."""

import subprocess
import sys

import numpy as np
import pytest

from hiprobe.store import DONE, FeatureStore, PlannedVideo, StoreWriter, VideoRecord
from hiprobe.store.hdf5 import export_hdf5, import_hdf5
from tests.store.test_hdf5 import assert_equal_stores

# Each trial is a fork of one process that has imported everything and used nothing yet. The clock
# starts when the first layer or video begins.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import hiprobe.store.verify
from hiprobe.store.hdf5 import export_hdf5, import_hdf5

command, source, out, num_kills = *sys.argv[1:4], int(sys.argv[4])
run = {"export": export_hdf5, "import": import_hdf5}[command]
random.seed(0)

def start(out):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        run(Path(source), Path(out), lambda done, total: os.write(write, b"x"))
        os._exit(0)
    os.close(write)
    os.read(read, 1)
    return child, read

child, read = start(out + ".whole")
before = time.perf_counter()
assert os.waitpid(child, 0)[1] == 0
seconds = time.perf_counter() - before
killed = 0
for trial in range(num_kills):
    # What was killed twice in a row goes on as well.
    for longest in (seconds, seconds / 2, None):
        if Path(f"{out}.{trial}").is_file():
            break  # an export that was faster
        child, read = start(f"{out}.{trial}")
        if longest is not None:
            time.sleep(random.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert longest is not None or status == 0
        killed += status == signal.SIGKILL
print(killed)
"""
LIMITED = """
import resource, sys
from pathlib import Path
from hiprobe.store import StoreError
from hiprobe.store.hdf5 import export_hdf5, import_hdf5
run = {"export": export_hdf5, "import": import_hdf5}[sys.argv[1]]
# Python ignores SIGXFSZ: a write beyond the limit fails as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
try:
    run(Path(sys.argv[2]), Path(sys.argv[3]))
except StoreError as error:
    print(error)
    sys.exit(1)
"""
NUM_KILLS = 8


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def stored(make_store):
    return make_store(num_videos=10, num_layers=9, num_features=256)


@pytest.mark.slow
def test_killed_exports_and_imports_go_on_to_what_was_exported(stored, tmp_path):
    exports = run(KILLED, "export", stored, tmp_path / "s.h5", NUM_KILLS)
    assert exports.stderr == ""
    assert int(exports.stdout) > NUM_KILLS / 2
    files = [tmp_path / f"s.h5.{trial}" for trial in range(NUM_KILLS)]
    assert len({file.read_bytes() for file in files}) == 1
    imports = run(KILLED, "import", files[0], tmp_path / "again", NUM_KILLS)
    assert imports.stderr == ""
    assert int(imports.stdout) > NUM_KILLS / 2
    for trial in range(NUM_KILLS):
        assert_equal_stores(stored, tmp_path / f"again.{trial}")


@pytest.mark.parametrize("limit", [1_000, 40_000, 700_000])
def test_an_export_that_fills_the_disk_says_so_and_leaves_nothing(stored, tmp_path, limit):
    out = tmp_path / "out/s.h5"
    out.parent.mkdir()
    full = run(LIMITED, "export", stored, out, limit)
    assert (full.returncode, full.stderr) == (1, "")
    assert full.stdout.startswith(f"{out}: cannot write: File too large")
    assert not [*out.parent.iterdir()]


def test_an_import_that_fills_the_disk_goes_on(make_store, tmp_path):
    """The last video's blocks are too large for the limit."""

    path = tmp_path / "s"
    rng = np.random.default_rng(0)
    with StoreWriter.create(
        path, layers=range(8), num_features=256, provenance={}, row_block=16
    ) as writer:
        for video, count in enumerate((1, 1, 16)):
            record = VideoRecord(f"v{video}", f"/v{video}", "test", "normal")
            ranges = [(24 * i, 24 * i + 24) for i in range(count)]
            writer.add_videos([PlannedVideo(record, 24 * count, 25.0, ranges)])
            writer.write_block(video, 0, rng.normal(size=(8, count, 256)))
            writer.finish_video(video, status=DONE, num_frames=24 * count, fps=25.0)
    export_hdf5(path, tmp_path / "s.h5")
    full = run(LIMITED, "import", tmp_path / "s.h5", tmp_path / "again", 60_000)
    assert (full.returncode, full.stderr) == (1, "")
    assert "cannot write: File too large" in full.stdout
    statuses = [*FeatureStore.open(tmp_path / "again").videos["status"]]
    assert statuses == ["done", "done", "pending"]
    import_hdf5(tmp_path / "s.h5", tmp_path / "again")
    assert_equal_stores(path, tmp_path / "again")
