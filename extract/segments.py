"""Cutting a video into segments, and choosing the keyframes that the model sees."""

from __future__ import annotations

# The paper's.
SEGMENT_FRAMES = 24
NUM_KEYFRAMES = 8


def segment_ranges(num_frames: int, segment_frames: int | None) -> list[tuple[int, int]]:
    """Cut `num_frames` frames into segments.

    Parameters
    ----------
    num_frames : int
        The video's frames, in decode order.
    segment_frames : int or None
        Frames of a segment (the paper: 24); None makes the whole video one segment.

    Returns
    -------
    list of (int, int)
        Half-open frame ranges; the last may be shorter.
    """
    step = segment_frames or max(num_frames, 1)
    return [(start, min(start + step, num_frames)) for start in range(0, num_frames, step)]


def keyframe_indices(start_frame: int, stop_frame: int, num_keyframes: int) -> list[int]:
    """Frames at a fixed interval: ``start + floor(i * length / K)``, i = 0 … K-1.

    A segment shorter than K repeats frames.
    """
    length = stop_frame - start_frame
    return [start_frame + i * length // num_keyframes for i in range(num_keyframes)]
