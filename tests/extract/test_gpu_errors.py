"""CUDA's errors, injected: what a run does that cannot use its GPU any more."""

import os
import subprocess
import sys
from dataclasses import replace

import dask
import numpy as np
import pytest

from hiprobe.demo.model import build_random_model
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.pipeline import extract
from hiprobe.store import FeatureStore, VideoRecord, write_manifest
from hiprobe.store.verify import verify

# In each process, a pass fails as an illegal access does, for good; as often as said.
FAIL = """
import os, torch
from pathlib import Path
from hiprobe.extract.backbone import Backbone

# Dask runs a preload twice.
launch = Backbone.undisturbed = getattr(Backbone, "undisturbed", Backbone.launch)
passes = []

def failing(self, inputs):
    passes.append(1)
    marks = len(list(Path({folder!r}).glob("failed-*")))
    if len(passes) >= {at} and (os.getpid() in failed or marks < {times}):
        if not failed:
            (Path({folder!r}) / f"failed-{{marks}}").touch()
        failed.append(os.getpid())
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    return launch(self, inputs)

failed = []
Backbone.launch = failing
"""


@pytest.fixture
def job(tmp_path, make_video):
    records = [
        VideoRecord(name, str(make_video(f"{name}.mp4", 60)), "train", "normal") for name in "abcd"
    ]
    write_manifest(tmp_path / "m.csv", records)
    backbone = BackboneConfig(str(build_random_model(tmp_path / "model")), device="cpu")
    return ExtractConfig(tmp_path / "m.csv", tmp_path / "s.zarr", backbone, parity=0)


def run(job, *, at, times):
    command = ["extract", "m.csv", "s.zarr", "--model", "model", "--device", "cpu", "--parity", "0"]
    command += ["--readers", "1", "--batch-size", "3"]  # a pass a video, one after the other
    code = FAIL.format(folder=str(job.store.parent), at=at, times=times)
    code += f"import sys\nsys.argv[1:] = {command!r}\nfrom hiprobe.cli.main import main\nmain()\n"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=job.store.parent, capture_output=True, text=True,
        check=False, env=os.environ | {"COLUMNS": "250"},
    )  # fmt: skip


def test_on_one_machine_the_process_starts_anew_and_goes_on(job):
    result = run(job, at=2, times=2)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("the GPU failed: CUDA error: an illegal memory access") == 2
    assert "4 videos done, 0 failed" in result.stdout
    assert "Traceback" not in result.stderr
    assert verify(job.store).problems == []


def test_a_gpu_that_fails_at_once_again_ends_the_run_with_a_message(job):
    result = run(job, at=1, times=9)
    assert result.returncode == 1
    assert result.stderr.count("Starting anew") == 1
    assert "error: " in result.stderr
    assert "the same command goes on" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_in_a_cluster_the_worker_starts_anew_and_the_others_go_on(job, tmp_path):
    (tmp_path / "preload.py").write_text(FAIL.format(folder=str(tmp_path), at=2, times=1))
    notes = []
    with dask.config.set({"distributed.worker.preload": [str(tmp_path / "preload.py")]}):
        summary = extract(
            replace(job, num_workers=2, batch_size=3),
            on_note=notes.append,
        )
    assert (summary.num_done, summary.failures) == (4, {})
    assert any("ends, to start anew" in note and "illegal memory" in note for note in notes)
    assert sum(": cpu (" in note for note in notes) >= 2
    assert np.isfinite(FeatureStore.open(job.store).layer(0)).all()
