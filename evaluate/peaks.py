"""Pictures of the score's peaks, for the report: from the store's thumbnails."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from scipy.signal import find_peaks

from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.store import FeatureStore

MAX_PEAKS, MIN_DISTANCE = 3, 4
JPEG_QUALITY = 80


def peaks(smoothed: np.ndarray) -> list[int]:
    """The segments of the highest peaks, apart from each other, in the order of time."""
    # A video's ends may be peaks too.
    padded = np.pad(smoothed, 1, constant_values=-1.0)
    found = find_peaks(padded, distance=MIN_DISTANCE)[0] - 1
    return sorted(found[np.argsort(-smoothed[found], kind="stable")][:MAX_PEAKS].tolist())


def peak_thumbnails(
    store: FeatureStore, scored: ScoredSegments
) -> dict[str, list[dict[str, Any]]] | None:
    """Take the pictures of each video's peaks from the store.

    Returns
    -------
    dict of str to list of dict, or None
        By video, ``frame``, ``score`` and ``jpeg`` (base64); None where the store has no
        thumbnails.
    """
    if store.thumbnail_size is None:
        return None
    # A store that does not say how many keyframes it has is shown at the segments' middle.
    content, keyframes = {}, store.origin.keyframes or 2
    for video_id, own in scored.of_each_video():
        smoothed = scored.smoothed[own]
        start, stop = scored.start_frame[own], scored.stop_frame[own]
        # The keyframe that is the segment's thumbnail.
        shown = start + keyframes // 2 * (stop - start) // keyframes
        chosen = peaks(smoothed)
        content[video_id] = [
            {
                "frame": int(shown[segment]),
                "score": round(float(smoothed[segment]), 4),
                "jpeg": _jpeg(picture),
            }
            for segment, picture in zip(chosen, store.thumbnails(video_id, chosen), strict=True)
        ]
    return content


def _jpeg(picture: np.ndarray) -> str:
    """Encode one (y, x, 3) uint8 picture without its black borders: base64."""
    seen = picture.max(axis=2) > 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if len(rows):
        picture = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii")
