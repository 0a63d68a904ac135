"""Several prompts in one go, against one pass each."""

import numpy as np
import pytest
import torch

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.chat_template import chat_text
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.shared_prefix import common_length, run_prompts
from tests.extract.test_backbone import FAMILIES, checkpoints, read

__all__ = ["checkpoints"]
PROMPTS = (
    "Is it odd?",
    "Is anything abnormal happening in this video? Answer Yes or No.",
    "Is it?",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_each_prompt_equal_those_of_a_run_of_its_own(checkpoints, make_video, family):
    segments, fps = read(make_video(num_frames=54))
    folder = str(checkpoints[family])
    backbone = Backbone(BackboneConfig(folder, device="cpu", prompt=PROMPTS[0]))
    tokens = [
        backbone.tokenizer(chat_text(backbone._processor, one))["input_ids"] for one in PROMPTS
    ]
    length = common_length(tokens)
    found = []
    with torch.inference_mode():
        run_prompts(
            backbone._model,
            backbone.prepare(segments, fps),
            [one[length:] for one in tokens],
            lambda: None,
            lambda number: found.append(backbone._tap.take().numpy()),
        )
    for states, prompt in zip(found, PROMPTS, strict=True):
        alone = Backbone(BackboneConfig(folder, device="cpu", prompt=prompt))
        expected = alone.states(alone.prepare(segments, fps))
        np.testing.assert_allclose(states, expected, rtol=0, atol=1e-5)
