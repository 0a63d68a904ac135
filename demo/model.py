"""The demo's tiny multimodal LLM, of the real Qwen2.5-VL class: its shape, and where it lies.

Trained weights ship with hiprobe (`TRAINED_MODEL`, made by `hiprobe.demo.train`), because
a fresh machine may reach no model hub. Random weights of the same shape are the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.utils.logging import disable_progress_bar

from hiprobe.demo.captions import STYLES, caption
from hiprobe.demo.clips import plan_clips
from hiprobe.demo.questions import ACTIONS, NO, YES, question
from hiprobe.extract.backbone import DEFAULT_PROMPT
from hiprobe.extract.segments import SEGMENT_FRAMES

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
END_OF_TEXT = SPECIAL_TOKENS[0]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Below the first training seed, above every seed that is evaluated on.
TOKENIZER_SEED = 9_999
# From 2 x 2 to 3 x 3 merged tokens for two keyframes: a segment of 8 takes some two dozen.
FRAME_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 84 * 84}

TRAINED_MODEL = Path(__file__).parent / "trained"
# Open questions; nothing in the answers says whether what is seen is normal.
PROMPTS = (
    DEFAULT_PROMPT,
    "What happens in this video?",
    "Describe this video in one line.",
    "Who does what, and where?",
)
VOCABULARY = 512


def build_random_model(folder: Path, seed: int = 0) -> Path:
    """Write a model of the trained one's shape with random weights, and its processor.

    Parameters
    ----------
    folder : Path
        Loadable afterwards with ``AutoModelForImageTextToText.from_pretrained(folder)``.
    seed : int
        Same seed, same weights.
    """
    processor = new_processor()
    disable_progress_bar()
    new_model(processor.tokenizer, seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Make a Qwen2.5-VL of 2.7 M random parameters: 10 decoder layers of 128 features."""
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 10,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [8, 4, 4]},
            "initializer_range": 0.03,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_heads": 4,
            "out_hidden_size": 128,
            # One layer within windows and one across, as in the big ones.
            "fullatt_block_indexes": [1],
            "initializer_range": 0.03,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(config)


def new_processor() -> Qwen2_5_VLProcessor:
    """Make the processor; its tokenizer is trained on captions, prompts, questions and answers."""
    clips = plan_clips(200, seed=TOKENIZER_SEED)
    corpus = [
        caption(clip, start, start + SEGMENT_FRAMES, style)
        for clip in clips
        for start in range(0, clip.num_frames, SEGMENT_FRAMES)
        for style in STYLES
    ]
    corpus += [*PROMPTS, *(question([one]) for one in ACTIONS.values()), YES, NO] * 20
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=FRAME_PIXELS),
        byte_tokenizer(SPECIAL_TOKENS, corpus, VOCABULARY),
        Qwen2VLVideoProcessor(size=FRAME_PIXELS),
        chat_template=CHAT_TEMPLATE,
    )


def byte_tokenizer(
    special_tokens: tuple[str, ...],
    corpus: Sequence[str] = (DEFAULT_PROMPT,) * 4,
    vocabulary: int = 320,
    **options: object,
) -> PreTrainedTokenizerFast:
    """Make a small byte-level BPE tokenizer; the first special token pads and ends."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=special_tokens[0],
        eos_token=special_tokens[0],
        **options,
    )
