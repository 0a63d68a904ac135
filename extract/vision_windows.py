"""Attention of Qwen's vision towers, with all windows of one length as one batch.

Under SDPA, Transformers goes through the windows one by one: for 8 segments of a 320 x 240 video
8,192 small calls, and in every layer a wait for the device, to learn where they begin. This one is
plugged into Transformers' own interface, so nothing of the models' classes is replaced.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

# Transformers hands the windows' borders over, in place of one window after the other, to every
# attention with "flash" in its name.
NAME = "windows_by_length_flash"
# Those whose towers do so.
MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl")


def batch_windows(model: PreTrainedModel) -> None:
    """Let a Qwen's vision tower that uses SDPA attend to windows in batches, from now on.

    Other models, and other attention, stay as they are.
    """
    config = model.config
    if config.model_type in MODEL_TYPES and config.vision_config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, _attend)
        model.set_attn_implementation({"vision_config": NAME})


@dataclass(frozen=True)
class _Windows:
    """Where the windows lie.

    Attributes
    ----------
    groups : list of (int, int)
        Windows, and positions of each, by ascending length.
    order, back : (position,) int64 or None
        Puts windows of one length side by side, and back; None where all are of one length.
    """

    groups: list[tuple[int, int]]
    order: torch.Tensor | None = None
    back: torch.Tensor | None = None

    @classmethod
    def of(cls, borders: torch.Tensor) -> Self:
        """Read where each window starts, and where the last one stops: (window + 1,) int."""
        lengths = borders.diff()
        # The one wait for the device.
        counted = Counter(lengths.tolist())
        groups = [(counted[length], length) for length in sorted(counted)]
        if len(groups) == 1:
            return cls(groups)
        order = torch.argsort(lengths.repeat_interleave(lengths), stable=True)
        return cls(groups, order, torch.argsort(order))


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within windows.

    Parameters
    ----------
    query, key, value : (1, head, position, feature)
        The windows one after the other.
    cu_seq_lens_q : (window + 1,) int
        Where each window starts, and where the last one stops.

    Returns
    -------
    (position, head, feature), None
    """
    # All layers of a pass get the same borders, so they are read once and kept with them.
    windows: _Windows | None = getattr(cu_seq_lens_q, "_windows", None)
    if windows is None:
        windows = _Windows.of(cu_seq_lens_q)
        cu_seq_lens_q._windows = windows  # type: ignore[attr-defined]
    parts = [part[0].transpose(0, 1) for part in (query, key, value)]
    if windows.order is not None:
        parts = [part[windows.order] for part in parts]
    sizes = [count * length for count, length in windows.groups]
    attended = [
        _attend_equal(count, scaling, *group)
        for (count, _), *group in zip(
            windows.groups, *(part.split(sizes) for part in parts), strict=True
        )
    ]
    if windows.back is None:
        return attended[0], None
    return torch.cat(attended)[windows.back], None


def _attend_equal(count: int, scaling: float, *parts: torch.Tensor) -> torch.Tensor:
    """Attend within `count` equal windows: three (position, head, feature) to one of them."""
    query, key, value = (part.unflatten(0, (count, -1)).transpose(1, 2) for part in parts)
    attended = functional.scaled_dot_product_attention(query, key, value, scale=scaling)
    return attended.transpose(1, 2).flatten(0, 1)
