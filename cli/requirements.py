"""What a command needs that the CPU-only install leaves out."""

from __future__ import annotations

from importlib.util import find_spec

from hiprobe.store.errors import HiProbeError


def require_extract() -> None:
    """Fail with the install command if the libraries of the GPU job are missing."""
    _require("torch", "torchvision", "transformers", "av")


def require_video() -> None:
    """Fail with the install command if the video decoder is missing."""
    _require("av")


def _require(*modules: str) -> None:
    if missing := [name for name in modules if find_spec(name) is None]:
        raise HiProbeError(
            f"this command needs {', '.join(missing)}, which the CPU-only install leaves out. "
            "Install them with: pip install 'hiprobe[extract]'"
        )
