"""How many segments go through the model at once, and what happens when they do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from hiprobe.extract.backbone import Backbone, States
from hiprobe.extract.devices import is_out_of_memory
from hiprobe.store import VideoError

# On a CPU, and to begin with on a GPU.
FIRST_BATCH = 8
LARGEST_BATCH = 64
# Of a GPU's memory; the rest is what its allocator cannot use.
SHARE = 0.9


class Meter(Protocol):
    """What tells how much memory the model's passes take."""

    def start(self) -> int:
        """Forget earlier peaks; return the bytes that are taken before a pass."""

    def peak(self) -> int:
        """Return the most bytes that were taken since."""

    def limit(self) -> float:
        """Return the bytes that this process may take."""


class GpuMeter:
    """Meter of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> int:
        """See `Meter`."""
        torch.cuda.reset_peak_memory_stats(self._device)
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        """See `Meter`."""
        return torch.cuda.max_memory_allocated(self._device)

    def limit(self) -> float:
        """See `Meter`."""
        free, total = torch.cuda.mem_get_info(self._device)
        of_others = total - free - torch.cuda.memory_reserved(self._device)
        return SHARE * total - of_others


class BatchSize:
    """How many segments make a batch: so many, or on a GPU as many as fit into its memory.

    A pass takes ``base + k · tokens`` bytes, where `base` is there before it: the weights. `k` is
    that of the largest pass so far, and no pass gets more than twice its tokens. A segment's tokens
    are nearly all placeholders of patches, in each family at a fixed ratio: so those of the vision
    tower are counted with them.

    Parameters
    ----------
    size : int or None
        None looks for the largest that fits on a GPU, and is 8 on a CPU.
    device : torch.device
    meter : Meter, optional
        Default: the GPU's own.

    Notes
    -----
    The thread that runs the model tells what passes took, the readers' threads ask for sizes;
    batches that they have prepared already keep theirs.
    """

    def __init__(self, size: int | None, device: torch.device, meter: Meter | None = None) -> None:
        self._size = size or FIRST_BATCH
        grows = size is None and device.type == "cuda"
        self._meter = (meter or GpuMeter(device)) if grows else None
        # Tokens of a segment, by the height and width of its frames.
        self._tokens: dict[tuple[int, int], float] = {}
        self._base, self._largest = 0, 0
        # Tokens that should fit, and those that a pass without memory has left.
        self._room, self._left = math.inf, math.inf

    def segments_for(self, frame_size: tuple[int, int]) -> int:
        """How many segments with frames of this height and width make a batch."""
        known = self._tokens.get(frame_size)
        most = self._size
        if self._meter is not None and known and self._largest:
            most = LARGEST_BATCH
        # Those of a new size are guessed by its pixels; frames may be scaled down, so at most.
        tokens = known or max(
            (tokens / math.prod(size) for size, tokens in list(self._tokens.items())), default=0.0
        ) * math.prod(frame_size)
        budget = min(self._room, self._left)
        return max(1, min(most, int(budget / tokens))) if tokens and budget < math.inf else most

    def learn(
        self, frame_size: tuple[int, int], inputs: dict[str, torch.Tensor], num_segments: int
    ) -> None:
        """Take from a prepared batch how many tokens a segment has."""
        tokens = inputs["input_ids"].numel() / num_segments
        self._tokens[frame_size] = max(tokens, self._tokens.get(frame_size, 0.0))

    def begins(self) -> None:
        """A pass begins."""
        if self._meter is not None:
            self._base = self._meter.start()

    def succeeded(self, tokens: int) -> None:
        """Learn from the largest pass what tokens take."""
        if self._meter is None or tokens < self._largest:
            return
        bytes_per_token = max(1, self._meter.peak() - self._base) / tokens
        self._largest = tokens
        self._room = min(2 * tokens, (self._meter.limit() - self._base) / bytes_per_token)

    def failed(self, tokens: int) -> None:
        """So many tokens did not fit: take at most half as many."""
        self._left = min(self._left, tokens / 2)


def launch_of_any_size(
    backbone: Backbone,
    inputs: dict[str, torch.Tensor],
    num_segments: int,
    batch_size: BatchSize,
) -> Callable[[], States]:
    """Begin the model's pass; a batch that does not fit into memory is halved until it does.

    Returns
    -------
    callable
        Waits for the end and gives (layer, segment, feature) float32 of each array.

    Raises
    ------
    VideoError
        Not even one segment fits.
    """
    tokens = inputs["input_ids"].numel()
    batch_size.begins()
    try:
        fetch = backbone.launch(inputs)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if num_segments == 1:
            raise VideoError(
                f"one segment does not fit into the memory of {backbone.device}: {error} "
                "Use fewer --keyframes, --dtype bfloat16 or --load-in 8bit."
            ) from error
    else:
        batch_size.succeeded(tokens)
        return fetch
    # Outside of `except`: until there, the error's traceback keeps the failed pass's tensors alive.
    backbone.forget()
    batch_size.failed(tokens)
    half = num_segments // 2
    halves = [
        launch_of_any_size(
            backbone,
            inputs_of_segments(inputs, num_segments, start, stop),
            stop - start,
            batch_size,
        )
        for start, stop in ((0, half), (half, num_segments))
    ]
    return lambda: _joined([fetch() for fetch in halves])


def _joined(parts: Sequence[States]) -> States:
    return {name: np.concatenate([one[name] for one in parts], axis=1) for name in parts[0]}


def inputs_of_segments(
    inputs: dict[str, torch.Tensor], num_segments: int, start: int, stop: int
) -> dict[str, torch.Tensor]:
    """Take some of a batch's segments: each has an equal part of every tensor's first dimension."""
    return {
        name: value[len(value) // num_segments * start : len(value) // num_segments * stop]
        for name, value in inputs.items()
    }
