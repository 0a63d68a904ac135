"""What else a forward pass passes by: attention heads, and the visual tokens of a segment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from hiprobe.extract.first_token import on_residual_stream
from hiprobe.store import ModelError
from hiprobe.store.taps import FRAMES_LAST, FRAMES_MEAN, HEADS, Tap

# Names of a configuration's ids of the tokens that stand for what the vision tower gives.
VISUAL_TOKENS = ("video_token_id", "image_token_id")
OF_FRAMES = (FRAMES_MEAN, FRAMES_LAST)


class SegmentTaps:
    """Hooks that keep further vectors of a pass, for each segment and wanted layer.

    ``heads`` is what enters a decoder layer's output projection at the last position; layers as in
    ``hidden_states``, so from 1 on. ``frames_mean`` and ``frames_last`` are the residual stream
    averaged over the visual tokens, and at the last of them: at layer 0 what the vision tower and
    the projector alone give, and at the last layer after the final norm.

    Parameters
    ----------
    model : Transformers model
    decoder : its language model
        With the layers above the highest wanted one dropped.
    layers : sequence of int
        Ascending.
    num_layers : int
        Of the whole model.
    taps : sequence of str
        Of `hiprobe.store.taps.TAPS`.

    Raises
    ------
    ModelError
        The model has not what a tap needs.
    """

    def __init__(
        self, model: Any, decoder: Any, layers: Sequence[int], num_layers: int, taps: Sequence[str]
    ) -> None:
        self._captured: dict[tuple[str, int], torch.Tensor] = {}
        self._visual: torch.Tensor | None = None
        self._ids = [
            number
            for name in VISUAL_TOKENS
            if isinstance(number := getattr(model.config, name, None), int)
        ]
        self.taps = tuple(self._describe(decoder, layers, name) for name in taps)
        for tap in self.taps:
            for index in tap.layers:
                if tap.tap == HEADS:
                    projection = decoder.layers[index - 1].self_attn.o_proj
                    projection.register_forward_pre_hook(self._keep_heads(index))
                else:
                    keep = partial(self._keep_frames, tap.tap, index)
                    on_residual_stream(decoder, index, num_layers, keep)

    @property
    def needs_all_positions(self) -> bool:
        """Whether the highest layer is wanted at other positions than the last."""
        return any(tap.tap in OF_FRAMES for tap in self.taps)

    def begin(self, input_ids: torch.Tensor) -> None:
        """Say what the next pass is given: (segment, position) int64."""
        self.clear()
        if self.needs_all_positions:
            self._visual = torch.isin(input_ids, torch.tensor(self._ids, device=input_ids.device))

    def take_of_answer(self) -> dict[str, torch.Tensor]:
        """States of the pass just made at the last position: (layer, segment, feature) by taps."""
        return self._take([tap for tap in self.taps if tap.tap not in OF_FRAMES])

    def take_of_frames(self) -> dict[str, torch.Tensor]:
        """States of the pass just made at the visual tokens; it had them since `begin`, or none."""
        if self._visual is None:
            return {}
        self._visual = None
        return self._take([tap for tap in self.taps if tap.tap in OF_FRAMES])

    def _take(self, taps: Sequence[Tap]) -> dict[str, torch.Tensor]:
        return {
            tap.tap: torch.stack([self._captured.pop((tap.tap, one)) for one in tap.layers])
            for tap in taps
        }

    def clear(self) -> None:
        """Forget a pass."""
        self._captured.clear()
        self._visual = None

    def _describe(self, decoder: Any, layers: Sequence[int], name: str) -> Tap:
        if name == HEADS:
            return self._describe_heads(decoder, layers)
        if not self._ids:
            raise ModelError(
                f"--taps {name}: {type(decoder).__name__} does not say which tokens are visual: "
                f"its configuration has none of {', '.join(VISUAL_TOKENS)}. Leave the tap out."
            )
        position = "mean of the visual tokens" if name == FRAMES_MEAN else "last visual token"
        return Tap(
            name, tuple(layers), int(decoder.config.hidden_size),
            site="residual stream", position=position,
        )  # fmt: skip

    def _describe_heads(self, decoder: Any, layers: Sequence[int]) -> Tap:
        of_blocks = tuple(layer for layer in layers if layer > 0)
        if not of_blocks:
            raise ModelError("--taps heads: layer 0 has no heads. Ask for more --layers.")
        for layer in of_blocks:
            attention = getattr(decoder.layers[layer - 1], "self_attn", None)
            if not hasattr(attention, "o_proj"):
                raise ModelError(
                    f"--taps heads: layer {layer} of {type(decoder).__name__} has no "
                    "self_attn.o_proj, whose input the heads' vectors are. Ask for --layers that "
                    "have, or leave the tap out."
                )
        num_heads = int(decoder.config.num_attention_heads)
        width = decoder.layers[of_blocks[0] - 1].self_attn.o_proj.in_features
        return Tap(
            HEADS, of_blocks, int(width), num_heads=num_heads,
            site="input of the attention's output projection", position="last prompt token",
            is_normed=False,
        )  # fmt: skip

    # All keep copies: a slice would hold the memory of the whole sequence until the pass ends.

    def _keep_heads(self, index: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...]) -> None:
            self._captured[HEADS, index] = args[0][:, -1].clone()

        return hook

    def _keep_frames(self, name: str, index: int, hidden: torch.Tensor) -> None:
        # A further prompt's own tokens come behind the video: there is nothing to keep.
        if self._visual is not None:
            self._captured[name, index] = _of_frames(name, hidden, self._visual)


def _of_frames(name: str, hidden: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
    """(segment, position, feature) → (segment, feature)."""
    if name == FRAMES_LAST:
        # The last position that is one: the greatest of positions, the others counted as 0.
        last = (visual * torch.arange(visual.shape[1], device=visual.device)).argmax(dim=1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    sums = (visual.to(hidden.dtype).unsqueeze(1) @ hidden).squeeze(1)
    return sums.float() / visual.sum(dim=1, keepdim=True)
