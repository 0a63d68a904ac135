"""The four published shapes with random weights: what a card has to bear, without the checkpoints.

Shapes are those of the published config.json files, sizes of frames those of the published
preprocessors; the tokenizers are small, for no hub can be reached, and the embeddings have all
rows. InternVL2.5 and Holmes-VAU are written in Transformers' own layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from hiprobe.demo.model import CHAT_TEMPLATE, SPECIAL_TOKENS, byte_tokenizer

PLAIN_TEMPLATE = CHAT_TEMPLATE.replace("<|vision_start|><|video_pad|><|vision_end|>", "<video>\n")
INTERNVL_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
INTERN_VIT_300M = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": [448, 448],
    "patch_size": [14, 14],
    "attention_bias": True,
}
INTERNLM2 = {
    "model_type": "llama",
    "vocab_size": 92553,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
}
# What a rehearsal takes instead: everything is done, with next to nothing.
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TINY_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@dataclass(frozen=True)
class Shape:
    """A published model's shape.

    Attributes
    ----------
    name : str
    model_class : type
        Transformers'.
    config : callable
        Of (tokenizer, whether it is a tiny one) → Transformers' configuration.
    processor : callable
        Of (tokenizer) → Transformers' processor.
    tokens : tuple of str
        Special tokens of its tokenizer.
    options : dict
        Further ones of the tokenizer.
    """

    name: str
    model_class: Any
    config: Callable[[Any, bool], Any]
    processor: Callable[[Any], Any]
    tokens: tuple[str, ...]
    options: dict[str, Any]

    def build(self, device: torch.device, dtype: torch.dtype, *, tiny: bool = False) -> Any:
        """Make the model with random weights on the device; on ``meta`` it takes no memory."""
        previous = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with device:
                torch.manual_seed(0)
                return self.model_class(self.config(self.tokenizer(), tiny)).to(dtype)
        finally:
            torch.set_default_dtype(previous)

    def save(self, folder: Path, device: torch.device, dtype: torch.dtype, *, tiny: bool) -> None:
        """Write a folder that `hiprobe extract --model` loads."""
        self.build(device, dtype, tiny=tiny).save_pretrained(folder)
        self.processor(self.tokenizer()).save_pretrained(folder)

    def tokenizer(self) -> Any:
        """Make its tokenizer, of bytes."""
        return byte_tokenizer(self.tokens, **self.options)


def _ids() -> dict[str, int]:
    return {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def _internvl(text: dict[str, Any]) -> Callable[[Any, bool], InternVLConfig]:
    def config(tokenizer: Any, tiny: bool) -> InternVLConfig:
        return InternVLConfig(
            text_config=text | _ids() | (TINY if tiny else {}),
            vision_config=INTERN_VIT_300M | (TINY_VISION if tiny else {}),
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=256,
            tie_word_embeddings=False,
        )

    return config


def _internvl_processor(tokenizer: Any) -> InternVLProcessor:
    size = {"height": 448, "width": 448}
    return InternVLProcessor(
        GotOcr2ImageProcessor(size=size),
        tokenizer,
        InternVLVideoProcessor(size=size),
        image_seq_length=256,
        chat_template=PLAIN_TEMPLATE,
    )


def _qwen(tokenizer: Any, tiny: bool) -> Qwen2_5_VLConfig:
    token_id = tokenizer.convert_tokens_to_ids
    sections = [4, 2, 2] if tiny else [16, 24, 24]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    small = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
             "out_hidden_size": 64, "fullatt_block_indexes": [1]}  # fmt: skip
    return Qwen2_5_VLConfig(
        text_config=QWEN2_7B
        | _ids()
        | {"vocab_size": 152064, "rope_parameters": rope}
        | (TINY if tiny else {}),
        vision_config=vision | (small if tiny else {}),
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def _qwen_processor(tokenizer: Any) -> Qwen2_5_VLProcessor:
    size = {"shortest_edge": 3136, "longest_edge": 12845056}
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=size),
        tokenizer,
        Qwen2VLVideoProcessor(size=size),
        chat_template=CHAT_TEMPLATE,
    )


def _llava(tokenizer: Any, tiny: bool) -> LlavaOnevisionConfig:
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 26,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    }
    return LlavaOnevisionConfig(
        text_config=QWEN2_7B
        | _ids()
        | {"model_type": "qwen2", "vocab_size": 152000}
        | (TINY if tiny else {}),
        vision_config=vision | (TINY_VISION if tiny else {}),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[384, 384]],
        tie_word_embeddings=False,
    )


def _llava_processor(tokenizer: Any) -> LlavaOnevisionProcessor:
    size = {"height": 384, "width": 384}
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[384, 384]]),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        chat_template=PLAIN_TEMPLATE,
    )


_INTERNVL_OPTIONS = {
    "extra_special_tokens": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
}


def _of_internvl(name: str, text: dict[str, Any]) -> Shape:
    model_class, processor = InternVLForConditionalGeneration, _internvl_processor
    tokens = (*SPECIAL_TOKENS[:3], *INTERNVL_TOKENS)
    return Shape(name, model_class, _internvl(text), processor, tokens, _INTERNVL_OPTIONS)


# The smallest first: what is wrong everywhere is seen there soonest.
SHAPES = (
    _of_internvl(
        "Holmes-VAU-2B",
        INTERNLM2
        | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
           "num_attention_heads": 16},
    ),
    Shape("Qwen2.5-VL-7B", Qwen2_5_VLForConditionalGeneration, _qwen, _qwen_processor,
          SPECIAL_TOKENS, {}),
    _of_internvl(
        "InternVL2.5-8B",
        INTERNLM2
        | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32},
    ),
    Shape("LLaVA-OneVision-7B", LlavaOnevisionForConditionalGeneration, _llava, _llava_processor,
          (*SPECIAL_TOKENS[:3], "<image>", "<video>"), {}),
)  # fmt: skip
