"""No more is computed than the first token's states need, and they are the same."""

import numpy as np
import pytest
import torch
from transformers import (
    CohereConfig,
    CohereModel,
    Gemma2Config,
    Gemma2Model,
    LlamaConfig,
    LlamaModel,
    Olmo2Config,
    Olmo2Model,
)

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.first_token import FirstTokenTap, cut_top_block
from tests.extract.test_backbone import FAMILIES, checkpoints, generated_states, read

__all__ = ["checkpoints"]

DECODERS = {
    "like the supported ones": (LlamaConfig, LlamaModel),
    "MLP beside the attention": (CohereConfig, CohereModel),
    "norms behind": (Olmo2Config, Olmo2Model),
    "norms before and behind": (Gemma2Config, Gemma2Model),
}
SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "pad_token_id": 0,
}


def positions_seen(module):
    """Record how many positions each call of a module is given."""
    counts = []
    module.register_forward_pre_hook(lambda _, args: counts.append(args[0].shape[1]))
    return counts


@pytest.mark.parametrize("layers", [(0,), (1,), (2,), (0, 2), (1, 2, 3), (3, 4)])
@pytest.mark.parametrize("family", FAMILIES)
def test_whichever_layer_is_the_highest_its_states_equal_generates(
    checkpoints, make_video, family, layers
):
    segments, fps = read(make_video(num_frames=54))
    backbone = Backbone(BackboneConfig(str(checkpoints[family]), layers=layers, device="cpu"))
    inputs = backbone.prepare(segments, fps)
    expected = generated_states(checkpoints[family], inputs)[list(layers)]
    np.testing.assert_allclose(backbone.states(inputs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [(2,), None])
def test_the_top_block_computes_one_token(checkpoints, make_video, family, layers):
    segments, fps = read(make_video(num_frames=54))
    backbone = Backbone(BackboneConfig(str(checkpoints[family]), layers=layers, device="cpu"))
    blocks = backbone._model.language_model.layers
    top = [positions_seen(module) for module in (blocks[-1].mlp, blocks[-1].self_attn.o_proj)]
    below = positions_seen(blocks[-2].mlp)
    inputs = backbone.prepare(segments, fps)
    backbone.states(inputs)
    assert top == [[1], [1]]
    assert below == [inputs["input_ids"].shape[1]]


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("layers", [(1,), (1, 2), (2, 3)])
def test_blocks_of_other_builds_stay_right(kind, layers):
    config_class, model_class = DECODERS[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**SIZES)).eval()
    tokens = torch.arange(1, 25).view(2, 12)
    with torch.inference_mode():
        states = model(tokens, output_hidden_states=True, use_cache=False).hidden_states
        tap = FirstTokenTap(model, layers)
        cut_top_block(model)
        model(tokens, use_cache=False)
    expected = torch.stack([states[layer][:, -1] for layer in layers])
    torch.testing.assert_close(tap.take(), expected, rtol=0, atol=1e-5)
