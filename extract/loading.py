"""Loading a model: its folder or hub id → the Transformers model, its processor, its digest."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import cached_file

from hiprobe.extract.chat_template import chat_text
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.devices import is_out_of_memory, resolve_device
from hiprobe.extract.internvl_chat import is_internvl_chat, load_internvl_chat
from hiprobe.extract.quantised import TORCHAO, check_torchao, quantise
from hiprobe.extract.vision_windows import batch_windows
from hiprobe.store import ModelError

__all__ = [
    "DTYPES",
    "files_digest",
    "load_model",
    "prompt_text",
    "resolve_device",
    "weights_digest",
]

BITSANDBYTES = ("8bit", "4bit")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CONFIGURATION_FILES = (
    *("config.json", "processor_config.json", "preprocessor_config.json"),
    *("video_preprocessor_config.json", "chat_template.json", "chat_template.jinja"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
VOCABULARY_FILES = ("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")


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
        It is missing, of no supported kind, or lacks weights; or cannot be quantised here.
    """
    check_torchao(config, device)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    dtype: Any = DTYPES.get(config.dtype)
    if dtype is None:
        # Half precision is slow on most CPUs, and saves memory where there is enough.
        dtype = "auto" if device.type == "cuda" else torch.float32
    try:
        return _load(config, device, dtype, with_head)
    except ModelError:
        raise
    # A folder that is damaged or made to harm lets Transformers, tokenizers and safetensors raise
    # just anything. None of it is worth a traceback: it is the folder that is wrong.
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelError(_too_large(config, device, error)) from error
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{config.model}: needs code of its own (auto_map), which hiprobe never runs. Give "
                "a checkpoint in Transformers' own layout (…-hf)."
            ) from error
        raise ModelError(
            f"{config.model}: cannot load it as a Transformers model: {type(error).__name__}: "
            f"{error}\nGive a hub id, or a folder with config.json, *.safetensors and the "
            "processor's files."
        ) from error


def _load(
    config: BackboneConfig, device: torch.device, dtype: Any, with_head: bool
) -> tuple[Any, Any, Path]:
    """Load model and processor; what goes wrong is raised as it comes."""
    # Said each time: where nothing is said, Transformers asks on the terminal, and with "y" on
    # standard input a model folder's own code would run.
    source = {"revision": config.revision, "trust_remote_code": False}
    config_file = cached_file(config.model, "config.json", revision=config.revision)
    # Published before Transformers had InternVL: their own layout and remote code, which is
    # never run; the weights are read into Transformers' class.
    settings = json.loads(Path(config_file).read_text(encoding="utf-8"))
    if is_internvl_chat(settings):
        if dtype == "auto":
            dtype = _auto_dtype(settings.get("dtype") or settings.get("torch_dtype"))
        whole, processor, folder = load_internvl_chat(
            config.model, revision=config.revision, dtype=dtype, **_load_options(config, device)
        )
        return _placed(whole if with_head else whole.model, config, device), processor, folder
    model_config = AutoConfig.from_pretrained(config.model, **source)
    if dtype == "auto":
        dtype = _auto_dtype(model_config.dtype)
    processor = AutoProcessor.from_pretrained(config.model, **source)
    auto_class = AutoModelForImageTextToText if with_head else AutoModel
    model, loading = auto_class.from_pretrained(
        config.model,
        config=model_config,
        dtype=dtype,
        output_loading_info=True,
        weights_only=True,
        **source,
        **_load_options(config, device),
    )
    # Transformers only warns of this, and goes on with random numbers.
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"{config.model}: the checkpoint lacks {len(missing)} of the model's weights, for "
            f"example {missing[0]}: they would be random. Give a complete checkpoint."
        )
    if getattr(processor, "video_processor", None) is None:
        raise ModelError(f"{config.model}: {type(processor).__name__} takes no videos.")
    return _placed(model, config, device), processor, Path(config_file).parent


def _auto_dtype(own: Any) -> Any:
    """The checkpoint's own dtype; bfloat16 for float16 where the GPU has it, for it overflows less.

    What it has become is recorded as the model's dtype.
    """
    is_half = str(own).removeprefix("torch.") == "float16"
    has_bfloat16 = is_half and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else "auto"


def _too_large(config: BackboneConfig, device: torch.device, error: Exception) -> str:
    """Say that the weights do not fit, and what takes less."""
    room = ""
    if device.type == "cuda":
        free, total = (count / 2**30 for count in torch.cuda.mem_get_info(device))
        room = f" ({total:.1f} GiB, {free:.1f} of them free now)"
    return (
        f"{config.model}: its weights do not fit into the memory of {device}{room}: "
        f"{str(error).splitlines()[0]} End what else runs there, take --dtype bfloat16, fewer "
        "--layers, --load-in int8, 8bit or 4bit, or a smaller model."
    )


def prompt_text(config: BackboneConfig, processor: Any) -> str:
    """Put the prompt into the model's chat template.

    Raises
    ------
    ModelError
        It has none, or one that is broken, forbidden, or does not end; or the tokenizer knows
        nothing of what it gives.
    """
    try:
        text = chat_text(processor, config.prompt, keep_wrapped=config.keep_wrapped)
        # Without its files, Transformers makes an empty one, without a word.
        if set(processor.tokenizer(text)["input_ids"]) <= {processor.tokenizer.unk_token_id}:
            raise ValueError("the tokenizer knows nothing of it; its files are missing")
        return text
    except ValueError as error:
        raise ModelError(
            f"{config.model}: its chat template cannot be used: {error}. Give a model with a chat "
            "template for videos."
        ) from error


def _placed(model: Any, config: BackboneConfig, device: torch.device) -> Any:
    """Move the model to the device; weights that bitsandbytes has quantised are there already."""
    batch_windows(model)
    if config.load_in in TORCHAO:
        quantise(model, config, device)
    return (model if config.load_in in BITSANDBYTES else model.to(device)).eval()


def _load_options(config: BackboneConfig, device: torch.device) -> dict[str, Any]:
    """Options of `from_pretrained` beyond the usual: attention, and quantised weights."""
    options: dict[str, Any] = {}
    if config.attention != "auto":
        options["attn_implementation"] = config.attention
    if config.load_in in BITSANDBYTES:
        missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
        if device.type != "cuda" or missing:
            raise ModelError(
                f"--load-in {config.load_in}: needs a CUDA GPU and bitsandbytes and accelerate, "
                f"found device {device}"
                + (f" and no {' and no '.join(missing)}" if missing else "")
                + ". `pip install bitsandbytes accelerate` on the GPU machine, or leave the option "
                "out: it saves memory, not time."
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


def files_digest(folder: Path) -> str:
    """SHA-256 over names and contents of what decides the states beside the weights.

    Configuration, processor, tokenizer and chat template; not how the model generates text.
    """
    names: tuple[str, ...] = CONFIGURATION_FILES
    # Where it is, the others are not read; the hub's cache may have them or not.
    names += ("tokenizer.json",) if (folder / "tokenizer.json").exists() else VOCABULARY_FILES
    digest = hashlib.sha256()
    for path in sorted([*(folder / name for name in names), *folder.glob("*/*.jinja")]):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return "sha256:" + digest.hexdigest()
