"""What the model says of a stretch of video: its own `generate`, with the LM head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hiprobe.extract.backbone import call_options, process_segments
from hiprobe.extract.chat_template import chat_text
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.device_frames import DeviceFrames
from hiprobe.extract.frame_size import frame_pixels
from hiprobe.extract.loading import (
    files_digest,
    load_model,
    prompt_text,
    resolve_device,
    weights_digest,
)
from hiprobe.extract.video import Segment
from hiprobe.store import ModelError, VideoError

MAX_NEW_TOKENS = 128


class Describer:
    """A loaded model that answers prompts about segments, greedily.

    Parameters
    ----------
    config : BackboneConfig
        `layers` and `compile` do not count.
    max_new_tokens : int
        Longest answer.

    Attributes
    ----------
    provenance : dict
        The model's id, revision, digests, class and dtype.

    Raises
    ------
    ModelError
        The model cannot be loaded, or generates no text.
    """

    def __init__(self, config: BackboneConfig, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        self.device = resolve_device(config.device)
        self._model, self._processor, folder = load_model(config, self.device, with_head=True)
        self._max_new_tokens = max_new_tokens
        self._pixels = frame_pixels(config, self._processor)
        options = call_options(self._processor, self._pixels)
        self._frames = DeviceFrames(self._processor, self._pixels, options, config, self.device)
        self._fps_shown = config.fps_shown
        if not self._model.can_generate():
            raise ModelError(f"{config.model}: {type(self._model).__name__} generates no text.")
        prompt_text(config, self._processor)  # to say so now, and not at the first interval
        self.provenance: dict[str, Any] = {
            "id": config.model,
            "revision": getattr(self._model.config, "_commit_hash", None) or config.revision,
            "weights_digest": weights_digest(folder),
            "files_digest": files_digest(folder),
            "class": type(self._model).__name__,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "load_in": config.load_in,
        }

    @torch.inference_mode()
    def describe(
        self, segments: Sequence[Segment], prompts: Sequence[str], fps: float
    ) -> list[str]:
        """Answer a prompt about each segment, as one left-padded batch.

        Parameters
        ----------
        segments : sequence of Segment
            Of one video. A batch that does not fit into memory is halved until it does.
        prompts : sequence of str
            One a segment.
        fps : float
            The video's frames per second.

        Raises
        ------
        VideoError
            Not even one segment fits into memory.
        """
        try:
            return self._generate(segments, prompts, fps)
        except torch.OutOfMemoryError as error:
            if len(segments) == 1:
                raise VideoError(
                    f"frames {segments[0].start_frame} to {segments[0].stop_frame} do not fit into "
                    f"the memory of {self.device}: {error} Use fewer --keyframes."
                ) from error
        half = len(segments) // 2
        parts = (slice(0, half), slice(half, None))
        return [
            text for part in parts for text in self.describe(segments[part], prompts[part], fps)
        ]

    def _generate(
        self, segments: Sequence[Segment], prompts: Sequence[str], fps: float
    ) -> list[str]:
        """Generate the answers of one batch, if it fits into memory."""
        inputs = self._inputs(segments, prompts, fps)
        tokens = self._model.generate(
            **inputs,
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            # A checkpoint's own sampling settings make no sense here, and would warn.
            temperature=None,
            top_p=None,
            top_k=None,
        )
        answers = tokens[:, inputs["input_ids"].shape[1] :]
        decoded = self._processor.batch_decode(answers, skip_special_tokens=True)
        return [answer.strip() for answer in decoded]

    @torch.inference_mode()
    def first_token_states(self, segment: Segment, prompt: str, fps: float) -> np.ndarray:
        """States of the first token that `generate` gives, by its own account: (layer, feature).

        All layers, float32. It is what `Backbone.states` must equal.
        """
        inputs = self._inputs([segment], [prompt], fps)
        generated = self._model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
        states = [layer[0, -1].float().cpu() for layer in generated.hidden_states[0]]
        stacked: np.ndarray = torch.stack(states).numpy()
        return stacked

    @property
    def num_parameters(self) -> int:
        """Of the whole model, with the LM head."""
        return int(self._model.num_parameters())

    def _inputs(self, segments: Sequence[Segment], prompts: Sequence[str], fps: float) -> Any:
        """Make one left-padded batch on the device."""
        texts = [chat_text(self._processor, prompt) for prompt in prompts]
        rates = [fps] * len(segments)
        inputs = process_segments(
            self._processor, texts, segments, rates, self._pixels, self._fps_shown,
            has_content=not self._frames.are_on_device,
        ) | self._frames.decoded(segments)  # fmt: skip
        return self._frames.to_device(
            {
                name: value.to(self._model.dtype) if value.is_floating_point() else value
                for name, value in inputs.items()
                if isinstance(value, torch.Tensor)
            }
        )
