"""InternVL2, InternVL2.5 and Holmes-VAU as they are published, converted while loading.

On the hub they lie in the layout of their own remote code, `InternVLChatModel`, which does not run
on Transformers 5. The architecture is Transformers' InternVL with a Llama (which InternLM2 is) or
Qwen2 decoder; names differ, and packed queries, keys and values are taken apart. No remote code
runs. Source: github.com/OpenGVLab/InternVL, ``internvl_chat/internvl``: ``model`` for architecture
and configuration, ``conversation.py`` for prompts.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections import defaultdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)

from hiprobe.store import ModelError

# What the original configuration classes assume where config.json is silent.
VISION_DEFAULTS = {
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_hidden_layers": 48,
    "num_attention_heads": 25,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-6,
    "qkv_bias": False,
    "qk_normalization": True,
}
INTERNLM2_DEFAULTS = {"vocab_size": 103168, "bias": True}  # the rest equals Llama's
TEXT_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "hidden_act", "rms_norm_eps"),
    *("max_position_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"),
    *("sliding_window", "max_window_layers", "bos_token_id", "eos_token_id", "pad_token_id"),
)
DECODERS = {
    "InternLM2ForCausalLM": "llama",
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
}
# Parts of the original names and of Transformers', replaced one after the other.
NAMES = (
    ("vision_model.", "model.vision_tower."),
    (".class_embedding", ".cls_token"),
    (".patch_embedding.", ".patch_embeddings.projection."),
    (".position_embedding", ".position_embeddings"),
    (".encoder.layers.", ".encoder.layer."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".ls1", ".lambda_1"),
    (".ls2", ".lambda_2"),
    (".attn.proj.", ".attention.projection_layer."),
    (".attn.", ".attention."),
    ("mlp1.0.", "model.multi_modal_projector.layer_norm."),
    ("mlp1.1.", "model.multi_modal_projector.linear_1."),
    ("mlp1.3.", "model.multi_modal_projector.linear_2."),
    ("language_model.output.", "lm_head."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    (".tok_embeddings.", ".embed_tokens."),
    (".attention_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
    (".attention.wqkv.", ".self_attn.wqkv."),
    (".attention.wo.", ".self_attn.o_proj."),
    (".feed_forward.w1.", ".mlp.gate_proj."),
    (".feed_forward.w2.", ".mlp.down_proj."),
    (".feed_forward.w3.", ".mlp.up_proj."),
)
PARTS = ("vision_model", "mlp1", "language_model")
# What ends a message and the system message, by the template's name.
OLD_SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
    "是一个有用无害的人工智能助手。"
)
NEW_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的"
    "多模态大语言模型。"
)
TEMPLATES = {
    "internlm2-chat": ("<|im_end|>", OLD_SYSTEM),
    "Hermes-2": ("<|im_end|>", OLD_SYSTEM),
    "internvl2_5": ("<|im_end|>\n", NEW_SYSTEM),
}
VISION_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def is_internvl_chat(config: dict[str, Any]) -> bool:
    """Tell whether a config.json is of the original layout, which `load_internvl_chat` reads."""
    architectures = config.get("architectures") or []
    return config.get("model_type") == "internvl_chat" or "InternVLChatModel" in architectures


def load_internvl_chat(
    model: str, *, revision: str | None = None, dtype: torch.dtype | None = None, **options: Any
) -> tuple[InternVLForConditionalGeneration, InternVLProcessor, Path]:
    """Load a checkpoint of the original layout as Transformers' own model and processor.

    Parameters
    ----------
    model : str
        A hub id or a local folder.
    revision : str or None
        A hub revision; None is the default branch.
    dtype : torch.dtype or None
        None is the checkpoint's own.
    **options
        For ``from_pretrained``, such as `attn_implementation` and `quantization_config`.

    Returns
    -------
    model : InternVLForConditionalGeneration
        In evaluation mode; ``.model`` is the bare one.
    processor : InternVLProcessor
    folder : Path
        Where the files lie.

    Raises
    ------
    ModelError
        It cannot be read, is of a kind that would give other numbers than the original, or its
        weights are not those that its config.json asks for.
    """
    try:
        folder = _find_folder(model, revision)
        config = _read_json(folder / "config.json")
        _check_supported(f"{model}/config.json", config)
        processor = _build_processor(folder, config)
        weights, ignored = _read_weights(folder, config["llm_config"])
        loaded, loading = InternVLForConditionalGeneration.from_pretrained(
            None,
            config=_native_config(config, weights, processor, folder),
            state_dict=weights,
            dtype="auto" if dtype is None else dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, LookupError, ImportError) as error:
        raise ModelError(
            f"{model}: cannot load it as an InternVLChatModel: {error!r}\n"
            "Give a hub id, or a folder with config.json, the weights and the tokenizer's files."
        ) from error
    _check_weights(model, loading)
    if ignored:
        warnings.warn(f"{model}: ignored the weights of {', '.join(ignored)}", stacklevel=2)
    loaded.generation_config.eos_token_id = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    loaded.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return loaded.eval(), processor, folder


def _find_folder(model: str, revision: str | None) -> Path:
    if Path(model).is_dir():
        return Path(model)
    patterns = ["*.json", "*.txt", "tokenizer.model", "*.safetensors"]
    folder = Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    if not any(folder.glob("*.safetensors")):
        snapshot_download(model, revision=revision, allow_patterns=["pytorch_model*.bin"])
    return folder


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _check_supported(where: str, config: dict[str, Any]) -> None:
    """Refuse what Transformers' InternVL would compute differently, or not at all."""
    vision = _vision_settings(config)
    qk_norm_eps = vision["layer_norm_eps"] if vision["qk_normalization"] else 1e-6
    for name, got, supported in (
        ("ps_version (the order of the pixel shuffle)", config.get("ps_version", "v1"), ["v2"]),
        ("template", config.get("template"), list(TEMPLATES)),
        ("llm_config.architectures[0]", config["llm_config"]["architectures"][0], list(DECODERS)),
        ("vision_config.norm_type", vision["norm_type"], ["layer_norm", "rms_norm"]),
        ("vision_config.layer_norm_eps with qk_normalization", qk_norm_eps, [1e-6]),
    ):
        if got not in supported:
            expected = " or ".join(map(repr, supported))
            raise ModelError(
                f"{where}: {name} is {got!r}, hiprobe reads {expected}. Use InternVL2, InternVL2.5 "
                "or Holmes-VAU, or a checkpoint that is in Transformers' own layout (…-hf)."
            )


def _vision_settings(config: dict[str, Any]) -> dict[str, Any]:
    given = config["vision_config"]
    return {name: given.get(name, default) for name, default in VISION_DEFAULTS.items()}


def _check_weights(model: str, loading: dict[str, Any]) -> None:
    mismatched = {name for name, *_ in loading["mismatched_keys"]}
    for problem, names in (
        ("lacks", loading["missing_keys"] - mismatched),
        ("has, in another shape than its config.json says,", mismatched),
        ("has, beyond what its config.json says,", loading["unexpected_keys"]),
    ):
        if names:
            raise ModelError(
                f"{model}: the checkpoint {problem} {len(names)} of the model's weights, for "
                f"example {min(names)} (Transformers' name). Give a complete checkpoint, with "
                "adapters (LoRA) merged, and its own config.json."
            )


def _native_config(
    config: dict[str, Any],
    weights: dict[str, torch.Tensor],
    processor: InternVLProcessor,
    folder: Path,
) -> InternVLConfig:
    vision = _vision_settings(config)
    bias, qk_norm = vision.pop("qkv_bias"), vision.pop("qk_normalization")
    tied = bool(config["llm_config"].get("tie_word_embeddings")) and "lm_head.weight" not in weights
    native = InternVLConfig(
        vision_config=vision | {"attention_bias": bias, "use_qk_norm": qk_norm},
        text_config=_text_config(config["llm_config"], tied),
        image_token_id=processor.image_token_id,
        image_seq_length=processor.image_seq_length,
        downsample_ratio=config.get("downsample_ratio", 0.5),
        vision_feature_layer=config.get("select_layer", -1),
        tie_word_embeddings=tied,
        dtype=config.get("torch_dtype") or config.get("dtype"),
    )
    native._commit_hash = folder.name if folder.parent.name == "snapshots" else None
    return native


def _text_config(llm: dict[str, Any], tied: bool) -> Any:
    """Native configuration of the decoder; InternLM2 is a Llama whose one bias switch is `bias`."""
    architecture = llm["architectures"][0]
    if architecture == "InternLM2ForCausalLM":
        llm = INTERNLM2_DEFAULTS | llm
        llm["attention_bias"] = llm["bias"]
    scaling = dict(llm.get("rope_scaling") or {})
    rope_type = scaling.pop("type", "default")
    rope = {"rope_type": rope_type, "rope_theta": llm.get("rope_theta", 10000.0)} | scaling
    return AutoConfig.for_model(
        DECODERS[architecture],
        **{name: llm[name] for name in TEXT_FIELDS if name in llm},
        rope_parameters=rope,
        tie_word_embeddings=tied,
    )


def _read_weights(folder: Path, llm: dict[str, Any]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Read all shards by native names; what no conversion touches stays mapped from its file.

    Returns
    -------
    weights : dict of str to torch.Tensor
    ignored : list of str
        First parts of the names that are not the model's, such as an anomaly scorer's.
    """
    weights: dict[str, torch.Tensor] = {}
    ignored = set()
    for path in _weight_files(folder):
        for name, tensor in _read_shard(path).items():
            if (part := name.split(".")[0]) not in PARTS:
                ignored.add(part)
            elif not name.endswith("rotary_emb.inv_freq"):
                weights.update(_unpacked(_native_name(name), tensor, llm))
    return weights, sorted(ignored)


def _weight_files(folder: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (index := folder / f"{name}.index.json").exists():
            return sorted({folder / shard for shard in _read_json(index)["weight_map"].values()})
        if (folder / name).exists():
            return [folder / name]
    raise OSError(f"no model.safetensors or pytorch_model.bin, whole or in shards, in {folder}")


def _read_shard(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".bin":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return load_file(path)
    except (SafetensorError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error


def _native_name(name: str) -> str:
    for original, native in NAMES:
        name = name.replace(original, native)
    return name


def _unpacked(name: str, tensor: torch.Tensor, llm: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Take packed queries, keys and values apart, weights as well as biases.

    The vision tower's rows are all queries, keys, values. InternLM2's are grouped by key-value
    head: the queries that share it, its key, its value (`InternLM2Attention.forward`).
    """
    if ".attention.qkv." in name:
        packed, parts = "qkv", tensor.chunk(3)
    elif ".self_attn.wqkv." in name:
        num_groups = llm.get("num_key_value_heads") or llm["num_attention_heads"]
        num_rows = llm["num_attention_heads"] // num_groups + 2
        groups = tensor.unflatten(0, (num_groups, num_rows, -1))
        queries, keys, values = groups.split([num_rows - 2, 1, 1], dim=1)
        packed, parts = "wqkv", tuple(part.flatten(0, 2) for part in (queries, keys, values))
    else:
        return {name: tensor}
    names = [name.replace(f".{packed}.", f".{letter}_proj.") for letter in "qkv"]
    return dict(zip(names, parts, strict=True))


def _build_processor(folder: Path, config: dict[str, Any]) -> InternVLProcessor:
    """Make the processor that these repositories lack.

    A frame becomes one square image of `force_image_size`, never tiles, as in the original's
    example for videos.
    """
    vision = _vision_settings(config)
    pixels = config.get("force_image_size") or vision["image_size"]
    num_tokens = (pixels // vision["patch_size"]) ** 2 * config.get("downsample_ratio", 0.5) ** 2
    size = {"height": pixels, "width": pixels}
    return InternVLProcessor(
        GotOcr2ImageProcessor(size=size, **IMAGENET),
        _load_tokenizer(folder),
        InternVLVideoProcessor(size=size, **IMAGENET),
        image_seq_length=int(num_tokens),
        chat_template=_chat_template(config),
    )


def _chat_template(config: dict[str, Any]) -> str:
    """Write the original's prompt (`Conversation.get_prompt`, style MPT) as a Jinja template."""
    end, system = TEMPLATES[config["template"]]
    if (stated := config.get("system_message")) is not None:
        system = stated
    end, system = json.dumps(end), json.dumps(system)
    return (
        "{% if messages[0].role != 'system' %}"
        "<|im_start|>system\n{{ " + system + " + " + end + " }}{% endif %}"
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% if message.content is string %}{{ message.content }}{% else %}"
        "{% for part in message.content %}{% if part.type == 'video' %}<video>\n"
        "{% elif part.type == 'image' %}<IMG_CONTEXT>\n{% else %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endif %}{{ " + end + " }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def _load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer and make sure that every added token has kept its id."""
    settings = _read_json(folder / "tokenizer_config.json")
    added = _added_tokens(folder, settings)
    if not settings.get("tokenizer_class", "").startswith("InternLM2"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    elif (folder / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
    else:
        start = "<s> " if settings.get("add_bos_token", True) else ""
        tokenizer = _internlm2_tokenizer(folder / "tokenizer.model", added, start)
    vocabulary = tokenizer.get_vocab()
    for index, token in added.items():
        if (got := vocabulary.get(token.content)) != index:
            raise ValueError(f"the tokenizer gives {token.content} the id {got}, not {index}")
    if missing := {"<|im_start|>", "<|im_end|>", *VISION_TOKENS.values()} - set(vocabulary):
        raise ValueError(f"the tokenizer has no token {min(missing)}")
    for name, content in VISION_TOKENS.items():
        setattr(tokenizer, name, content)
        setattr(tokenizer, f"{name}_id", vocabulary[content])
    tokenizer.video_token = "<video>"  # a placeholder in the text; it never becomes an id
    return tokenizer


def _added_tokens(folder: Path, settings: dict[str, Any]) -> dict[int, AddedToken]:
    path = folder / "added_tokens.json"
    listed = _read_json(path) if path.exists() else {}
    tokens = {
        index: AddedToken(content, normalized=False, special=True)
        for content, index in listed.items()
    }
    described = settings.get("added_tokens_decoder") or {}
    tokens |= {int(index): AddedToken(**token) for index, token in described.items()}
    return dict(sorted(tokens.items()))


def _internlm2_tokenizer(
    path: Path, added: dict[int, AddedToken], start: str
) -> PreTrainedTokenizerFast:
    """Build the repository's `InternLM2Tokenizer` from its SentencePiece model."""
    model = _protobuf(path.read_bytes())
    vocabulary, merges = _sentencepiece_bpe(model, added)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer, tokenizer.decoder = _sentencepiece_text(_protobuf(model[3][0]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}$A", pair=f"{start}$A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.add_tokens(list(added.values()))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _sentencepiece_bpe(
    model: dict[int, list[Any]], added: dict[int, AddedToken]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Read vocabulary and merges; of all pairs, the one with the best-scored result merges first.

    An added token whose id the model has already takes that piece's place: ``<|im_start|>`` is
    the model's ``[UNUSED_TOKEN_146]``.
    """
    if _protobuf(model[2][0])[3] != [2]:
        raise ValueError("tokenizer.model is no SentencePiece model of the kind BPE")
    vocabulary, scores = {}, {}
    for index, field in enumerate(map(_protobuf, model[1])):
        piece = added[index].content if index in added else field[1][0].decode()
        vocabulary[piece] = index
        if (field[3] or [1])[0] in {1, 4}:  # normal and user-defined pieces: no byte, no <s>
            scores[piece] = struct.unpack("<f", field[2][0])[0] if field[2] else 0.0
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(scores, key=lambda piece: -scores[piece])
        for cut in range(len(piece) - 1, 0, -1)
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    return vocabulary, merges


def _sentencepiece_text(spec: dict[int, list[Any]]) -> tuple[Any, Any]:
    """Make the normaliser and the decoder of a SentencePiece ``NormalizerSpec``."""
    steps: list[Any] = [normalizers.Precompiled(rules) for rules in spec[2] if rules]
    undo: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if (spec[4] or [1])[0]:  # remove_extra_whitespaces
        steps += [normalizers.Replace(Regex(r"\A +| +\z| +(?= )"), "")]
    if (spec[3] or [1])[0]:  # add_dummy_prefix
        steps.append(normalizers.Prepend("▁"))
        undo.append(decoders.Strip(" ", left=1))
    steps.append(normalizers.Replace(" ", "▁"))
    return normalizers.Sequence(steps), decoders.Sequence(undo)


def _protobuf(data: bytes) -> dict[int, list[Any]]:
    """Read a protobuf message: values by field number, integers as such, the rest as bytes."""
    fields: dict[int, list[Any]] = defaultdict(list)
    value: int | bytes
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if (kind := key & 7) == 0:
            value, at = _varint(data, at)
        else:
            size, at = ({1: 8, 5: 4}[kind], at) if kind != 2 else _varint(data, at)
            value, at = data[at : at + size], at + size
        fields[key >> 3].append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a protobuf integer: 7 bits a byte, the lowest first. Returns it and what follows."""
    value = shift = 0
    while data[at] > 127:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1
