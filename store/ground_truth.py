"""Frame-level ground truth, kept as counts per segment.

Scores are constant inside a segment, so the number of anomalous and of normal frames of each
segment says all that a frame-level metric needs. Frames are 0-based, ranges half-open, videos
have their true length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hiprobe.store.manifest import Annotations


def clip_annotations(annotations: Annotations, num_frames: int) -> tuple[Annotations, int]:
    """Clip ends that lie beyond the video; return the ranges and how many were clipped."""
    clipped = tuple(
        (start, min(stop, num_frames)) for start, stop in annotations if start < num_frames
    )
    return clipped, sum(stop > num_frames for _, stop in annotations)


def anomalous_frame_counts(
    start_frames: np.ndarray, stop_frames: np.ndarray, annotations: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Count the anomalous frames of each segment.

    Parameters
    ----------
    start_frames, stop_frames : (segment,) int
        Half-open frame ranges of the segments.
    annotations : sequence of (int, int)
        Anomalous frame ranges, half-open, not overlapping.

    Returns
    -------
    (segment,) int64
    """
    counts = np.zeros(len(start_frames), dtype=np.int64)
    for start, stop in annotations:
        overlap = np.minimum(stop_frames, stop) - np.maximum(start_frames, start)
        counts += np.maximum(overlap, 0)
    return counts
