"""Several prompts after one video: what they share is computed once.

The text comes after the video, so all prompts have the template's beginning and the video's tokens
in common, most of what there is. Their keys and values serve every prompt, each of which then is a
pass over its own few tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from transformers import Cache, DynamicCache

Inputs = dict[str, torch.Tensor]


def common_length(prompts: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all prompts begin with; each keeps at least one of its own."""
    shortest = min(map(len, prompts)) - 1
    for place in range(shortest):
        if len({tokens[place] for tokens in prompts}) > 1:
            return place
    return shortest


def run_prompts(
    model: Any,
    inputs: Inputs,
    suffixes: Sequence[Sequence[int]],
    on_prefix: Callable[[], None],
    on_prompt: Callable[[int], None],
) -> None:
    """Run a model on what prompts share, then on the rest of each.

    Parameters
    ----------
    model : Transformers model
        Without its LM head.
    inputs : dict of str to Tensor
        Of the first prompt, left-padded, on the model's device.
    suffixes : sequence of sequence of int
        Tokens of each prompt behind what all share; at least one each.
    on_prefix, on_prompt : callable
        Called after the pass over what is shared, and with each prompt's number after its own.
    """
    whole = inputs["input_ids"].shape
    num_shared = whole[1] - len(suffixes[0])
    shared = {
        # What is there for each token goes with the tokens.
        name: value[:, :num_shared] if value.shape == whole else value
        for name, value in inputs.items()
    }
    cache = DynamicCache(config=model.config.get_text_config())
    with _positions_of(model) as given:
        model(**shared, past_key_values=cache, use_cache=True)
    on_prefix()
    for number, tokens in enumerate(suffixes):
        own = torch.tensor([tokens], device=inputs["input_ids"].device).expand(whole[0], -1)
        mask = torch.cat([shared["attention_mask"], torch.ones_like(own)], dim=1)
        is_last = number == len(suffixes) - 1
        kept, restore = (cache, lambda: None) if is_last else _kept(cache, len(tokens))
        positions = _positions_behind(given[0], len(tokens))
        model(input_ids=own, attention_mask=mask, past_key_values=kept, use_cache=True, **positions)
        on_prompt(number)
        restore()


@contextmanager
def _positions_of(model: Any) -> Iterator[list[torch.Tensor | None]]:
    """Note the positions that the language model is given."""
    given: list[torch.Tensor | None] = []
    hook = model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs.get("position_ids")), with_kwargs=True
    )
    try:
        yield given
    finally:
        hook.remove()


def _positions_behind(given: torch.Tensor | None, num_own: int) -> Inputs:
    """Where a prompt's own tokens are, for models with positions in space: Qwen's.

    Others count on from the cache's length. These go on behind what is shared, whose last token is
    text; not behind the greatest position, which may be that of a frame.
    """
    if given is None or given.ndim < 3:
        return {}
    own = torch.arange(1, num_own + 1, device=given.device)
    return {"position_ids": given[..., -1:] + own}


def _kept(cache: Cache, num_own: int) -> tuple[Cache, Callable[[], None]]:
    """A cache that a pass over so many tokens may extend, and what brings it back."""
    if any(getattr(layer, "is_sliding", False) for layer in cache.layers):
        # A window forgets its beginning when it grows: nothing brings that back.
        return deepcopy(cache), lambda: None
    return cache, lambda: cache.crop(-num_own)
