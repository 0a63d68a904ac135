"""What `hiprobe check` shows the model: some segments of the user's videos, or made-up ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.extract.segments import SEGMENT_FRAMES, keyframe_indices, segment_ranges
from hiprobe.extract.video import Segment, SegmentReader, VideoInfo, inspect_video
from hiprobe.store import VideoError

# Segments are chosen among so many: neighbours are too much alike to be a control.
LOOKED_THROUGH = 48
MADE_UP = VideoInfo(num_frames=SEGMENT_FRAMES, fps=25.0, width=320, height=240)
SHORTEST_RUN = 4


@dataclass(frozen=True)
class Sample:
    """Some segments of a video.

    Attributes
    ----------
    name : str
        The file, or that it is made up.
    info : VideoInfo
    segments : list of Segment
    """

    name: str
    info: VideoInfo
    segments: list[Segment]


def take_samples(
    videos: Sequence[Path], segment_frames: int | None, keyframes: int, num_segments: int
) -> list[Sample]:
    """Take segments of each video, spread over its beginning; without videos, of moving patterns.

    Raises
    ------
    VideoError
        A video cannot be read.
    """
    if not videos:
        made_up = [_made_up(index, keyframes) for index in range(num_segments)]
        return [Sample("made-up patterns", MADE_UP, made_up)]
    samples = []
    for path in videos:
        info = inspect_video(path)
        ranges = segment_ranges(info.num_frames, segment_frames)[:LOOKED_THROUGH]
        wanted = {len(ranges) * one // num_segments for one in range(num_segments)}
        reader = SegmentReader(path, ranges, keyframes)
        last, segments = max(wanted), []
        for segment in reader:
            if segment.index in wanted:
                segments.append(segment)
            if segment.index == last:
                break
        if not segments:
            raise VideoError(f"{path}: no frame of it can be decoded.")
        samples.append(Sample(str(path), info, segments))
    return samples


def _made_up(seed: int, keyframes: int) -> Segment:
    """Make a segment of a coarse random pattern that moves."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (MADE_UP.height // 20, MADE_UP.width // 20, 3), dtype=np.uint8)
    picture = coarse.repeat(20, axis=0).repeat(20, axis=1)
    indices = keyframe_indices(0, SEGMENT_FRAMES, keyframes)
    frames = np.stack([np.roll(picture, 4 * (seed + 1) * index, axis=1) for index in indices])
    return Segment(seed, 0, SEGMENT_FRAMES, tuple(indices), frames)


def readable(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode tokens; a run of equal ones stands once, with its length: ``<|video_pad|>×140``."""
    parts: list[str] = []
    waiting: list[int] = []

    def flush() -> None:
        # Together: a character may be spread over several tokens.
        parts.append(tokenizer.decode(waiting, skip_special_tokens=False))
        waiting.clear()

    for token, run in groupby(ids):
        length = sum(1 for _ in run)
        if length < SHORTEST_RUN:
            waiting.extend([token] * length)
            continue
        flush()
        parts.append(f"{tokenizer.decode([token], skip_special_tokens=False)}×{length}")
    flush()
    return "".join(parts)
