"""A disk that is full, or a place that cannot be written: one message, and old files stay whole."""

import os
import subprocess

import pytest

from tests.cli.test_boundary import good, run, words

__all__ = ["good", "run", "words"]

# What each command writes to `OUT`, a folder on the small disk.
WRITERS = {
    "manifest events EVENTS --lengths LENGTHS --out OUT/m.csv": "m.csv",
    "probe STORE OUT/p.json": "p.json",
    "layers STORE OUT/layers --draws 2": "layers/summary.json",
    "sweep STORE OUT/s.csv --layers 1": "s.csv",
    "sweep STORE OUT/s.parquet --layers 1": "s.parquet",
    "table ablation STORE --out OUT/table": "table/ablation.json",
    "evaluate STORE PROBE OUT/r --resamples 0": "r/metrics.json",
    "evaluate-scores SCORES MANIFEST OUT/r --resamples 0": "r/metrics.json",
    "compare RESULTS RESULTS --resamples 100 --out OUT/c.json": "c.json",
    "report OUT/r": "r/report.html",
    "store export STORE OUT/e.h5": "e.h5",
    "store merge OUT/m.zarr STORE": "m.zarr",
}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB; the mount goes, whatever happens."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk: mounting one needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass


def call(run, words, command, out):
    parts = [part.replace("OUT", str(out)) for part in command.split()]
    return run(*(words.get(part, part) for part in parts))


@pytest.fixture
def places(words, tmp_path):
    (tmp_path / "lengths.csv").write_text("video_id,num_frames,fps\na,100,25\n")
    return words | {"LENGTHS": tmp_path / "lengths.csv"}


def prepare(command, out, places, run):
    """`report` needs results to report on."""
    if command.startswith("report"):
        made = call(run, places, "evaluate-scores SCORES MANIFEST OUT/r --resamples 0", out)
        # The report alone is larger than the disk.
        assert made[0] == 1
        assert "r/report.html: cannot write: No space left" in "".join(made[1].splitlines())


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_is_one_message_and_leaves_no_half_file(command, places, run, small_disk):
    prepare(command, small_disk, places, run)
    fill(small_disk)
    before = {path for path in small_disk.rglob("*") if path.is_file()}
    code, said = call(run, places, command, small_disk)
    assert code == 1, said
    assert "No space left on device" in " ".join(said.split()), said
    assert str(small_disk) in "".join(said.split())
    if not command.startswith("store"):
        assert {path for path in small_disk.rglob("*") if path.is_file()} <= before


@pytest.mark.parametrize(
    "command", [one for one in WRITERS if not one.startswith(("report", "store"))]
)
def test_a_read_only_place_is_one_message(command, places, run, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, said = call(run, places, command, small_disk)
    assert code == 1, said
    assert "Read-only file system" in " ".join(said.split()), said


@pytest.mark.parametrize(
    "command", [one for one in WRITERS if not one.startswith(("report", "store"))]
)
def test_a_folder_where_a_file_should_be_and_a_file_where_a_folder_should_be(
    command, places, run, tmp_path
):
    wanted = tmp_path / "there" / WRITERS[command]
    wanted.mkdir(parents=True)
    (wanted / "somebody's").write_text("keep")
    code, said = call(run, places, command, tmp_path / "there")
    assert code == 1, said
    assert str(wanted) in "".join(said.split()) or wanted.name in said
    assert (wanted / "somebody's").read_text() == "keep"
    (tmp_path / "a-file").write_text("keep")
    code, said = call(run, places, command, tmp_path / "a-file")
    assert code == 1, said
    assert "is a file and no folder" in " ".join(said.split()), said
    assert (tmp_path / "a-file").read_text() == "keep"


def test_an_old_probe_survives_a_full_disk(places, run, small_disk):
    assert call(run, places, "probe STORE OUT/p.json", small_disk)[0] == 0
    old = (small_disk / "p.json").read_bytes()
    fill(small_disk)
    assert call(run, places, "probe STORE OUT/p.json --kappa 1", small_disk)[0] == 1
    assert (small_disk / "p.json").read_bytes() == old
