"""Pictures of the score's peaks, for the report: from the store's thumbnails."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

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


def write_thumbnails(folder: Path, store: FeatureStore, scored: ScoredSegments) -> None:
    """Write ``thumbnails.json``: by video, ``frame``, ``score`` and ``jpeg`` (base64) of its peaks.

    Without thumbnails in the store there is no such file.
    """
    path = folder / "thumbnails.json"
    if store.thumbnail_size is None:
        path.unlink(missing_ok=True)
        return
    edges = np.searchsorted(scored.video, np.arange(len(scored.videos) + 1))
    content, keyframes = {}, int(store.provenance["keyframes"])
    for index, video_id in enumerate(scored.videos.index):
        own = slice(edges[index], edges[index + 1])
        smoothed = scored.smoothed[own]
        start, stop = scored.start_frame[own], scored.stop_frame[own]
        # The keyframe that is the segment's thumbnail.
        shown = start + keyframes // 2 * (stop - start) // keyframes
        chosen = peaks(smoothed)
        content[str(video_id)] = [
            {
                "frame": int(shown[segment]),
                "score": round(float(smoothed[segment]), 4),
                "jpeg": _jpeg(picture),
            }
            for segment, picture in zip(chosen, store.thumbnails(video_id, chosen), strict=True)
        ]
    path.write_text(json.dumps(content), encoding="utf-8")


def _jpeg(picture: np.ndarray) -> str:
    """Encode without the black borders."""
    seen = picture.max(axis=2) > 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if len(rows):
        picture = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii")
