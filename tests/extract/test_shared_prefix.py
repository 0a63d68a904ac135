"""Several prompts in one go, against one pass each."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig
from hiprobe.store.taps import array_name
from tests.extract.test_backbone import FAMILIES, checkpoints, read
from tests.extract.test_internvl_chat import VARIANTS, build, random_segment

__all__ = ["checkpoints"]
TAPS = ("heads", "frames_mean", "frames_last")
PROMPTS = (
    "Is it odd?",
    "Is anything abnormal happening in this video? Answer Yes or No.",
    "Is it?",
)


@pytest.fixture(scope="module")
def sharp(checkpoints, tmp_path_factory):
    """The same with attention that looks at few tokens, so that a wrong position is seen."""

    def make(family):
        folder = tmp_path_factory.mktemp("sharp") / family
        shutil.copytree(checkpoints[family], folder)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            for name, weight in model.model.language_model.named_parameters():
                if "q_proj.weight" in name or "k_proj.weight" in name:
                    weight.mul_(4)
        model.save_pretrained(folder)
        return folder

    return {family: make(family) for family in FAMILIES}


def assert_equal_to_runs_of_their_own(config, segments, fps):
    first, second, third = PROMPTS
    backbone = Backbone(
        replace(config, prompt=first, further_prompts=(("yes-no", second), ("third", third)))
    )
    found = backbone.all_states(backbone.prepare(segments, fps))
    assert {*found} == {"hidden_states", *(tap.name for tap in backbone.taps)}
    for name, prompt in (("", first), ("yes-no", second), ("third", third)):
        alone = Backbone(replace(config, prompt=prompt))
        expected = alone.all_states(alone.prepare(segments, fps))
        for tap in ("hidden_states", "heads"):
            own, want = found.pop(array_name(tap, name)), expected[array_name(tap)]
            np.testing.assert_allclose(own, want, rtol=0, atol=1e-5 * np.abs(want).max())
    # What is taken of the video does not depend on the prompt, and is there once.
    assert {*found} == {"taps/frames_mean", "taps/frames_last"}
    for name, states in found.items():
        np.testing.assert_allclose(states, expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_each_prompt_equal_those_of_a_run_of_its_own(sharp, make_video, family):
    # So few frames a second that Qwen2.5-VL counts further in time than in space.
    config = BackboneConfig(str(sharp[family]), device="cpu", taps=TAPS)
    assert_equal_to_runs_of_their_own(config, *read(make_video(num_frames=54, fps=5)))


@pytest.mark.parametrize("name", ["internlm2", "qwen2"])
def test_so_do_those_of_the_original_internvl_layout(tmp_path, name):
    decoder, form, options = VARIANTS[name]
    build(tmp_path, decoder, form, **options)
    config = BackboneConfig(str(tmp_path), device="cpu", taps=TAPS)
    assert_equal_to_runs_of_their_own(config, [random_segment(0), random_segment(1)], 25.0)


def test_so_do_those_of_a_trained_model_on_a_real_video(shared_data):
    segments, fps = read(shared_data / "videos/demo/car_accident.mp4")
    config = BackboneConfig(str(TRAINED_MODEL), device="cpu", taps=TAPS)
    assert_equal_to_runs_of_their_own(config, segments, fps)
