"""Compiled blocks, of what sees and of what reads, give the same states."""

import numpy as np
import pytest

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.compiled import vision_blocks
from hiprobe.extract.config import BackboneConfig
from tests.extract.test_backbone import FAMILIES, checkpoints, generated_states, read

__all__ = ["checkpoints"]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_blocks_give_generates_states(checkpoints, make_video, family):
    segments, fps = read(make_video(num_frames=54))
    folder = checkpoints[family]
    backbone = Backbone(BackboneConfig(str(folder), layers=(1, 2), compile=True, device="cpu"))
    vision = backbone._model.config.vision_config
    depth = getattr(vision, "depth", None) or vision.num_hidden_layers
    blocks = vision_blocks(backbone._model)
    assert len(blocks) == depth
    assert all(hasattr(block.forward, "_torchdynamo_orig_callable") for block in blocks)
    inputs = backbone.prepare(segments, fps)
    expected = generated_states(folder, inputs)[[1, 2]]
    np.testing.assert_allclose(backbone.states(inputs), expected, rtol=0, atol=1e-5)
