"""`make gpu-check` cannot run here; that its shapes are the published ones and it refuses, can.

The counts of parameters are the published checkpoints' (docs/backbones.md has them as gigabytes).
"""

import json
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.full_size_models import SHAPES
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.check_inputs import take_samples
from hiprobe.extract.config import BackboneConfig
from tests.conftest import REPOSITORY

BILLIONS = {
    "Holmes-VAU-2B": 2.206,
    "Qwen2.5-VL-7B": 8.292,
    "InternVL2.5-8B": 8.075,
    "LLaVA-OneVision-7B": 8.030,
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_shape_has_as_many_parameters_as_the_published_model(shape):
    model = shape.build(torch.device("meta"), torch.bfloat16)
    assert round(model.num_parameters() / 1e9, 3) == BILLIONS[shape.name]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_tiny_one_of_the_same_class_gives_states(shape, tmp_path):
    shape.save(tmp_path, torch.device("cpu"), torch.float32, tiny=True)
    backbone = Backbone(BackboneConfig(str(tmp_path), device="cpu"))
    (sample,) = take_samples((), 24, 2, 1)
    inputs = backbone.prepare(sample.segments, sample.info.fps)
    assert backbone.states(inputs).shape == (3, 1, 64)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: it would begin")
def test_without_a_gpu_it_refuses_in_one_line():
    command = [sys.executable, "-m", "benchmarks.gpu_check"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("gpu-check: torch sees no CUDA GPU here")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_the_rehearsal_goes_through_all_steps(tmp_path):
    """Of one shape: all of them take two minutes."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--rehearse"]
    command += ["--only", SHAPES[0].name, "--folder", str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert (
        "a rehearsal, which says nothing of speed: 5 ok, 0 failed, 0 not reached" in result.stdout
    )
    written = json.loads((REPOSITORY / "benchmarks/out/gpu_check_rehearsal.json").read_text())
    steps = {one["step"]: one["found"] for one in written["steps"]}
    assert list(steps) == ["check", "killed", "out of memory", "two workers", "bench"]
    assert len(steps["check"]["report"]["agreement"]) == 3
    assert steps["bench"]["usual_loop_over_ours"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_step_that_fails_or_hangs_hides_no_other(tmp_path, monkeypatch):
    cpu, forever = torch.device("cpu"), time.monotonic() + 600
    no_model = gpu_check.run_step("out of memory", SHAPES[0].name, tmp_path, cpu, forever)
    assert no_model.status == "failed"
    assert "ModelError" in no_model.text
    monkeypatch.setitem(gpu_check.SECONDS, "check", 1.0)
    monkeypatch.setattr(gpu_check, "LEAST_SECONDS", 0.5)
    hangs = gpu_check.run_step("check", SHAPES[0].name, tmp_path, cpu, forever)
    assert hangs.status == "failed"
    assert hangs.text.startswith("not done after 1 s")
    late = gpu_check.run_step("bench", SHAPES[0].name, tmp_path, cpu, time.monotonic())
    assert (late.status, late.seconds) == ("not reached", 0.0)
    said = gpu_check.summary([no_model, hangs, late], cpu)
    assert "0 ok, 2 failed, 1 not reached" in said
