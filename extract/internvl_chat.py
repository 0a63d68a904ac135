"""InternVL2, InternVL2.5 and Holmes-VAU as they are published, converted while loading.

On the hub they lie in the layout of their own remote code, `InternVLChatModel`, which does not run
on Transformers 5. The architecture is Transformers' InternVL with a Llama (which InternLM2 is) or
Qwen2 decoder; names differ, and packed queries, keys and values are taken apart. No remote code
runs. Source: github.com/OpenGVLab/InternVL, ``internvl_chat/internvl``: ``model`` for architecture
and configuration, ``conversation.py`` for prompts.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
)

from hiprobe.extract.internvl_tokenizer import load_tokenizer
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
# Patterns in the original names and what stands there in Transformers', for `from_pretrained`. Each
# rule goes over what the rules before it left, so `.attn.proj.` has to stand before `.attn.`.
# What both layouts name alike (`mlp.fc1`, `q_norm`, the layers of Qwen2 and Llama) has no rule.
NAMES = {
    # The decoder, InternLM2's with names of its own. Its head lies inside it in the original.
    r"^language_model\.(?:output|lm_head)\.": "lm_head.",
    r"^language_model\.model\.": "model.language_model.",
    r"\.tok_embeddings\.": ".embed_tokens.",
    r"\.attention_norm\.": ".input_layernorm.",
    r"\.ffn_norm\.": ".post_attention_layernorm.",
    r"\.attention\.wo\.": ".self_attn.o_proj.",
    r"\.feed_forward\.w1\.": ".mlp.gate_proj.",
    r"\.feed_forward\.w2\.": ".mlp.down_proj.",
    r"\.feed_forward\.w3\.": ".mlp.up_proj.",
    # The vision tower, InternViT.
    r"^vision_model\.": "model.vision_tower.",
    r"\.class_embedding": ".cls_token",
    r"\.patch_embedding\.": ".patch_embeddings.projection.",
    r"\.position_embedding": ".position_embeddings",
    r"\.encoder\.layers\.": ".encoder.layer.",
    r"\.norm1\.": ".layernorm_before.",
    r"\.norm2\.": ".layernorm_after.",
    r"\.ls1": ".lambda_1",
    r"\.ls2": ".lambda_2",
    r"\.attn\.proj\.": ".attention.projection_layer.",
    r"\.attn\.": ".attention.",
    # From vision to language; mlp1.2 is the activation.
    r"^mlp1\.0\.": "model.multi_modal_projector.layer_norm.",
    r"^mlp1\.1\.": "model.multi_modal_projector.linear_1.",
    r"^mlp1\.3\.": "model.multi_modal_projector.linear_2.",
}
PARTS = ("vision_model", "mlp1", "language_model")
HEADS = {"language_model.output.weight", "language_model.lm_head.weight"}
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
            key_mapping=NAMES,
            dtype="auto" if dtype is None else dtype,
            output_loading_info=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
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
    """Folder of the files, downloaded for a hub id; of two forms of the weights, one."""
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
    # Transformers' norms of queries and keys have this epsilon, whatever the configuration says.
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
    """Read what the vision tower is built from, filled up with the original's defaults."""
    given = config["vision_config"]
    return {name: given.get(name, default) for name, default in VISION_DEFAULTS.items()}


def _check_weights(model: str, loading: dict[str, Any]) -> None:
    """Refuse weights that `from_pretrained` would have invented, reshaped or dropped."""
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
    """Say in Transformers' words what the original configuration says.

    Parameters
    ----------
    config : dict
        The whole config.json.
    weights : dict of str to torch.Tensor
        By original names; only whether the head is among them counts.
    processor : InternVLProcessor
        Knows the image token and how many of them a frame becomes.
    folder : Path
        Of the files; in the hub's cache its name is the revision.
    """
    vision = _vision_settings(config)
    bias, qk_norm = vision.pop("qkv_bias"), vision.pop("qk_normalization")
    # A head that is stored counts, whatever the configuration says.
    tied = bool(config["llm_config"].get("tie_word_embeddings")) and not HEADS & weights.keys()
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
    # Transformers sets it when it downloads; the store records it as the model's revision.
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
    """Read all shards, packed tensors taken apart; all others stay mapped from their files.

    `from_pretrained` could read them too, but says of a damaged shard neither which it is nor that
    it is damaged.

    Returns
    -------
    weights : dict of str to torch.Tensor
    ignored : list of str
        First parts of the names that are not the model's, such as an anomaly scorer's.
    """
    weights: dict[str, torch.Tensor] = {}
    ignored = set()
    for path in weight_files(folder):
        for name, tensor in _read_shard(path).items():
            if (part := name.split(".")[0]) not in PARTS:
                ignored.add(part)
            elif not name.endswith("rotary_emb.inv_freq"):
                weights.update(_unpacked(name, tensor, llm))
    return weights, sorted(ignored)


def weight_files(folder: Path) -> list[Path]:
    """Shards or the only file; safetensors first, as Transformers does."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (index := folder / f"{name}.index.json").exists():
            return sorted({folder / shard for shard in _read_json(index)["weight_map"].values()})
        if (folder / name).exists():
            return [folder / name]
    raise OSError(f"no model.safetensors or pytorch_model.bin, whole or in shards, in {folder}")


def _read_shard(path: Path) -> dict[str, torch.Tensor]:
    """Map a shard's tensors into memory by their original names."""
    try:
        if path.suffix == ".bin":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return load_file(path)
    except (SafetensorError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error


def _unpacked(name: str, tensor: torch.Tensor, llm: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Take packed queries, keys and values apart, weights as well as biases.

    The vision tower's rows are all queries, keys, values. InternLM2's are grouped by key-value
    head: the queries that share it, its key, its value (`InternLM2Attention.forward`).

    Transformers' `WeightConverter` gives the same, in more lines: `from_pretrained` takes none;
    they are registered for the whole process, in Transformers 5.0 only by model type, in place of
    the rules for every "internvl"; and InternLM2's order needs an operation of its own.
    """
    if ".attn.qkv." in name:
        packed, native, parts = ".attn.qkv.", "attn", tensor.chunk(3)
    elif ".attention.wqkv." in name:
        num_groups = llm.get("num_key_value_heads") or llm["num_attention_heads"]
        num_rows = llm["num_attention_heads"] // num_groups + 2
        groups = tensor.unflatten(0, (num_groups, num_rows, -1))
        queries, keys, values = groups.split([num_rows - 2, 1, 1], dim=1)
        packed, native = ".attention.wqkv.", "self_attn"
        parts = tuple(part.flatten(0, 2) for part in (queries, keys, values))
    else:
        return {name: tensor}
    names = [name.replace(packed, f".{native}.{letter}_proj.") for letter in "qkv"]
    return dict(zip(names, parts, strict=True))


def _build_processor(folder: Path, config: dict[str, Any]) -> InternVLProcessor:
    """Make the processor that these repositories lack.

    A frame becomes one square image of `force_image_size`, never tiles, as in the original's
    example for videos.
    """
    vision = _vision_settings(config)
    pixels = config.get("force_image_size") or vision["image_size"]
    # The pixel shuffle makes one token of 1 / downsample_ratio² patches.
    num_tokens = (pixels // vision["patch_size"]) ** 2 * config.get("downsample_ratio", 0.5) ** 2
    size = {"height": pixels, "width": pixels}
    return InternVLProcessor(
        GotOcr2ImageProcessor(size=size, **IMAGENET),
        load_tokenizer(folder),
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
