"""How many segments go through the model at once, and what happens when they do not fit."""

from __future__ import annotations

import numpy as np
import torch

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.devices import is_out_of_memory
from hiprobe.store import VideoError

CPU_BATCH_SIZE = 8
LARGEST_BATCH = 64


class BatchSize:
    """How many segments make a batch.

    Parameters
    ----------
    size : int or None
        None looks for the largest that fits: on a GPU it doubles while there is room.
    device : torch.device

    Notes
    -----
    The thread that runs the model changes it, the readers' threads look at it; batches that they
    have prepared already keep their size.
    """

    def __init__(self, size: int | None, device: torch.device) -> None:
        self.size = CPU_BATCH_SIZE if size is None else size
        self._grows = size is None and device.type == "cuda"
        self._device = device

    def succeeded(self, num_segments: int) -> None:
        """Grow after a full batch, if twice the memory is there."""
        # A batch that was cut at a block's or a video's end says nothing about a full one.
        if not self._grows or num_segments < self.size:
            return
        # The peak counts the weights too, which do not double: so this errs on the safe side.
        peak = torch.cuda.max_memory_allocated(self._device)
        total = torch.cuda.get_device_properties(self._device).total_memory
        if self.size * 2 > LARGEST_BATCH or peak * 2 > 0.9 * total:
            self._grows = False
        else:
            self.size *= 2

    def failed(self, num_segments: int) -> None:
        """Halve after a batch that did not fit, and grow no more."""
        self.size, self._grows = max(1, num_segments // 2), False


def states_of_any_size(
    backbone: Backbone,
    inputs: dict[str, torch.Tensor],
    num_segments: int,
    batch_size: BatchSize,
) -> np.ndarray:
    """Run the model; a batch that does not fit into memory is halved until it does.

    Returns
    -------
    (layer, segment, feature) float32

    Raises
    ------
    VideoError
        Not even one segment fits.
    """
    try:
        states = backbone.states(inputs)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if num_segments == 1:
            raise VideoError(
                f"one segment does not fit into the memory of {backbone.device}: {error} "
                "Use fewer --keyframes, --dtype bfloat16 or --load-in 8bit."
            ) from error
    else:
        batch_size.succeeded(num_segments)
        return states
    # Outside of `except`: until there, the error's traceback keeps the failed pass's tensors alive.
    backbone.forget()
    batch_size.failed(num_segments)
    half = num_segments // 2
    return np.concatenate(
        [
            states_of_any_size(
                backbone,
                inputs_of_segments(inputs, num_segments, start, stop),
                stop - start,
                batch_size,
            )
            for start, stop in ((0, half), (half, num_segments))
        ],
        axis=1,
    )


def inputs_of_segments(
    inputs: dict[str, torch.Tensor], num_segments: int, start: int, stop: int
) -> dict[str, torch.Tensor]:
    """Take some of a batch's segments: each has an equal part of every tensor's first dimension."""
    return {
        name: value[len(value) // num_segments * start : len(value) // num_segments * stop]
        for name, value in inputs.items()
    }
