"""Frames that go to the model's device as they were decoded, and are resized and normalised there.

A processor needs no frames to write a segment's text, only their sizes: a reader's thread gives it
frames without content (torch's meta device) and gets all inputs but the pixel values, of which it
has the shape. The thread of the model then moves the decoded frames, a byte a value, and lets the
processor's own video processor make the pixel values where they are.

The operations are the same ones, but not to the last bit: on a CPU torchvision resizes bytes with
whole numbers, and cuts to a byte between rows and columns; on a GPU it resizes floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.frame_size import size_options
from hiprobe.extract.video import Segment

FRAMES = "frames"
# Its name in what every video processor gives; processors of whole inputs may have another.
PIXEL_VALUES = "pixel_values_videos"


class DeviceFrames:
    """Makes a model's inputs of a processor's, and pixel values of decoded frames.

    Parameters
    ----------
    processor : Transformers processor
    pixels : (int, int) or None
        Of a frame, from `hiprobe.extract.frame_size.frame_pixels`.
    options : mapping
        Of the processor's call.
    config : BackboneConfig
    device : torch.device
        The model's.

    Attributes
    ----------
    are_on_device : bool
        Whether frames are to become pixel values there: on a GPU, unless `config` says otherwise.
    """

    def __init__(
        self,
        processor: Any,
        pixels: tuple[int, int] | None,
        options: Mapping[str, Any],
        config: BackboneConfig,
        device: torch.device,
    ) -> None:
        self._processor, self._pixels, self._device = processor, pixels, device
        self._options = {name: options[name] for name in options if name != "padding_side"}
        asked = config.frames_on_device
        self.are_on_device = device.type == "cuda" if asked is None else asked

    def recorded(self) -> dict[str, bool]:
        """What provenance says of it: nothing where it is as it always was."""
        return {"frames_on_device": True} if self.are_on_device else {}

    def decoded(self, segments: Sequence[Segment]) -> dict[str, torch.Tensor]:
        """What `to_device` makes pixel values of: (segment, K, height, width, 3) uint8."""
        if not self.are_on_device:
            return {}
        return {FRAMES: torch.from_numpy(np.stack([one.keyframes for one in segments]))}

    def to_device(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Move a batch to the device, and make its pixel values there if they are not made yet."""
        moved = {
            name: value if value.is_meta else value.to(self._device, non_blocking=True)
            for name, value in inputs.items()
        }
        frames = moved.pop(FRAMES, None)
        if frames is None:
            return moved
        (name,) = (name for name, value in moved.items() if value.is_meta)
        made = self._processor.video_processor(
            videos=list(frames.permute(0, 1, 4, 2, 3)),
            return_tensors="pt",
            **self._options,
            **size_options(self._processor, self._pixels, frames.shape[1]),
        )[PIXEL_VALUES]
        # InternVL's processor puts all segments' frames behind each other.
        return moved | {name: made.to(moved[name].dtype).reshape(moved[name].shape)}
