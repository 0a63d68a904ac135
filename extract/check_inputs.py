"""What `hiprobe check` shows the model: some segments of the user's videos, or made-up ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.segments import SEGMENT_FRAMES, keyframe_indices, segment_ranges
from hiprobe.extract.video import Segment, SegmentReader, VideoInfo, inspect_video
from hiprobe.store import VideoError

# Segments are chosen among so many: neighbours are too much alike to be a control.
LOOKED_THROUGH = 48
MADE_UP = VideoInfo(num_frames=SEGMENT_FRAMES, fps=25.0, width=320, height=240)
SHORTEST_RUN = 4
# Of a made-up pattern, in pixels.
CELL = 20


@dataclass(frozen=True)
class Sample:
    """Some segments of a video.

    Attributes
    ----------
    name : str
        The file, or that it is made up.
    info : VideoInfo
    segments : list of Segment
    decode_seconds : float
        That one thread took to decode a segment; 0 where nothing was decoded.
    """

    name: str
    info: VideoInfo
    segments: list[Segment]
    decode_seconds: float = 0.0


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
        return [made_up(MADE_UP, keyframes, num_segments)]
    samples = []
    for path in videos:
        info = inspect_video(path)
        ranges = segment_ranges(info.num_frames, segment_frames)[:LOOKED_THROUGH]
        wanted = {len(ranges) * one // num_segments for one in range(num_segments)}
        reader = SegmentReader(path, ranges, keyframes)
        last, segments = max(wanted), []
        started = time.perf_counter()
        for segment in reader:
            if segment.index in wanted:
                segments.append(segment)
            if segment.index == last:
                break
        if not segments:
            raise VideoError(f"{path}: no frame of it can be decoded.")
        seconds = (time.perf_counter() - started) / (segments[-1].index + 1)
        samples.append(Sample(str(path), info, segments, seconds))
    return samples


def made_up(info: VideoInfo, keyframes: int, num_segments: int) -> Sample:
    """Make segments of moving patterns, in a video's size."""
    segments = [_pattern(index, info, keyframes) for index in range(num_segments)]
    return Sample("made-up patterns", info, segments)


def num_tokens(backbone: Backbone, sample: Sample) -> int:
    """Count the tokens that a segment becomes, with its prompt."""
    inputs = backbone.prepare(sample.segments[:1], sample.info.fps)
    return int(inputs["input_ids"].shape[1])


def _pattern(seed: int, info: VideoInfo, keyframes: int) -> Segment:
    """Make a segment of a coarse random pattern that moves."""
    rng = np.random.default_rng(seed)
    rows, columns = -(-info.height // CELL), -(-info.width // CELL)
    coarse = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    picture = coarse.repeat(CELL, axis=0).repeat(CELL, axis=1)[: info.height, : info.width]
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
