"""A frozen multimodal LLM, and the one forward pass that gives every layer's first token.

Generic over Transformers' image/video-text-to-text models: the segment goes through the
model's own processor and chat template as a video, and the states are taken by hooks on
``language_model.layers``. No LM head, no KV cache, no full-sequence outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import av
import numpy as np
import torch

from hiprobe.extract.chat_template import chat_text
from hiprobe.extract.compiled import compile_blocks
from hiprobe.extract.config import DEFAULT_PROMPT, BackboneConfig
from hiprobe.extract.device_frames import DeviceFrames
from hiprobe.extract.forward_pass import ForwardPass, tokens_of_prompt
from hiprobe.extract.frame_size import caps_pixels, frame_pixels, size_options
from hiprobe.extract.lm_head import read_answers
from hiprobe.extract.loading import (
    DTYPES,
    files_digest,
    load_model,
    prompt_text,
    resolve_device,
    weights_digest,
)
from hiprobe.extract.video import Segment
from hiprobe.store import ModelError
from hiprobe.store.answer_rows import Answers
from hiprobe.store.taps import HIDDEN_STATES, Tap

# What a pass gives: (layer, segment, feature) float32, by the names of the store's arrays.
States = dict[str, np.ndarray]

# What one needs to name and make a backbone comes from here, wherever it is defined.
__all__ = [
    "DEFAULT_PROMPT",
    "DTYPES",
    "Backbone",
    "BackboneConfig",
    "BackboneDescription",
    "States",
    "chat_text",
    "process_segments",
]

NUMERIC_LIBRARIES = ("torch", "torchvision", "transformers")


@dataclass(frozen=True)
class BackboneDescription:
    """What a store records of a loaded backbone.

    Attributes
    ----------
    provenance : dict
        What must be equal for two runs to give the same numbers.
    layers : tuple of int
    num_features : int
    device : str
    taps : tuple of Tap
        Kept beside the first prompt's ``hidden_states``.
    answers : Answers or None
        What of its LM head a store keeps.
    notes : tuple of str
        What is good to know before it runs.
    """

    provenance: dict[str, Any]
    layers: tuple[int, ...]
    num_features: int
    device: str
    taps: tuple[Tap, ...] = ()
    answers: Answers | None = None
    notes: tuple[str, ...] = ()


class Backbone:
    """A loaded model with its processor.

    Parameters
    ----------
    config : BackboneConfig

    Attributes
    ----------
    layers : tuple of int
        Layers that `states` returns, ascending.
    num_features : int
        Hidden size.
    answers : Answers or None
        Rows of its LM head, see `hiprobe.extract.lm_head`.

    Raises
    ------
    ModelError
        The model is missing, is not of a supported kind, lacks weights, or a layer asked for
        does not exist.
    """

    def __init__(self, config: BackboneConfig) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        model, processor, folder = load_model(config, self.device)
        self._model, self._processor = model, processor
        self._digests = {
            "weights_digest": weights_digest(folder),
            "files_digest": files_digest(folder),
        }
        decoder: Any = getattr(model, "language_model", None)
        if not hasattr(decoder, "layers") or not hasattr(decoder, "norm"):
            raise ModelError(
                f"{config.model}: {type(model).__name__} has no language_model with layers and a "
                "norm. Supported: InternVL, Qwen2.5-VL, LLaVA-OneVision and models built alike."
            )
        last = len(decoder.layers)
        self.layers = tuple(range(last + 1)) if config.layers is None else config.layers
        if beyond := [layer for layer in self.layers if layer > last]:
            raise ModelError(
                f"{config.model}: no layer {beyond[0]}; it has layers 0 (embedding) to {last}."
            )
        self.num_features = int(decoder.config.hidden_size)
        self._text, *further = (
            prompt_text(replace(config, prompt=text), processor)
            for text in (config.prompt, *(text for _, text in config.further_prompts))
        )
        # After the tokenizer has been found to be one, and before the hooks come on.
        self.answers = read_answers(config.answers, folder, model, decoder, processor.tokenizer)
        self._pass = ForwardPass(model, self.layers, config, processor, [self._text, *further])
        if config.compile:
            compile_blocks(model, decoder)
        self._pixels = frame_pixels(config, processor)
        self._frames = DeviceFrames(
            processor, self._pixels, call_options(processor, self._pixels), config, self.device
        )

    @property
    def segment_bytes(self) -> int:
        """Of a segment's states, of all taps and prompts, as float32."""
        own = len(self.layers) * self.num_features
        return 4 * (own + sum(len(tap.layers) * tap.num_features for tap in self.taps))

    @property
    def tokenizer(self) -> Any:
        """What turned the prompt into tokens."""
        return self._processor.tokenizer

    def prepare(
        self, segments: Sequence[Segment], fps: float | Sequence[float]
    ) -> dict[str, torch.Tensor]:
        """Turn segments into model inputs in main memory, each segment a video of its own.

        Safe to call from several threads. The first dimension of every tensor is the segment, or
        divides into equal parts for the segments.

        Parameters
        ----------
        segments : sequence of Segment
            Of one size.
        fps : float or sequence of float
            Frames per second of their video, or of each one's.
        """
        rates = [fps] * len(segments) if isinstance(fps, float | int) else fps

        def processed(text: str, *, has_content: bool) -> Any:
            return process_segments(
                self._processor, [text] * len(segments), segments, rates, self._pixels,
                self.config.fps_shown, has_content=has_content,
            )  # fmt: skip

        batch = dict(processed(self._text, has_content=not self._frames.are_on_device))
        batch |= self._frames.decoded(segments)
        for number, text in enumerate(self._pass.whole_texts, 1):
            # The pixel values are those of the first.
            batch |= tokens_of_prompt(processed(text, has_content=False), number)
        # Cast here, in a reader's thread: the thread that runs the model has no time for it.
        return {
            name: self._pinned(value.to(self._model.dtype) if "pixel_values" in name else value)
            for name, value in batch.items()
            if isinstance(value, torch.Tensor)
        }

    @property
    def taps(self) -> tuple[Tap, ...]:
        """What there is in `all_states` beside ``hidden_states``."""
        return self._pass.taps

    def states(self, inputs: dict[str, torch.Tensor]) -> np.ndarray:
        """One forward pass: the last prompt position's state of every layer.

        Returns
        -------
        (layer, segment, feature) float32
            Equal to ``generate(max_new_tokens=1, output_hidden_states=True)``'s states of the
            first generated token.
        """
        return self.all_states(inputs)[HIDDEN_STATES]

    def all_states(self, inputs: dict[str, torch.Tensor]) -> States:
        """One forward pass: the states of every tap and prompt, ``hidden_states`` the first."""
        return self.launch(inputs)()

    @torch.inference_mode()
    def launch(self, inputs: dict[str, torch.Tensor]) -> Callable[[], States]:
        """Begin a forward pass; calling what is returned waits for its end: see `all_states`.

        On a GPU the pass only has been queued then, and the next one may be queued behind it. All
        memory that it takes has been asked for, so want of memory is raised here.
        """
        states = {
            name: taken.float().to("cpu", non_blocking=True)
            for name, taken in self._pass.run(self._frames.to_device(inputs)).items()
        }
        copied = None
        if self.device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(self.device))

        def fetch() -> States:
            if copied is not None:
                copied.synchronize()
            return {name: one.numpy() for name, one in states.items()}

        return fetch

    def _pinned(self, value: torch.Tensor) -> torch.Tensor:
        """Where the GPU can copy it from while the processor does something else."""
        try:
            is_pinned = self.device.type == "cuda" and not value.is_meta
            return value.pin_memory() if is_pinned else value
        except RuntimeError:  # no more memory can be pinned: it is copied more slowly
            return value

    def forget(self) -> None:
        """Free what a pass that ran out of memory has left."""
        self._pass.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def describe(self) -> BackboneDescription:
        """Describe the model and everything else that changes the numbers."""
        model_config = self._model.config
        provenance = {
            "model": {
                "id": self.config.model,
                "revision": getattr(model_config, "_commit_hash", None) or self.config.revision,
                **self._digests,
                "class": type(self._model).__name__,
                "dtype": str(self._model.dtype).removeprefix("torch."),
                "attention": model_config._attn_implementation,
                "load_in": self.config.load_in,
                "compile": self.config.compile,
            },
            "prompt": self.config.prompt,
            "prompt_name": self.config.prompt_name,
            "prompt_text": self._text,
            "processor": {
                "class": type(self._processor).__name__,
                "call": call_options(self._processor, self._pixels) | self._frames.recorded(),
                "video": _plain(self._processor.video_processor.to_dict()),
            },
            "frame_pixels": None if self._pixels is None else list(self._pixels),
            "fps_shown": self.config.fps_shown,
            # Major versions only: a fix of a library may arrive in the middle of a long run.
            "numerics": {
                **{name: version(name).split(".")[0] for name in NUMERIC_LIBRARIES},
                "libavcodec": str(av.library_versions["libavcodec"][0]),
            },
        }
        return BackboneDescription(
            provenance,
            self.layers,
            self.num_features,
            str(self.device),
            taps=self.taps,
            answers=self.answers,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        if not self._pass.whole_texts:
            return ()
        return (
            "prompts: this model's chat template has the text before the video, so the "
            f"{1 + len(self._pass.whole_texts)} prompts share nothing that could be computed once: "
            "each takes a whole pass. Taps at visual tokens are those of the first.",
        )


def process_segments(
    processor: Any,
    texts: Sequence[str],
    segments: Sequence[Segment],
    rates: Sequence[float],
    pixels: tuple[int, int] | None = None,
    fps_shown: float | None = None,
    *,
    has_content: bool = True,
) -> Any:
    """Make one left-padded batch of model inputs, each segment a video of its own.

    Parameters
    ----------
    processor : Transformers processor
    texts : sequence of str
        From `chat_text`, one a segment.
    segments : sequence of Segment
        Of equally many keyframes.
    rates : sequence of float
        Frames per second of each segment's video.
    pixels : (int, int), optional
        Of a frame, from `frame_pixels`.
    fps_shown : float, optional
        See `BackboneConfig`.
    has_content : bool
        Otherwise there are no pixel values, but a tensor of their shape on torch's meta device.
    """
    videos = [torch.from_numpy(segment.keyframes).permute(0, 3, 1, 2) for segment in segments]
    return processor(
        text=list(texts),
        videos=videos if has_content else [video.to("meta") for video in videos],
        video_metadata=[
            _metadata(segment, fps, fps_shown) for segment, fps in zip(segments, rates, strict=True)
        ],
        return_tensors="pt",
        padding=True,
        **call_options(processor, pixels),
        **size_options(processor, pixels, len(segments[0].keyframes)),
    )


def _metadata(segment: Segment, fps: float, fps_shown: float | None) -> dict[str, Any]:
    """Tell a processor when the keyframes were, or are to seem."""
    if fps_shown is None:
        start, stop = segment.seen
        num_frames, indices = stop - start, [*segment.frame_indices]
    else:
        fps, num_frames = fps_shown, len(segment.keyframes)
        indices = [*range(num_frames)]
    return {"total_num_frames": num_frames, "frames_indices": indices, "fps": fps}


def call_options(processor: Any, pixels: tuple[int, int] | None) -> dict[str, Any]:
    """Options of the processor's call that change the numbers; they are recorded."""
    # The keyframes are chosen already. Left padding puts the last prompt token last for every
    # segment of a batch, as `generate` needs it too.
    options = {"do_sample_frames": False, "padding_side": "left"}
    # The default of this option of Qwen's video processor is about to change: fix it.
    if hasattr(processor.video_processor, "cap_pixels_per_frame"):
        options["cap_pixels_per_frame"] = caps_pixels(processor, pixels)
    return options


def _plain(value: Any) -> Any:
    """JSON's own types only, so that provenance compares equal after a round trip."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
