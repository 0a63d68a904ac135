"""Which device the model runs on: what there is, which GPU is ours alone, and its errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from hiprobe.store import ModelError

PROC_VERSION, DEVICE_NODE = Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0")
# Models of one GPU with --share-gpu; more than fit.
MAX_SHARES = 64
GPU_ERRORS = re.compile(r"CUDA error|CUBLAS_STATUS|CUDNN_STATUS|cuDNN error|device-side assert")


class GpuError(ModelError):
    """The GPU, or its driver, has failed: this process can use it no more, a new one may."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process sees.

    Attributes
    ----------
    index : int
        As in ``cuda:INDEX``; another process may see it under another one.
    uuid, name : str
    num_bytes : int
        Of its memory.
    """

    index: int
    uuid: str
    name: str
    num_bytes: int


def resolve_device(device: str) -> torch.device:
    """Read ``--device``; 'auto' is a GPU where there is one.

    Raises
    ------
    ModelError
        No such device; or there is an NVIDIA GPU and torch cannot use it: on the CPU, a large
        model would take days without a word.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if reason := unusable_gpu():
            raise ModelError(f"--device auto: {reason}")
        return torch.device("cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"--device {device}: not a device. Use auto, cpu or cuda:0.") from error
    if resolved.type != "cuda":
        return resolved
    if not torch.cuda.is_available():
        reason = unusable_gpu() or "torch sees no CUDA GPU here. Use --device cpu."
        raise ModelError(f"--device {device}: {reason}")
    if (resolved.index or 0) >= (num_gpus := torch.cuda.device_count()):
        raise ModelError(f"--device {device}: torch sees cuda:0 to cuda:{num_gpus - 1} here.")
    return resolved


def unusable_gpu() -> str:
    """Say why the NVIDIA GPU that is here is of no use; empty where there is none."""
    # Hidden on purpose.
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return ""
    if not (driver := driver_version()):
        return ""
    try:
        torch.cuda.init()
        reason = "it finds none"
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
    return (
        f"there is an NVIDIA GPU here, driver {driver}, but {_wheel()} cannot use it: {reason}. "
        "Install a driver for this wheel, or the wheel for this driver "
        "(https://pytorch.org/get-started), or say --device cpu."
    )


def driver_version() -> str:
    """Version of NVIDIA's driver, or 'unknown'; empty where no GPU of NVIDIA is to be seen."""
    if PROC_VERSION.exists():
        found = re.search(r"Kernel Module.*?\s([0-9]+(?:\.[0-9]+)+)\s", PROC_VERSION.read_text())
        return found[1] if found else "unknown"
    if (command := shutil.which("nvidia-smi")) is not None:
        query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
        result = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)
        if result.returncode == 0 and (lines := result.stdout.split()):
            return lines[0]
    return "unknown" if DEVICE_NODE.exists() else ""


def visible_gpus() -> list[Gpu]:
    """List the GPUs that this process sees."""
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        uuid = str(getattr(properties, "uuid", index))
        found.append(Gpu(index, uuid, properties.name, properties.total_memory))
    return found


def describe_device(device: torch.device) -> str:
    """Name a device, its driver and the wheel of torch."""
    if device.type != "cuda":
        return f"{device} ({torch.get_num_threads()} threads), {_wheel()}"
    gpu = visible_gpus()[device.index or 0]
    driver = f", driver {driver_version()}" if torch.version.hip is None else ""
    return (
        f"cuda:{gpu.index} {gpu.name}, {gpu.num_bytes / 2**30:.0f} GiB, {gpu.uuid}{driver}, "
        f"{_wheel()}"
    )


def _wheel() -> str:
    toolkit = torch.version.cuda or torch.version.hip
    return f"torch {torch.__version__} ({f'CUDA {toolkit}' if toolkit else 'without CUDA'})"


class GpuClaims:
    """The GPUs on which this process has a model: locks that end with it, however it ends.

    Processes tell GPUs by their UUIDs, whatever each calls ``cuda:0``. So it does not matter who
    started them, and a worker that a nanny starts anew gets the GPU of the one that died.

    Parameters
    ----------
    folder : Path
        Of the locks; on this machine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, FileLock] = {}

    def claim(self, gpus: Sequence[Gpu], *, share: bool = False) -> Gpu:
        """Take the first GPU that nobody has, or that we have; the one of fewest with `share`.

        Raises
        ------
        ModelError
            Each has somebody's model already.
        """
        for gpu in gpus:
            if gpu.uuid in self._held:
                return gpu
        self._folder.mkdir(parents=True, exist_ok=True)
        for place in range(MAX_SHARES if share else 1):
            for gpu in gpus:
                lock = FileLock(self._folder / f"{gpu.uuid}.{place}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                self._held[gpu.uuid] = lock
                return gpu
        names = ", ".join(f"cuda:{gpu.index} {gpu.name} {gpu.uuid}" for gpu in gpus)
        raise ModelError(
            f"{names}: another process of hiprobe has its model there. Take no more --workers than "
            "GPUs, or another --device; --share-gpu lets several models share one."
        )

    def release(self) -> None:
        """Let others have them."""
        for lock in self._held.values():
            lock.release()
        self._held.clear()


claims = GpuClaims(Path(tempfile.gettempdir()) / f"hiprobe-gpus-{os.getuid()}")


def claim_device(device: str, *, share: bool) -> torch.device:
    """Read ``--device`` and claim the GPU; where several will do, begin with Slurm's for this task.

    Raises
    ------
    ModelError
        See `resolve_device` and `GpuClaims.claim`.
    """
    resolved = resolve_device(device)
    if resolved.type != "cuda":
        return resolved
    gpus = visible_gpus()
    if resolved.index is not None:
        gpus = [gpus[resolved.index]]
    gpu = claims.claim(in_turn(gpus), share=share)
    # Kernels that ask for no device go to the current one.
    torch.cuda.set_device(gpu.index)
    return torch.device("cuda", gpu.index)


def in_turn(gpus: list[Gpu]) -> list[Gpu]:
    """Begin with the GPU of this task's number among those of the node, if Slurm gives one."""
    number = os.environ.get("SLURM_LOCALID", "0")
    first = int(number) % len(gpus) if number.isdecimal() else 0
    return gpus[first:] + gpus[:first]


@contextmanager
def gpu_errors(where: str) -> Iterator[None]:
    """Turn errors of CUDA, but for want of memory, into a `GpuError`."""
    try:
        yield
    except RuntimeError as error:
        if not is_gpu_error(error):
            raise
        raise GpuError(
            f"{where}: the GPU failed: {str(error).splitlines()[0]}. What was finished is kept: "
            "the same command goes on there. If it happens again, look at `nvidia-smi -q` and "
            "`dmesg` for Xid errors, or try --attention eager or another --dtype."
        ) from error


def is_gpu_error(error: BaseException) -> bool:
    """Tell whether CUDA failed in a way after which its context may be of no use."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and GPU_ERRORS.search(str(error)) is not None
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether torch, CUDA, NumPy or FFmpeg got no memory."""
    # The CPU's allocator of torch has no error class of its own, nor have CUDA's libraries.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        text in str(error)
        for text in ("t allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    )
