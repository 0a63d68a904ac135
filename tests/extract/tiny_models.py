"""Small random checkpoints of the native families, made offline with the real classes."""

from __future__ import annotations

from pathlib import Path

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
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from hiprobe.demo.model import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    build_random_model,
    byte_tokenizer,
)

SIZE = {"height": 56, "width": 56}
TEXT = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 56,
}
TEMPLATE = CHAT_TEMPLATE.replace("<|vision_start|><|video_pad|><|vision_end|>", "<video>\\n")


def build_internvl(folder: Path) -> Path:
    tokenizer = byte_tokenizer(
        (
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<img>",
            "</img>",
            "<IMG_CONTEXT>",
            "<video>",
        ),
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    config = InternVLConfig(
        text_config=TEXT | {"vocab_size": len(tokenizer)},
        vision_config=VISION | {"image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=SIZE),
        tokenizer,
        InternVLVideoProcessor(size=SIZE),
        image_seq_length=4,
        chat_template=TEMPLATE,
    )
    return _save(InternVLForConditionalGeneration, config, processor, folder)


def build_llava_onevision(folder: Path) -> Path:
    tokenizer = byte_tokenizer(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
    )
    config = LlavaOnevisionConfig(
        text_config=TEXT | {"vocab_size": len(tokenizer)},
        vision_config=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[56, 56]],
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=SIZE, image_grid_pinpoints=[[56, 56]]),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=SIZE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )
    return _save(LlavaOnevisionForConditionalGeneration, config, processor, folder)


def build_qwen3_vl(folder: Path) -> Path:
    tokenizer = byte_tokenizer(SPECIAL_TOKENS)
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config=(TEXT | {"vocab_size": len(tokenizer), "head_dim": 16})
        | {
            "model_type": "qwen3_vl_text",
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
    )
    size = {"shortest_edge": 64 * 64, "longest_edge": 8 * 96 * 96}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(size=size),
        tokenizer,
        Qwen3VLVideoProcessor(size=size),
        chat_template=CHAT_TEMPLATE,
    )
    return _save(Qwen3VLForConditionalGeneration, config, processor, folder)


def _save(model_class, config, processor, folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


BUILDERS = {
    "qwen2_5_vl": build_random_model,
    "internvl": build_internvl,
    "llava_onevision": build_llava_onevision,
    "qwen3_vl": build_qwen3_vl,
}
