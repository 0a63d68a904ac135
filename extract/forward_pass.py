"""What a model is run for: the states of all taps and prompts, out of one pass over a batch.

Where a chat template puts the text before the video, prompts share nothing of it: each is a pass of
its own, over the same pixels and its own tokens. What is taken at visual tokens depends on the
prompt then, and is that of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.first_token import FirstTokenTap, cut_top_block
from hiprobe.extract.segment_taps import OF_FRAMES, SegmentTaps
from hiprobe.extract.shared_prefix import Inputs, common_length, run_prompts
from hiprobe.store.taps import HIDDEN_STATES, Tap, array_name

# Inputs of further prompts, beside those of the first: their names begin so, then the number.
OF_PROMPT = "prompt-"


class ForwardPass:
    """Runs a model once, or over what prompts share once, and keeps what is wanted of it.

    Where prompts do not share the video, it runs the model once a prompt.

    Parameters
    ----------
    model : Transformers model
        Without its LM head. Decoder layers above the highest wanted one are dropped.
    layers : sequence of int
        Ascending.
    config : BackboneConfig
    processor : Transformers processor
    texts : sequence of str
        Each prompt in the chat template.

    Attributes
    ----------
    taps : tuple of Tap
        What `run` gives beside the first prompt's ``hidden_states``.
    whole_texts : tuple of str
        Of `texts`, further ones that share nothing with the first that could be computed once:
        `run` needs their tokens too, see `tokens_of_prompt`.

    Raises
    ------
    ModelError
        The model has not what a tap needs.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[int],
        config: BackboneConfig,
        processor: Any,
        texts: Sequence[str],
    ) -> None:
        self._model = model
        decoder = model.language_model
        num_layers = len(decoder.layers)
        self._first = FirstTokenTap(decoder, layers)
        self._further = SegmentTaps(model, decoder, layers, num_layers, config.taps)
        # The 8-bit product looks for outliers in all positions that it is given: with one position
        # it would find others, and give other states than in stores made before.
        if config.load_in != "8bit" and not self._further.needs_all_positions:
            cut_top_block(decoder)
        self._suffixes = _suffixes(processor, texts)
        self.whole_texts = () if self._suffixes else tuple(texts[1:])
        self._names = ["", *(name for name, _ in config.further_prompts)]
        width = int(decoder.config.hidden_size)
        self.taps = self._further.taps + tuple(
            tap
            for name, text in config.further_prompts
            for tap in (
                Tap(HIDDEN_STATES, tuple(layers), width, prompt=name, text=text),
                *(
                    replace(one, prompt=name, text=text)
                    for one in self._further.taps
                    if one.tap not in OF_FRAMES
                ),
            )
        )

    @torch.inference_mode()
    def run(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Run the model on a prepared batch that is on its device.

        Returns
        -------
        dict of str to (layer, segment, feature) Tensor
            By the names of the store's arrays.
        """
        taken: dict[str, torch.Tensor] = {}
        if not self._suffixes:
            self._further.begin(inputs["input_ids"])
            for number in range(1 + len(self.whole_texts)):
                # Without cache: the answer is not wanted, only the state that would give it.
                self._model(**_inputs_of_prompt(inputs, number), use_cache=False)
                taken.update(self._take(self._names[number]))
            return taken

        def on_prefix() -> None:
            taken.update(self._take_of_frames())

        def on_prompt(number: int) -> None:
            taken.update(self._take(self._names[number]))

        self._further.begin(inputs["input_ids"][:, : -len(self._suffixes[0])])
        run_prompts(self._model, inputs, self._suffixes, on_prefix, on_prompt)
        return taken

    def clear(self) -> None:
        """Forget a pass that has failed."""
        self._first.clear()
        self._further.clear()

    def _take(self, prompt: str) -> dict[str, torch.Tensor]:
        of_answer = {HIDDEN_STATES: self._first.take(), **self._further.take_of_answer()}
        own = {array_name(tap, prompt): states for tap, states in of_answer.items()}
        return own | self._take_of_frames()

    def _take_of_frames(self) -> dict[str, torch.Tensor]:
        of_frames = self._further.take_of_frames()
        return {array_name(tap): states for tap, states in of_frames.items()}


def tokens_of_prompt(inputs: Mapping[str, Any], number: int) -> dict[str, torch.Tensor]:
    """What of a prompt's inputs is for each token, under names beside the first prompt's inputs.

    Parameters
    ----------
    inputs : mapping
        Of a processor, for the prompt and the same segments.
    number : int
        The prompt's, from 1 on.
    """
    tokens: torch.Tensor = inputs["input_ids"]
    return {
        f"{OF_PROMPT}{number}/{name}": value
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor) and value.shape == tokens.shape
    }


def _inputs_of_prompt(inputs: Inputs, number: int) -> Inputs:
    """The inputs of one prompt: what is of the video serves all."""
    own = f"{OF_PROMPT}{number}/"
    of_first = {name: one for name, one in inputs.items() if not name.startswith(OF_PROMPT)}
    return of_first | {
        name.removeprefix(own): one for name, one in inputs.items() if name.startswith(own)
    }


def _suffixes(processor: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each prompt behind what all share; none where that does not hold the video."""
    if len(texts) < 2:
        return []
    tokens = [processor.tokenizer(text)["input_ids"] for text in texts]
    length = common_length(tokens)
    if processor.video_token in processor.tokenizer.decode(tokens[0][length:]):
        return []
    return [one[length:] for one in tokens]
