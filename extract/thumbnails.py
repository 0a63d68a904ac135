"""Small pictures of segments, kept in the store for people to look at; no model sees them."""

from __future__ import annotations

import numpy as np
from PIL import Image

THUMBNAIL_SIZE = (72, 128)


def make_thumbnail(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink or enlarge a picture to `size`, its aspect kept, centred on black.

    Parameters
    ----------
    picture : (height, width, 3) uint8
        RGB.
    size : (int, int)
        Height and width in pixels.

    Returns
    -------
    (size[0], size[1], 3) uint8
    """
    height, width = picture.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    fitted = max(1, round(width * scale)), max(1, round(height * scale))
    thumbnail = Image.new("RGB", size[::-1])
    corner = (size[1] - fitted[0]) // 2, (size[0] - fitted[1]) // 2
    thumbnail.paste(Image.fromarray(picture).resize(fitted), corner)
    return np.asarray(thumbnail)
