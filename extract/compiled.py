"""``--compile``: the repeated blocks of a model, each through ``torch.compile``."""

from __future__ import annotations

from typing import Any

import torch

# What Transformers' models call the part that sees.
VISION_TOWERS = ("visual", "vision_tower")


def compile_blocks(model: Any, decoder: Any) -> None:
    """Compile the decoder's layers and the vision tower's blocks.

    Only the inside of a block: hooks stay outside of what is compiled.

    Parameters
    ----------
    model : Transformers model
        Without its LM head.
    decoder : its language model
    """
    for block in [*decoder.layers, *vision_blocks(model)]:
        block.forward = torch.compile(block.forward)


def vision_blocks(model: Any) -> list[Any]:
    """The vision tower's repeated blocks: its longest list of modules. Empty where it has none."""
    towers = [getattr(model, name) for name in VISION_TOWERS if hasattr(model, name)]
    lists = [
        [*module]
        for tower in towers
        for module in tower.modules()
        if isinstance(module, torch.nn.ModuleList)
    ]
    return max(lists, key=len, default=[])
