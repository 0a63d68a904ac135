"""``--load-in int8`` and ``fp8``: 8-bit weights and activations of the language model, by torchao.

Only the linear layers of the decoder: the vision tower, the embedding, the norms and the LM head
stay as they are. A weight is scaled by output feature, an activation by token as it comes, so a
segment's states do not depend on what else is in its batch.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from hiprobe.extract.config import BackboneConfig
from hiprobe.store import ModelError

TORCHAO = ("int8", "fp8")
# Of the cards that multiply float8: Ada (L4, 4090), Hopper, and later.
FLOAT8_CAPABILITY = (8, 9)


def check_torchao(config: BackboneConfig, device: torch.device) -> None:
    """Refuse what cannot be quantised here, before any weight is read.

    Raises
    ------
    ModelError
        torchao is missing, or the device does not multiply float8.
    """
    if config.load_in not in TORCHAO:
        return
    option = f"{config.model}: --load-in {config.load_in}"
    if find_spec("torchao") is None:
        raise ModelError(
            f"{option}: needs torchao, which is not installed. `pip install 'hiprobe[quantised]'`, "
            "or leave the option out."
        )
    if config.load_in == "fp8" and (found := _no_float8(device)):
        raise ModelError(
            f"{option}: needs a CUDA GPU of compute capability "
            f"{'.'.join(map(str, FLOAT8_CAPABILITY))} or more, found {found}. Take --load-in int8, "
            "or leave the option out."
        )


def _no_float8(device: torch.device) -> str:
    """Name the device if it cannot multiply float8; else nothing."""
    if device.type != "cuda":
        return f"device {device}"
    capability = torch.cuda.get_device_capability(device)
    if capability >= FLOAT8_CAPABILITY:
        return ""
    return f"{torch.cuda.get_device_name(device)} of {'.'.join(map(str, capability))}"


def quantise(model: Any, config: BackboneConfig, device: torch.device) -> None:
    """Quantise the decoder's linear layers, each as it moves to the device.

    Never more than one of them is on the device in full precision.

    Parameters
    ----------
    model : Transformers model
        In main memory, with or without its LM head.
    config : BackboneConfig
        `load_in` is one of `TORCHAO`.
    device : torch.device

    Raises
    ------
    ModelError
        Float8 of other weights than bfloat16: torchao scales none by token.
    """
    if config.load_in == "fp8" and model.dtype != torch.bfloat16:
        dtype = str(model.dtype).removeprefix("torch.")
        raise ModelError(
            f"{config.model}: --load-in fp8: needs bfloat16 weights, got {dtype}. Give --dtype "
            "bfloat16, or take --load-in int8."
        )
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int8DynamicActivationInt8WeightConfig,
        PerRow,
        quantize_,
    )

    # By row, not by tensor: a scale of a whole batch would let its segments change each other. And
    # --compile compiles as elsewhere: torchao's own settings would hold for the whole process.
    kind = {
        "int8": Int8DynamicActivationInt8WeightConfig,
        "fp8": Float8DynamicActivationFloat8WeightConfig,
    }[config.load_in]
    quantize_(
        decoder_of(model),
        kind(granularity=PerRow(), set_inductor_config=False),
        filter_fn=lambda module, _: isinstance(module, torch.nn.Linear),
        device=device,
    )


def decoder_of(model: Any) -> Any:
    """The language model inside of a model with or without its LM head."""
    bare = model if hasattr(model, "language_model") else getattr(model, "model", model)
    decoder = getattr(bare, "language_model", None)
    if decoder is None:
        raise ModelError(f"{type(model).__name__} has no language_model to quantise.")
    return decoder
