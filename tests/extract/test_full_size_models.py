"""`make gpu-check` cannot run here; that its shapes are the published ones and it refuses, can.

The counts of parameters are the published checkpoints' (docs/backbones.md has them as gigabytes).
"""

import subprocess
import sys

import pytest
import torch

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
