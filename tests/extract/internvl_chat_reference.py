"""Small random checkpoints in the original InternVLChatModel layout, and the original's arithmetic.

The arithmetic is written here in plain torch on the original state dict, from the published
architecture (OpenGVLab/InternVL, `internvl_chat/internvl/model`), and shares nothing with what it
checks: no renaming, no Transformers model.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch.nn.functional import gelu, interpolate, layer_norm, linear, silu, softmax

VISION = {
    "architectures": ["InternVisionModel"],
    "model_type": "intern_vit_6b",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "hidden_act": "gelu",
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-3,
    "qkv_bias": True,
    "qk_normalization": False,
    "drop_path_rate": 0.1,
    "initializer_factor": 1.0,
    "torch_dtype": "bfloat16",
    "use_flash_attn": True,
}
LLM = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-3,
    "rope_theta": 1000000,
    "rope_scaling": {"factor": 2.0, "type": "dynamic"},
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "max_length": 20,
    "top_k": 50,
    "use_bfloat16": True,
}
INTERNLM2 = {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": False}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rope_scaling": None,
    "use_sliding_window": False,
    "sliding_window": 32768,
    "max_window_layers": 2,
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
CONFIG = {
    "architectures": ["InternVLChatModel"],
    "model_type": "internvl_chat",
    "auto_map": {
        "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
        "AutoModel": "modeling_internvl_chat.InternVLChatModel",
    },
    "downsample_ratio": 0.5,
    "force_image_size": 56,
    "ps_version": "v2",
    "select_layer": -1,
    "template": "internvl2_5",
    "torch_dtype": "float32",
    "use_llm_lora": 0,
}
ADDED = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>")


# --- checkpoints -------------------------------------------------------------------------------


def make_config(decoder: dict, vocabulary: int, *, vision=(), llm=(), **top) -> dict:
    return CONFIG | {
        "vision_config": VISION | dict(vision),
        "llm_config": LLM | decoder | {"vocab_size": vocabulary} | dict(llm),
        **top,
    }


def make_weights(config: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights by the original names; norms, layer scales and biases are random too."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator) * (0.5 / shape[-1] ** 0.5)

    def around_one(size):
        return 1 + 0.3 * torch.randn(size, generator=generator)

    weights = {}
    _add_vision(weights, config["vision_config"], random, around_one)
    vision_size = config["vision_config"]["hidden_size"] * 4
    size = config["llm_config"]["hidden_size"]
    weights |= {
        "mlp1.0.weight": around_one(vision_size),
        "mlp1.0.bias": random(vision_size),
        "mlp1.1.weight": random(size, vision_size),
        "mlp1.1.bias": random(size),
        "mlp1.3.weight": random(size, size),
        "mlp1.3.bias": random(size),
    }
    internlm2 = config["llm_config"]["architectures"] == ["InternLM2ForCausalLM"]
    add = _add_internlm2 if internlm2 else _add_plain
    add(weights, config["llm_config"], random, around_one)
    return weights


def _add_vision(weights, vision, random, around_one) -> None:
    size, patch = vision["hidden_size"], vision["patch_size"]
    num_positions = (vision["image_size"] // patch) ** 2 + 1
    start = "vision_model.embeddings."
    weights[start + "class_embedding"] = random(1, 1, size)
    weights[start + "patch_embedding.weight"] = random(size, 3, patch, patch)
    weights[start + "patch_embedding.bias"] = random(size)
    weights[start + "position_embedding"] = random(1, num_positions, size)
    for layer in range(vision["num_hidden_layers"]):
        start = f"vision_model.encoder.layers.{layer}."
        weights[start + "attn.qkv.weight"] = random(3 * size, size) * 4
        if vision["qkv_bias"]:
            weights[start + "attn.qkv.bias"] = random(3 * size)
        if vision["qk_normalization"]:
            weights[start + "attn.q_norm.weight"] = around_one(size)
            weights[start + "attn.k_norm.weight"] = around_one(size)
        weights[start + "attn.proj.weight"] = random(size, size)
        weights[start + "attn.proj.bias"] = random(size)
        weights[start + "mlp.fc1.weight"] = random(vision["intermediate_size"], size)
        weights[start + "mlp.fc1.bias"] = random(vision["intermediate_size"])
        weights[start + "mlp.fc2.weight"] = random(size, vision["intermediate_size"])
        weights[start + "mlp.fc2.bias"] = random(size)
        for norm in ("norm1", "norm2"):
            weights[start + norm + ".weight"] = around_one(size)
            if vision["norm_type"] == "layer_norm":
                weights[start + norm + ".bias"] = random(size)
        weights[start + "ls1"], weights[start + "ls2"] = around_one(size), around_one(size)


def _add_internlm2(weights, llm, random, around_one) -> None:
    size, inner, start = llm["hidden_size"], llm["intermediate_size"], "language_model.model."
    head = size // llm["num_attention_heads"]
    packed = (llm["num_attention_heads"] + 2 * llm["num_key_value_heads"]) * head
    weights[start + "tok_embeddings.weight"] = random(llm["vocab_size"], size) * 4
    weights[start + "norm.weight"] = around_one(size)
    weights["language_model.output.weight"] = random(llm["vocab_size"], size)
    for layer in range(llm["num_hidden_layers"]):
        start = f"language_model.model.layers.{layer}."
        weights[start + "attention.wqkv.weight"] = random(packed, size) * 4
        weights[start + "attention.wo.weight"] = random(size, size)
        if llm["bias"]:
            weights[start + "attention.wqkv.bias"] = random(packed)
            weights[start + "attention.wo.bias"] = random(size)
        weights[start + "feed_forward.w1.weight"] = random(inner, size)
        weights[start + "feed_forward.w2.weight"] = random(size, inner)
        weights[start + "feed_forward.w3.weight"] = random(inner, size)
        weights[start + "attention_norm.weight"] = around_one(size)
        weights[start + "ffn_norm.weight"] = around_one(size)


def _add_plain(weights, llm, random, around_one) -> None:
    size, inner, start = llm["hidden_size"], llm["intermediate_size"], "language_model.model."
    narrow = size // llm["num_attention_heads"] * llm["num_key_value_heads"]
    weights[start + "embed_tokens.weight"] = random(llm["vocab_size"], size) * 4
    weights[start + "norm.weight"] = around_one(size)
    if not llm["tie_word_embeddings"]:
        weights["language_model.lm_head.weight"] = random(llm["vocab_size"], size)
    for layer in range(llm["num_hidden_layers"]):
        start = f"language_model.model.layers.{layer}."
        for name, rows in (("q", size), ("k", narrow), ("v", narrow)):
            weights[start + f"self_attn.{name}_proj.weight"] = random(rows, size) * 4
            if llm["architectures"] == ["Qwen2ForCausalLM"]:
                weights[start + f"self_attn.{name}_proj.bias"] = random(rows)
        weights[start + "self_attn.o_proj.weight"] = random(size, size)
        weights[start + "mlp.gate_proj.weight"] = random(inner, size)
        weights[start + "mlp.up_proj.weight"] = random(inner, size)
        weights[start + "mlp.down_proj.weight"] = random(size, inner)
        weights[start + "input_layernorm.weight"] = around_one(size)
        weights[start + "post_attention_layernorm.weight"] = around_one(size)


def save_checkpoint(folder: Path, config: dict, weights: dict, form: str = "sharded") -> None:
    """Write config.json and the weights: `sharded` or `single` safetensors, or sharded `bin`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if form == "single":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    stem, suffix = ("model", "safetensors") if form == "sharded" else ("pytorch_model", "bin")
    names = sorted(weights)
    weight_map = {}
    for part in range(3):
        shard = {name: weights[name] for name in names[part::3]}
        file = f"{stem}-{part + 1:05}-of-00003.{suffix}"
        weight_map |= dict.fromkeys(shard, file)
        if form == "sharded":
            save_file(shard, folder / file, metadata={"format": "pt"})
        else:
            torch.save(shard, folder / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


# --- tokenizers --------------------------------------------------------------------------------

WORDS = ("is", "an", "th", "the", "▁is", "▁an", "▁the", "ing", "▁a", "in", "pp", "app", "▁t", "en")
# InternLM2's own last pieces are placeholders, which the repositories name <|im_end|> and so on.
PLACEHOLDERS = ("[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]")


def sentencepiece_model(*, dummy_prefix: bool = False, extra_spaces: bool = True) -> bytes:
    """Serialise a SentencePiece BPE model with byte fallback, by the published protobuf schema.

    Scores are not in the order of the ids: the merges must follow the scores.
    """
    letters = [*"abcdefghijklmnopqrstuvwxyz", "▁", "I", "?", ".", "你"]
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(word, -float(rank * 5 % len(WORDS)), 1) for rank, word in enumerate(WORDS)]
    pieces += [(letter, -100.0 - rank, 1) for rank, letter in enumerate(letters)]
    pieces += [(name, -1000.0, 4) for name in PLACEHOLDERS]
    message = b"".join(
        _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, kind))
        for text, score, kind in pieces
    )
    trainer = _field(3, 2) + _field(35, 1)
    normalizer = _field(1, b"identity") + _field(3, dummy_prefix) + _field(4, not extra_spaces)
    return message + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(int(value))


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def save_internlm2_tokenizer(folder: Path, **options: bool) -> int:
    """Write the files of an InternLM2 repository's tokenizer; return the number of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    model = sentencepiece_model(**options)
    (folder / "tokenizer.model").write_bytes(model)
    num_pieces = 3 + 256 + len(WORDS) + 31 + len(PLACEHOLDERS)
    special = {0: "<unk>", 1: "<s>", 2: "</s>", num_pieces - 2: "<|im_end|>"}
    special |= {num_pieces - 1: "<|im_start|>"}
    special |= {num_pieces + index: token for index, token in enumerate(ADDED)}
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    settings = {
        "added_tokens_decoder": {
            str(index): {"content": token, "special": True} | flags
            for index, token in special.items()
        },
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "tokenizer_class": "InternLM2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return num_pieces + len(ADDED)


def save_qwen2_tokenizer(folder: Path) -> int:
    """Write the files of a Qwen2-based repository's tokenizer; return the number of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = ["t h", "th e", "Ġ the", "i s", "Ġ is"]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(m.replace(" ", "") for m in merges)]
    added = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *ADDED)
    ids = {token: len(pieces) + index for index, token in enumerate(added)}
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    settings = {
        "added_tokens_decoder": {
            str(index): {"content": token, "special": True} | flags for token, index in ids.items()
        },
        "additional_special_tokens": list(added[1:]),
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(pieces) + len(added)


# --- the original's arithmetic -----------------------------------------------------------------


def hidden_states(weights, config, input_ids, pixel_values) -> torch.Tensor:
    """All hidden states of the language model for one prompt: (layer, token, feature).

    Index 0 is what enters the first layer, the last is after the final norm.
    """
    llm = config["llm_config"]
    internlm2 = llm["architectures"] == ["InternLM2ForCausalLM"]
    name = "tok_embeddings" if internlm2 else "embed_tokens"
    embeddings = weights[f"language_model.model.{name}.weight"][input_ids]
    image_token = llm["vocab_size"] - len(ADDED) + ADDED.index("<IMG_CONTEXT>")
    images = image_features(weights, config, pixel_values)
    embeddings[input_ids == image_token] = images.flatten(0, 1)
    return decoder_states(weights, llm, embeddings, internlm2)


def image_features(weights, config, pixels) -> torch.Tensor:
    """`InternVLChatModel.extract_feature`: (image, token, feature)."""
    vision = config["vision_config"]
    states = vision_states(weights, vision, pixels)[config["select_layer"]][:, 1:]
    side = int(states.shape[1] ** 0.5)
    grid = states.reshape(len(states), side, side, -1)
    # Pixel shuffle, version 2: each 2×2 square becomes one token, row by row.
    square = [grid[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    tokens = torch.cat(square, dim=-1).flatten(1, 2)
    part = {name: weights[f"mlp1.{name}"] for name in ("0.weight", "0.bias", "1.weight", "1.bias")}
    hidden = layer_norm(tokens, tokens.shape[-1:], part["0.weight"], part["0.bias"], 1e-5)
    hidden = gelu(linear(hidden, part["1.weight"], part["1.bias"]))
    return linear(hidden, weights["mlp1.3.weight"], weights["mlp1.3.bias"])


def vision_states(weights, vision, pixels) -> list[torch.Tensor]:
    """InternVisionModel's hidden states, index 0 being the embeddings."""
    start, patch = "vision_model.embeddings.", vision["patch_size"]
    patches = pixels.unfold(2, patch, patch).unfold(3, patch, patch)
    rows, columns = patches.shape[2:4]
    kernel = weights[start + "patch_embedding.weight"]
    hidden = torch.einsum("nchwij,ocij->nhwo", patches, kernel).flatten(1, 2)
    hidden = hidden + weights[start + "patch_embedding.bias"]
    first = weights[start + "class_embedding"].expand(len(pixels), 1, -1)
    positions = weights[start + "position_embedding"]
    side = vision["image_size"] // patch
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
    positions = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    states = [torch.cat([first, hidden], dim=1) + positions]
    for layer in range(vision["num_hidden_layers"]):
        states.append(_vision_layer(weights, vision, layer, states[-1]))
    return states


def _vision_layer(weights, vision, layer, hidden) -> torch.Tensor:
    part = _below(weights, f"vision_model.encoder.layers.{layer}.")
    eps, heads = vision["layer_norm_eps"], vision["num_attention_heads"]

    def norm(values, name):
        if vision["norm_type"] == "rms_norm":
            return _rms_norm(values, part[name + ".weight"], eps)
        return layer_norm(
            values, values.shape[-1:], part[name + ".weight"], part[name + ".bias"], eps
        )

    qkv = linear(norm(hidden, "norm1"), part["attn.qkv.weight"], part.get("attn.qkv.bias"))
    query, key, value = qkv.split(hidden.shape[-1], dim=-1)
    if vision["qk_normalization"]:
        query = _rms_norm(query, part["attn.q_norm.weight"], eps)
        key = _rms_norm(key, part["attn.k_norm.weight"], eps)
    query, key, value = (
        states.unflatten(-1, (heads, -1)).transpose(1, 2) for states in (query, key, value)
    )
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    mixed = (softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2)
    hidden = hidden + part["ls1"] * linear(mixed, part["attn.proj.weight"], part["attn.proj.bias"])
    inner = gelu(linear(norm(hidden, "norm2"), part["mlp.fc1.weight"], part["mlp.fc1.bias"]))
    return hidden + part["ls2"] * linear(inner, part["mlp.fc2.weight"], part["mlp.fc2.bias"])


def decoder_states(weights, llm, hidden, internlm2) -> torch.Tensor:
    """InternLM2's, or Qwen2's and Llama's, hidden states: (layer, token, feature)."""
    states = [hidden]
    for layer in range(llm["num_hidden_layers"]):
        part = _below(weights, f"language_model.model.layers.{layer}.")
        states.append((_internlm2_layer if internlm2 else _plain_layer)(part, llm, states[-1]))
    final = weights["language_model.model.norm.weight"]
    return torch.stack([*states[:-1], _rms_norm(states[-1], final, llm["rms_norm_eps"])])


def _internlm2_layer(part, llm, hidden) -> torch.Tensor:
    normed = _rms_norm(hidden, part["attention_norm.weight"], llm["rms_norm_eps"])
    packed = linear(normed, part["attention.wqkv.weight"], part.get("attention.wqkv.bias"))
    size = hidden.shape[-1] // llm["num_attention_heads"]
    shared = llm["num_attention_heads"] // llm["num_key_value_heads"]
    slots = packed.split(size, dim=-1)  # q, q, k, v, q, q, k, v, …
    queries, keys, values = [], [], []
    for start in range(0, len(slots), shared + 2):
        queries += slots[start : start + shared]
        keys += [slots[start + shared]] * shared
        values += [slots[start + shared + 1]] * shared
    mixed = _attend(queries, keys, values, llm)
    hidden = hidden + linear(mixed, part["attention.wo.weight"], part.get("attention.wo.bias"))
    normed = _rms_norm(hidden, part["ffn_norm.weight"], llm["rms_norm_eps"])
    gate = silu(linear(normed, part["feed_forward.w1.weight"]))
    inner = gate * linear(normed, part["feed_forward.w3.weight"])
    return hidden + linear(inner, part["feed_forward.w2.weight"])


def _plain_layer(part, llm, hidden) -> torch.Tensor:
    normed = _rms_norm(hidden, part["input_layernorm.weight"], llm["rms_norm_eps"])
    size = hidden.shape[-1] // llm["num_attention_heads"]
    shared = llm["num_attention_heads"] // llm["num_key_value_heads"]
    query, key, value = (
        linear(
            normed, part[f"self_attn.{name}_proj.weight"], part.get(f"self_attn.{name}_proj.bias")
        ).split(size, dim=-1)
        for name in "qkv"
    )
    keys = [head for head in key for _ in range(shared)]
    values = [head for head in value for _ in range(shared)]
    mixed = _attend(query, keys, values, llm)
    hidden = hidden + linear(mixed, part["self_attn.o_proj.weight"])
    normed = _rms_norm(hidden, part["post_attention_layernorm.weight"], llm["rms_norm_eps"])
    gate = silu(linear(normed, part["mlp.gate_proj.weight"]))
    inner = gate * linear(normed, part["mlp.up_proj.weight"])
    return hidden + linear(inner, part["mlp.down_proj.weight"])


def _attend(queries, keys, values, llm) -> torch.Tensor:
    """Causal attention, one head after the other, with rotary positions."""
    length, size = queries[0].shape
    allowed = torch.ones(length, length).tril().bool()
    mixed = []
    for query, key, value in zip(queries, keys, values, strict=True):
        scores = _rotate(query, llm) @ _rotate(key, llm).T / size**0.5
        mixed.append(softmax(scores.masked_fill(~allowed, -torch.inf), dim=-1) @ value)
    return torch.cat(mixed, dim=-1)


def _rotate(states, llm) -> torch.Tensor:
    """Rotary positions; beyond the trained length `dynamic` scaling stretches the base."""
    length, size = states.shape
    base, trained = float(llm["rope_theta"]), llm["max_position_embeddings"]
    if (scaling := llm["rope_scaling"]) and scaling["type"] == "dynamic" and length > trained:
        stretch = scaling["factor"] * length / trained - (scaling["factor"] - 1)
        base *= stretch ** (size / (size - 2))
    frequencies = base ** (-torch.arange(0, size, 2).double() / size)
    turns = torch.polar(
        torch.ones(length, size // 2).double(),
        torch.outer(torch.arange(length).double(), frequencies),
    )
    one, two = states.double().chunk(2, dim=-1)
    turned = torch.complex(one, two) * turns
    return torch.cat([turned.real, turned.imag], dim=-1).to(states.dtype)


def _rms_norm(values, weight, eps) -> torch.Tensor:
    return weight * values / (values.square().mean(dim=-1, keepdim=True) + eps).sqrt()


def _below(weights, prefix) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
