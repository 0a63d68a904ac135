"""Attention of a vision tower whose windows are all of one size, as one batch.

The stock attention of Qwen2.5-VL goes through the windows one by one, some hundred calls a layer
for a training batch of small pictures. This one is plugged into Transformers' own interface, so
nothing of the model's class is replaced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

# Transformers hands the windows' borders over, in place of one window after the other, to every
# attention with "flash" in its name.
NAME = "equal_windows_flash"


def batch_equal_windows(model: PreTrainedModel) -> None:
    """Let a Qwen2.5-VL's vision tower attend to all its windows at once, from now on."""
    AttentionInterface.register(NAME, _attend)
    model.set_attn_implementation({"vision_config": NAME})


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within windows.

    Parameters
    ----------
    query, key, value : (1, head, position, feature)
        The windows one after the other.
    cu_seq_lens_q : (window + 1,) int
        Where each window starts, and where the last one stops.
    max_length_q : int
        Positions of the longest window.

    Returns
    -------
    (position, head, feature), None

    Raises
    ------
    ValueError
        A window is shorter than the others.
    """
    num_windows, length = len(cu_seq_lens_q) - 1, query.shape[2]
    # Exactly the case in which cutting at equal distances cuts at the windows' borders.
    if num_windows * max_length_q != length:
        raise ValueError(
            f"{num_windows} windows of up to {max_length_q} positions hold {length}: not equal"
        )
    windows = (
        part[0].unflatten(1, (num_windows, -1)).transpose(0, 1) for part in (query, key, value)
    )
    attended = functional.scaled_dot_product_attention(*windows, scale=scaling)
    return attended.transpose(1, 2).flatten(0, 1), None
