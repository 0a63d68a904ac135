"""Several prompts in one go, against one pass each."""

from dataclasses import replace

import numpy as np
import pytest

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig
from hiprobe.store.taps import array_name
from tests.extract.test_backbone import FAMILIES, checkpoints, read

__all__ = ["checkpoints"]
TAPS = ("heads", "frames_mean", "frames_last")
PROMPTS = (
    "Is it odd?",
    "Is anything abnormal happening in this video? Answer Yes or No.",
    "Is it?",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_each_prompt_equal_those_of_a_run_of_its_own(checkpoints, make_video, family):
    segments, fps = read(make_video(num_frames=54))
    folder = str(checkpoints[family])
    first, second, third = PROMPTS
    config = BackboneConfig(folder, device="cpu", prompt=first, taps=TAPS)
    backbone = Backbone(replace(config, further_prompts=(("yes-no", second), ("third", third))))
    found = backbone.all_states(backbone.prepare(segments, fps))
    assert {*found} == {"hidden_states", *(tap.name for tap in backbone.taps)}
    for name, prompt in (("", first), ("yes-no", second), ("third", third)):
        alone = Backbone(replace(config, prompt=prompt))
        expected = alone.all_states(alone.prepare(segments, fps))
        for tap in ("hidden_states", "heads"):
            own, want = found.pop(array_name(tap, name)), expected[array_name(tap)]
            np.testing.assert_allclose(own, want, rtol=0, atol=1e-5)
    # What is taken of the video does not depend on the prompt, and is there once.
    assert {*found} == {"taps/frames_mean", "taps/frames_last"}
    for name, states in found.items():
        np.testing.assert_allclose(states, expected[name], rtol=0, atol=1e-5)
