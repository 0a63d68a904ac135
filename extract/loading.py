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

from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.internvl_chat import is_internvl_chat, load_internvl_chat
from hiprobe.store import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        # Half precision is slow on most CPUs, and saves memory where there is enough.
        dtype = "auto" if device.type == "cuda" else torch.float32
    try:
        config_file = cached_file(config.model, "config.json", revision=config.revision)
        # Published before Transformers had InternVL: their own layout and remote code, which is
        # never run; the weights are read into Transformers' class.
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
    # Transformers only warns of this, and goes on with random numbers.
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
    """Options of `from_pretrained` beyond the usual: attention, and quantised weights."""
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
