"""The first token's states, taken out of a forward pass that computes no more than they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch


class FirstTokenTap:
    """Forward hooks that keep the last position of each wanted layer's hidden states.

    Indices follow Transformers' ``hidden_states``: 0 is what enters the first decoder layer,
    l what leaves layer l, and the last index what leaves the final norm. Decoder layers above the
    highest one wanted are dropped from the model: they take neither time nor memory.
    """

    def __init__(self, decoder: Any, layers: Sequence[int]) -> None:
        self._captured: dict[int, torch.Tensor] = {}
        self._layers = list(layers)
        last = len(decoder.layers)
        # One block stays even for layer 0 alone: what enters it is the embedding output.
        decoder.layers = decoder.layers[: max(1, *self._layers)]
        for index in self._layers:
            on_residual_stream(decoder, index, last, partial(self._keep, index))

    def take(self) -> torch.Tensor:
        """States of the pass just made: (layer, segment, feature); forgets them."""
        states = torch.stack([self._captured[index] for index in self._layers])
        self.clear()
        return states

    def clear(self) -> None:
        """Forget the states of a pass that has failed."""
        self._captured.clear()

    def _keep(self, index: int, hidden: torch.Tensor) -> None:
        # A copy: a slice would hold the memory of the whole sequence until the pass ends. Batches
        # are left-padded, so position -1 is the last prompt token of each segment.
        self._captured[index] = hidden[:, -1].clone()


def on_residual_stream(
    decoder: Any, index: int, last: int, keep: Callable[[torch.Tensor], None]
) -> None:
    """Let a function see a layer's (segment, position, feature) states in each pass.

    Parameters
    ----------
    decoder : Transformers language model
        Layers above the highest wanted one may have been dropped.
    index : int
        As of `FirstTokenTap`.
    last : int
        Number of layers of the whole model.
    keep : callable
    """
    if index == 0:
        # Vision features replace the placeholders' embeddings only after `embed_tokens`, so the
        # embedding output is caught where it enters the decoder.
        decoder.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: keep(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    else:
        # Transformers shows the last layer after the final norm, and only there. Some models'
        # layers give a tuple, states first.
        module = decoder.norm if index == last else decoder.layers[index - 1]
        module.register_forward_hook(
            lambda module, args, output: keep(output[0] if isinstance(output, tuple) else output)
        )


def cut_top_block(decoder: Any) -> None:
    """Let the top block project and transform the last position only: nobody reads the others.

    Its attention's keys and values are of all positions, but behind it positions do not meet. What
    it adds to the residual stream is then of one position, (segment, 1, feature), and is added to
    all of them: the last one is right, the others are not, and the stream keeps its shape, which
    Qwen3-VL's later additions need.

    A block that is not built so, as in Llama, stays as it is.
    """
    block = decoder.layers[-1]
    projection = getattr(getattr(block, "self_attn", None), "o_proj", None)
    norm = getattr(block, "post_attention_layernorm", None)
    if projection is None or norm is None:
        return
    for module in (projection, norm, decoder.norm):
        module.register_forward_pre_hook(_last_position)


def _last_position(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cut a module's one input, (segment, position, feature)."""
    return args[0][:, -1:], *args[1:]
