"""The definition of the first-token hidden state, checked against `generate` for each family."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.video import SegmentReader, inspect_video
from hiprobe.store import ModelError
from tests.extract.tiny_models import BUILDERS

FAMILIES = sorted(BUILDERS)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: build(root / name) for name, build in BUILDERS.items()}


def read(path):
    info = inspect_video(path)
    return list(SegmentReader(path, segment_ranges(info.num_frames, 24), 8)), info.fps


def generated_states(folder, inputs):
    """States of the first generated token as Transformers' own `generate` gives them."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    output = model.generate(
        **inputs,
        max_new_tokens=1,
        do_sample=False,
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    return np.stack([state[:, -1].numpy() for state in output.hidden_states[0]])


@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_generate_on_a_generated_video(checkpoints, make_video, family):
    segments, fps = read(make_video(num_frames=54))
    backbone = Backbone(BackboneConfig(str(checkpoints[family]), device="cpu"))
    inputs = backbone.prepare(segments, fps)
    states = backbone.states(inputs)
    expected = generated_states(checkpoints[family], inputs)
    assert states.shape == expected.shape == (len(backbone.layers), 3, backbone.num_features)
    np.testing.assert_allclose(states, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_generate_on_a_real_video(checkpoints, shared_data, family):
    segments, fps = read(shared_data / "videos/demo/car_accident.mp4")
    backbone = Backbone(BackboneConfig(str(checkpoints[family]), device="cpu"))
    inputs = backbone.prepare(segments[:3], fps)
    expected = generated_states(checkpoints[family], inputs)
    np.testing.assert_allclose(backbone.states(inputs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_one_at_a_time(checkpoints, make_video, family):
    segments, fps = read(make_video(num_frames=90))
    backbone = Backbone(BackboneConfig(str(checkpoints[family]), device="cpu"))
    batch = backbone.states(backbone.prepare(segments, fps))
    single = [backbone.states(backbone.prepare([segment], fps)) for segment in segments]
    np.testing.assert_allclose(batch, np.concatenate(single, axis=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_depend_on_the_video(checkpoints, make_video, family):
    backbone = Backbone(BackboneConfig(str(checkpoints[family]), device="cpu"))
    one, two = (
        backbone.states(backbone.prepare(*read(make_video(num_frames=24, seed=seed))))
        for seed in (0, 1)
    )
    np.testing.assert_array_equal(one[0], two[0])  # the embedding of one and the same token
    assert (np.abs(one[1:] - two[1:]).max(axis=(1, 2)) > 1e-6).all()


def test_some_layers_equal_those_of_all_layers(checkpoints, make_video):
    segments, fps = read(make_video(num_frames=24))
    folder = str(checkpoints["qwen2_5_vl"])
    every = Backbone(BackboneConfig(folder, device="cpu"))
    some = Backbone(BackboneConfig(folder, layers=(0, 3, 8), device="cpu"))
    # Not to the last bit: the highest of them is computed at one position, not at all of them.
    np.testing.assert_allclose(
        some.states(some.prepare(segments, fps)),
        every.states(every.prepare(segments, fps))[[0, 3, 8]],
        rtol=0,
        atol=1e-6,
    )


def test_the_frame_rate_reaches_qwens_time_positions(checkpoints, make_video):
    segments, _ = read(make_video(num_frames=24))
    backbone = Backbone(BackboneConfig(str(checkpoints["qwen2_5_vl"]), device="cpu"))
    seconds = backbone.prepare(segments, 30.0)["second_per_grid_ts"]
    # 8 keyframes of 24 frames at 30 fps are 10 a second; two make one temporal patch.
    np.testing.assert_allclose(seconds, [0.2], rtol=1e-6)


def test_a_missing_model_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match=r"cannot load it as a Transformers model"):
        Backbone(BackboneConfig(str(tmp_path / "nothing")))


def test_an_incomplete_checkpoint_is_refused(checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in checkpoints["internvl"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    removed = next(name for name in weights if "layers.2.self_attn.q_proj.weight" in name)
    save_file(
        {name: value for name, value in weights.items() if name != removed},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ModelError, match="lacks 1 of the model's weights"):
        Backbone(BackboneConfig(str(tmp_path), device="cpu"))


def test_a_layer_beyond_the_last_is_refused(checkpoints):
    with pytest.raises(ModelError, match=r"no layer 11; it has layers 0 \(embedding\) to 10"):
        Backbone(BackboneConfig(str(checkpoints["qwen2_5_vl"]), layers=(1, 11), device="cpu"))
