"""--load-in int8 and fp8: what is quantised, what it does to states, and where it is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hiprobe.extract import quantised
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.generation import Describer
from hiprobe.extract.quantised import check_torchao, decoder_of, quantise
from hiprobe.store import ModelError
from hiprobe.store.provenance import ModelRecord
from hiprobe.store.state_distances import QUANTISED_TOLERANCE, relative_l2, tolerance_of
from tests.extract.test_backbone import FAMILIES, checkpoints, read  # noqa: F401

CPU = torch.device("cpu")


@pytest.fixture
def torchao():
    """CI has it; where it is not installed, these tests have nothing to test."""
    return pytest.importorskip("torchao")


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_changes_states_less_than_another_segment_and_is_one_at_a_time(
    torchao, checkpoints, make_video, family  # noqa: F811
):  # fmt: skip
    segments, fps = read(make_video(num_frames=54))
    config = BackboneConfig(str(checkpoints[family]), device="cpu")
    full, own = Backbone(config), Backbone(replace(config, load_in="int8"))
    inputs = own.prepare(segments, fps)
    states, expected = own.states(inputs), full.states(inputs)
    moved = relative_l2(states, expected)
    assert moved[0].max() == 0  # the embedding is as it was
    assert (moved[1:] > 1e-4).all()
    assert moved.max() < 0.05
    # A scale a token: what else is in the batch does not matter.
    alone = [own.states(own.prepare([one], fps)) for one in segments]
    np.testing.assert_allclose(states, np.concatenate(alone, axis=1), rtol=0, atol=1e-4)
    record = ModelRecord.of(own.describe().provenance["model"])
    assert (record.load_in, record.dtype) == ("int8", "float32")
    assert tolerance_of(record) == QUANTISED_TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_decoders_linear_layers_are_quantised(
    torchao, checkpoints, family  # noqa: F811
):  # fmt: skip
    config = BackboneConfig(str(checkpoints[family]), device="cpu", load_in="int8")
    model = Describer(config)._model
    decoder = {id(one) for one in decoder_of(model).modules()}
    linear = [one for one in model.modules() if isinstance(one, torch.nn.Linear)]
    assert len(linear) > len(decoder & {id(one) for one in linear}) > 0
    for one in linear:
        is_quantised = type(one.weight).__name__ == "Int8Tensor"
        assert is_quantised == (id(one) in decoder)


def test_an_int8_layer_is_the_product_of_whole_numbers(torchao):
    linear = torch.nn.Linear(256, 64, bias=False)
    model = torch.nn.Module()
    model.language_model = torch.nn.Sequential(linear)
    weight, x = (
        linear.weight.detach().clone(),
        torch.randn(5, 256, generator=torch.Generator().manual_seed(0)),
    )
    quantise(model, BackboneConfig("m", load_in="int8"), CPU)
    with torch.inference_mode():
        got = model.language_model(x)

    def whole(values):
        scale = values.abs().amax(dim=1, keepdim=True) / 127.5
        return (values * (1 / scale)).round().clamp(-128, 127).double(), scale.double()

    (a, of_a), (b, of_b) = whole(x), whole(weight)
    torch.testing.assert_close(got.double(), (a @ b.T) * of_a * of_b.T, rtol=1e-5, atol=1e-5)


def test_compiled_int8_layers_give_the_same_states(torchao, checkpoints, make_video):  # noqa: F811
    segments, fps = read(make_video(num_frames=24))
    config = BackboneConfig(str(checkpoints["internvl"]), device="cpu", load_in="int8")
    plain, compiled = Backbone(config), Backbone(replace(config, compile=True))
    inputs = plain.prepare(segments, fps)
    assert relative_l2(compiled.states(inputs), plain.states(inputs)).max() < QUANTISED_TOLERANCE


def test_float8_is_refused_where_the_device_or_the_weights_cannot(torchao, monkeypatch):
    config = BackboneConfig("m", load_in="fp8")
    with pytest.raises(ModelError, match=r"needs a CUDA GPU of compute capability 8\.9 or more, "
                                         r"found device cpu"):  # fmt: skip
        check_torchao(config, CPU)
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 3090")
    for capability, is_enough in (((8, 6), False), ((8, 9), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, own=capability: own)
        if is_enough:
            check_torchao(config, gpu)
        else:
            with pytest.raises(ModelError, match=r"found RTX 3090 of 8\.6\. Take --load-in int8"):
                check_torchao(config, gpu)
    model = torch.nn.Linear(16, 16)
    model.dtype = torch.float16
    with pytest.raises(ModelError, match="needs bfloat16 weights, got float16"):
        quantise(model, config, gpu)


def test_without_torchao_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs torchao.*pip install 'hiprobe\[quantised\]'"):
        check_torchao(BackboneConfig("m", load_in="int8"), CPU)
    check_torchao(BackboneConfig("m", load_in="8bit"), CPU)
