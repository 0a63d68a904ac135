"""A frozen multimodal LLM, and the one forward pass that gives every layer's first token.

Generic over Transformers' image/video-text-to-text models: the segment goes through the
model's own processor and chat template as a video, and the states are taken by hooks on
``language_model.layers``. No LM head, no KV cache, no full-sequence outputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import cached_file

from hiprobe.extract.internvl_chat import is_internvl_chat, load_internvl_chat
from hiprobe.extract.video import Segment
from hiprobe.store import ModelError

DEFAULT_PROMPT = "Is anything abnormal happening in this video? Describe it."
NUMERIC_LIBRARIES = ("torch", "torchvision", "transformers")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class BackboneConfig:
    """Everything about the model that changes the numbers.

    Attributes
    ----------
    model : str
        A hub id or a local folder in Transformers' layout.
    revision : str or None
        A hub revision; None is the default branch.
    prompt : str
        The text after the video in the one user message.
    layers : tuple of int or None
        Layers to keep, 0 = embedding output; None keeps all.
    dtype : {'auto', 'float32', 'bfloat16', 'float16'}
        'auto': the checkpoint's own on a GPU, float32 on a CPU.
    device : str
        'auto' (a GPU where there is one), 'cpu', 'cuda:0', …
    attention : {'auto', 'sdpa', 'flash_attention_2', 'eager'}
        Transformers' implementation; 'auto' is its own choice, SDPA where the model has it.
    load_in : {'full', '8bit', '4bit'}
        Weights quantised by bitsandbytes; needs a CUDA GPU.
    compile : bool
        ``torch.compile`` each decoder layer.
    """

    model: str
    revision: str | None = None
    prompt: str = DEFAULT_PROMPT
    layers: tuple[int, ...] | None = None
    dtype: str = "auto"
    device: str = "auto"
    attention: str = "auto"
    load_in: str = "full"
    compile: bool = False


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
    """

    provenance: dict[str, Any]
    layers: tuple[int, ...]
    num_features: int
    device: str


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
        blocks = decoder.layers = decoder.layers[: max(1, *self._layers)]
        for index in self._layers:
            if index == 0:
                blocks[0].register_forward_pre_hook(self._keep_input, with_kwargs=True)
            else:
                module = decoder.norm if index == last else blocks[index - 1]
                module.register_forward_hook(self._keep_output(index))

    def take(self) -> torch.Tensor:
        """States of the pass just made: (layer, segment, feature); forgets them."""
        states = torch.stack([self._captured[index] for index in self._layers])
        self.clear()
        return states

    def clear(self) -> None:
        """Forget the states of a pass that has failed."""
        self._captured.clear()

    def _keep_input(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self._captured[0] = hidden[:, -1].clone()

    def _keep_output(self, index: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            self._captured[index] = hidden[:, -1].clone()

        return hook


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
        self._weights_digest = weights_digest(folder)
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
        self._tap = FirstTokenTap(decoder, self.layers)
        if config.compile:
            for layer in decoder.layers:
                layer.forward = torch.compile(layer.forward)
        try:
            self._text = chat_text(processor, config.prompt)
        except ValueError as error:
            raise ModelError(
                f"{config.model}: no chat template in its processor: {error}"
            ) from error

    def prepare(self, segments: Sequence[Segment], fps: float) -> dict[str, torch.Tensor]:
        """Turn segments into model inputs in main memory, each segment a video of its own.

        Safe to call from several threads. The first dimension of every tensor is the segment, or
        divides into equal parts for the segments.

        Parameters
        ----------
        segments : sequence of Segment
            Of one video, so of one size.
        fps : float
            The video's frames per second.
        """
        texts, rates = [self._text] * len(segments), [fps] * len(segments)
        batch = process_segments(self._processor, texts, segments, rates)
        return {
            name: value.to(self._model.dtype) if "pixel_values" in name else value
            for name, value in batch.items()
            if isinstance(value, torch.Tensor)
        }

    @torch.inference_mode()
    def states(self, inputs: dict[str, torch.Tensor]) -> np.ndarray:
        """One forward pass: the last prompt position's state of every layer.

        Returns
        -------
        (layer, segment, feature) float32
            Equal to ``generate(max_new_tokens=1, output_hidden_states=True)``'s states of the
            first generated token.
        """
        on_device = {name: value.to(self.device) for name, value in inputs.items()}
        self._model(**on_device, use_cache=False)
        return self._tap.take().float().cpu().numpy()

    def forget(self) -> None:
        """Free what a pass that ran out of memory has left."""
        self._tap.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def describe(self) -> BackboneDescription:
        """Describe the model and everything else that changes the numbers."""
        model_config = self._model.config
        provenance = {
            "model": {
                "id": self.config.model,
                "revision": getattr(model_config, "_commit_hash", None) or self.config.revision,
                "weights_digest": self._weights_digest,
                "class": type(self._model).__name__,
                "dtype": str(self._model.dtype).removeprefix("torch."),
                "attention": model_config._attn_implementation,
                "load_in": self.config.load_in,
                "compile": self.config.compile,
            },
            "prompt": self.config.prompt,
            "prompt_text": self._text,
            "processor": {
                "class": type(self._processor).__name__,
                "call": _call_options(self._processor),
                "video": _plain(self._processor.video_processor.to_dict()),
            },
            # Major versions only: a fix of a library may arrive in the middle of a long run.
            "numerics": {
                **{name: version(name).split(".")[0] for name in NUMERIC_LIBRARIES},
                "libavcodec": str(av.library_versions["libavcodec"][0]),
            },
        }
        return BackboneDescription(provenance, self.layers, self.num_features, str(self.device))


def chat_text(processor: Any, prompt: str) -> str:
    """Put a video and a prompt into the processor's chat template, up to where the answer begins.

    Raises
    ------
    ValueError
        It has no chat template.
    """
    content = [{"type": "video"}, {"type": "text", "text": prompt}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


def process_segments(
    processor: Any, texts: Sequence[str], segments: Sequence[Segment], rates: Sequence[float]
) -> Any:
    """Make one left-padded batch of model inputs, each segment a video of its own.

    Parameters
    ----------
    processor : Transformers processor
    texts : sequence of str
        From `chat_text`, one a segment.
    segments : sequence of Segment
    rates : sequence of float
        Frames per second of each segment's video.
    """
    return processor(
        text=list(texts),
        videos=[torch.from_numpy(segment.keyframes).permute(0, 3, 1, 2) for segment in segments],
        video_metadata=[
            {
                "total_num_frames": segment.stop_frame - segment.start_frame,
                "frames_indices": list(segment.frame_indices),
                "fps": fps,
            }
            for segment, fps in zip(segments, rates, strict=True)
        ],
        return_tensors="pt",
        padding=True,
        **_call_options(processor),
    )


def _call_options(processor: Any) -> dict[str, Any]:
    options = {"do_sample_frames": False, "padding_side": "left"}
    # The default of this option of Qwen's video processor is about to change: fix it.
    if hasattr(processor.video_processor, "cap_pixels_per_frame"):
        options["cap_pixels_per_frame"] = True
    return options


def resolve_device(device: str) -> torch.device:
    """Read ``--device``; 'auto' is a GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"--device {device}: not a device. Use auto, cpu or cuda:0.") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"--device {device}: torch sees no CUDA GPU here. Use --device cpu.")
    return resolved


def load_model(
    config: BackboneConfig, device: torch.device, *, with_head: bool = False
) -> tuple[Any, Any, Path]:
    """Load a model, its processor, and the folder that they came from.

    Parameters
    ----------
    config : BackboneConfig
    device : torch.device
    with_head : bool
        With the LM head, to generate text; otherwise the bare model.

    Raises
    ------
    ModelError
        It is missing, of no supported kind, or lacks weights.
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    dtype: Any = DTYPES.get(config.dtype)
    if dtype is None:
        dtype = "auto" if device.type == "cuda" else torch.float32
    try:
        config_file = cached_file(config.model, "config.json", revision=config.revision)
        if is_internvl_chat(json.loads(Path(config_file).read_text(encoding="utf-8"))):
            whole, processor, folder = load_internvl_chat(
                config.model, revision=config.revision, dtype=dtype, **_load_options(config, device)
            )
            return _placed(whole if with_head else whole.model, config, device), processor, folder
        model_config = AutoConfig.from_pretrained(config.model, revision=config.revision)
        processor = AutoProcessor.from_pretrained(config.model, revision=config.revision)
        auto_class = AutoModelForImageTextToText if with_head else AutoModel
        model, loading = auto_class.from_pretrained(
            config.model,
            config=model_config,
            revision=config.revision,
            dtype=dtype,
            output_loading_info=True,
            **_load_options(config, device),
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"{config.model}: cannot load it as a Transformers model: {error}\n"
            "Give a hub id, or a folder with config.json, *.safetensors and the processor's files."
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"{config.model}: the checkpoint lacks {len(missing)} of the model's weights, for "
            f"example {missing[0]}: they would be random. Give a complete checkpoint."
        )
    if getattr(processor, "video_processor", None) is None:
        raise ModelError(f"{config.model}: {type(processor).__name__} takes no videos.")
    return _placed(model, config, device), processor, Path(config_file).parent


def _placed(model: Any, config: BackboneConfig, device: torch.device) -> Any:
    """Move the model to the device; quantised weights are there already."""
    return (model.to(device) if config.load_in == "full" else model).eval()


def _load_options(config: BackboneConfig, device: torch.device) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if config.attention != "auto":
        options["attn_implementation"] = config.attention
    if config.load_in != "full":
        if device.type != "cuda" or find_spec("bitsandbytes") is None:
            raise ModelError(
                f"--load-in {config.load_in}: needs a CUDA GPU and bitsandbytes, found device "
                f"{device}. Install bitsandbytes on the GPU machine, or leave the option out."
            )
        quantization = {f"load_in_{config.load_in}": True}
        options["quantization_config"] = transformers.BitsAndBytesConfig(**quantization)
        options["device_map"] = {"": device}
    return options


def weights_digest(folder: Path) -> str:
    """SHA-256 over the checkpoint's weight files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return "sha256:" + digest.hexdigest()


def _plain(value: Any) -> Any:
    """JSON's own types only, so that provenance compares equal after a round trip."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
