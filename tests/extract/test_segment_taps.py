"""Heads and visual tokens, against Transformers' own outputs and independent hooks."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen3NextConfig, Qwen3NextModel

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.internvl_chat import load_internvl_chat
from hiprobe.extract.pipeline import extract
from hiprobe.extract.segment_taps import SegmentTaps
from hiprobe.store import ModelError, VideoRecord, write_manifest
from tests.extract.test_backbone import FAMILIES, checkpoints, read
from tests.extract.test_internvl_chat import VARIANTS, build, random_segment

__all__ = ["checkpoints"]

TAPS = ("heads", "frames_mean", "frames_last")


def expected_taps(model, inputs, layers):
    """The same from the whole model's own `output_hidden_states` and plain hooks."""
    heads = {}
    blocks = model.model.language_model.layers
    for index, block in enumerate(blocks, start=1):
        block.self_attn.o_proj.register_forward_pre_hook(
            lambda _, args, index=index: heads.update({index: args[0].clone()})
        )
    with torch.inference_mode():
        output = model(**inputs, output_hidden_states=True, use_cache=False)
    config = model.config
    ids = [getattr(config, name, None) for name in ("video_token_id", "image_token_id")]
    found = {"heads": [], "frames_mean": [], "frames_last": []}
    for layer in layers:
        if layer:
            found["heads"].append(heads[layer][:, -1].numpy())
        mean, last = [], []
        for tokens, states in zip(
            inputs["input_ids"].tolist(), output.hidden_states[layer], strict=True
        ):
            visual = [place for place, token in enumerate(tokens) if token in ids]
            assert len(visual) > 3
            mean.append(states[visual].mean(dim=0).numpy())
            last.append(states[visual[-1]].numpy())
        found["frames_mean"].append(np.stack(mean))
        found["frames_last"].append(np.stack(last))
    return {name: np.stack(values) for name, values in found.items()}


def check(folder, segments, fps, layers=None, taps=TAPS, model=None):
    backbone = Backbone(BackboneConfig(str(folder), device="cpu", layers=layers, taps=taps))
    inputs = backbone.prepare(segments, fps)
    found = backbone.all_states(inputs)
    if model is None:
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    expected = expected_taps(model.eval(), inputs, backbone.layers)
    assert {*found} == {"hidden_states", *(f"taps/{name}" for name in taps)}
    for name in taps:
        np.testing.assert_allclose(found[f"taps/{name}"], expected[name], rtol=0, atol=1e-5)
    plain = Backbone(BackboneConfig(str(folder), device="cpu", layers=layers))
    np.testing.assert_allclose(found["hidden_states"], plain.states(inputs), rtol=0, atol=1e-5)
    return backbone, found


@pytest.mark.parametrize("family", FAMILIES)
def test_all_taps_equal_transformers_own(checkpoints, make_video, family):
    check(checkpoints[family], *read(make_video(num_frames=54)))


@pytest.mark.parametrize("family", FAMILIES)
def test_taps_of_a_real_video(checkpoints, shared_data, family):
    segments, fps = read(shared_data / "videos/demo/car_accident.mp4")
    check(checkpoints[family], segments[:2], fps)


@pytest.mark.parametrize("name", ["internlm2", "qwen2"])
def test_taps_of_the_original_internvl_layout(tmp_path, name):
    decoder, form, options = VARIANTS[name]
    build(tmp_path, decoder, form, **options)
    model, _, _ = load_internvl_chat(str(tmp_path), dtype=torch.float32)
    check(tmp_path, [random_segment(0), random_segment(1)], 25.0, model=model)


@pytest.mark.parametrize("taps", [("heads",), ("frames_mean",), ("frames_last", "heads")])
@pytest.mark.parametrize("family", FAMILIES)
def test_some_taps_of_some_layers(checkpoints, make_video, family, taps):
    check(checkpoints[family], *read(make_video(num_frames=54)), layers=(0, 2), taps=taps)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_taps_equals_one_at_a_time(checkpoints, make_video, family):
    segments, fps = read(make_video(num_frames=70))
    backbone, found = check(checkpoints[family], segments, fps)
    single = [backbone.all_states(backbone.prepare([one], fps)) for one in segments]
    for name, values in found.items():
        alone = np.concatenate([one[name] for one in single], axis=1)
        np.testing.assert_allclose(values, alone, rtol=0, atol=1e-5)


def test_a_model_that_has_not_what_a_tap_needs_is_refused():
    # Three layers of linear attention, then one of the usual kind; and no visual tokens.
    config = Qwen3NextConfig(
        **{"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 8},
        **{"num_key_value_heads": 2, "intermediate_size": 32, "moe_intermediate_size": 8},
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8},
        **{"shared_expert_intermediate_size": 8, "num_experts": 2, "num_experts_per_tok": 1},
        **{"linear_value_head_dim": 8, "vocab_size": 50},
    )
    decoder = Qwen3NextModel(config)
    for layers, tap, said in (
        ((0, 1, 4), "heads", "layer 1 of Qwen3NextModel has no self_attn.o_proj, whose input"),
        ((0,), "heads", "layer 0 has no heads. Ask for more --layers"),
        ((0, 4), "frames_mean", "Qwen3NextModel does not say which tokens are visual: its conf"),
    ):
        with pytest.raises(ModelError, match=f"^--taps {tap}: {said}"):
            SegmentTaps(decoder, decoder, layers, 4, (tap,))
    (heads,) = SegmentTaps(decoder, decoder, (0, 4), 4, ("heads",)).taps
    assert (heads.layers, heads.num_heads, heads.num_features) == ((4,), 4, 32)


def test_it_is_refused_before_there_is_a_store(checkpoints, make_video, tmp_path):
    record = VideoRecord("v", str(make_video()), "train", "normal")
    write_manifest(tmp_path / "m.csv", [record])
    backbone = BackboneConfig(
        str(checkpoints["internvl"]), device="cpu", layers=(0,), taps=("heads",)
    )
    with pytest.raises(ModelError, match="--taps heads: layer 0 has no heads"):
        extract(ExtractConfig(tmp_path / "m.csv", tmp_path / "s.zarr", backbone))
    assert not (tmp_path / "s.zarr").exists()
