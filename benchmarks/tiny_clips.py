"""The smallest real videos: moving noise, for attacks that need many files and no content."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_clip(path: Path, num_frames: int, seed: int, size: tuple[int, int] = (64, 64)) -> None:
    """Encode `num_frames` of moving noise at 25 frames per second to an MP4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 2 * index, axis=1))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
