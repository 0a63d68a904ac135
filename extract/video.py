"""Reading video files with PyAV: how long they are, and their segments' keyframes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.stream import Discard

from hiprobe.extract.containers import open_video
from hiprobe.extract.segments import keyframe_indices
from hiprobe.store import VideoError

# Their index lists all frames; elsewhere the packets are counted.
CONTAINERS_WITH_AN_INDEX = ("mov", "mp4")
NUM_DECODER_THREADS = 4


@dataclass(frozen=True)
class VideoInfo:
    """What a container says about its first video stream.

    Attributes
    ----------
    num_frames : int
        From the container's index, without the frames that an edit list hides, or, where there is
        none, by counting packets.
    fps : float
        Average frames per second.
    width, height : int
        Pixels.
    """

    num_frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class Segment:
    """A segment's keyframes, ready for a processor.

    Attributes
    ----------
    index : int
        0 for the video's first segment.
    start_frame, stop_frame : int
        Half-open range; `stop_frame` lies before the planned one if the video ended early.
    frame_indices : tuple of int
        The keyframes' positions, counted from the segment's start.
    keyframes : (K, height, width, 3) uint8
        RGB.
    """

    index: int
    start_frame: int
    stop_frame: int
    frame_indices: tuple[int, ...]
    keyframes: np.ndarray


def inspect_video(path: str | Path) -> VideoInfo:
    """Read a video's length, frame rate and size without decoding it.

    Raises
    ------
    VideoError
        Missing, empty, not a video, without a video stream, or without frames.
    """
    with open_video(path) as (container, stream):
        num_frames = _count_frames(container, stream)
        rate = stream.average_rate or stream.guessed_rate
        if not num_frames:
            raise VideoError(f"{path}: the video stream has no frames.")
        if not rate:
            raise VideoError(f"{path}: no frame rate in the container. Remux it with one.")
        return VideoInfo(num_frames, float(rate), stream.width, stream.height)


def _count_frames(container: Any, stream: Any) -> int:
    if not set(container.format.name.split(",")) & set(CONTAINERS_WITH_AN_INDEX):
        return sum(1 for packet in container.demux(stream) if packet.size)
    # Going through a file whose packets are all discarded reads nothing but the rest of its index.
    for each in container.streams:
        each.discard = Discard.all
    for _ in container.demux(stream):
        pass
    return sum(not entry.is_discard for entry in stream.index_entries)


class SegmentReader:
    """Decodes a video once and yields its segments.

    Frames are given as decoded: not turned by a display matrix, fields not taken apart. A video
    that changes its size in the middle keeps that of its first frame.

    Parameters
    ----------
    path : path-like
    ranges : sequence of (int, int)
        Segments to read, from `hiprobe.extract.segments.segment_ranges`.
    num_keyframes : int
        K.
    first_segment : int
        Segments before it are decoded and left out (a resumed video).

    Attributes
    ----------
    num_decoded : int
        Frames decoded so far; the video's true length once the iteration has ended.
    num_bad_packets : int
        Packets that the decoder refused so far.
    """

    def __init__(
        self,
        path: str | Path,
        ranges: Sequence[tuple[int, int]],
        num_keyframes: int,
        first_segment: int = 0,
    ) -> None:
        self._path = path
        self._ranges = ranges
        self._num_keyframes = num_keyframes
        self._first_segment = first_segment
        self._size: dict[str, int] = {}
        self.num_decoded = 0
        self.num_bad_packets = 0

    def __iter__(self) -> Iterator[Segment]:
        with open_video(self._path) as (container, stream):
            frames = self._frames(container, stream)
            for index, (start, stop) in enumerate(self._ranges):
                segment = self._read_segment(frames, index, start, stop)
                if segment is None:
                    return
                if index >= self._first_segment:
                    yield segment
            for _ in frames:  # beyond the plan: only counted
                pass

    def _read_segment(
        self, frames: Iterator[av.VideoFrame], index: int, start: int, stop: int
    ) -> Segment | None:
        """Take a segment's frames; None when the video has ended before its first one."""
        wanted = np.array(keyframe_indices(start, stop, self._num_keyframes))
        skip = index < self._first_segment
        # Written in place: frames may be large, and a list of them beside the stack is twice that.
        keyframes = np.empty(0, dtype=np.uint8)
        last: av.VideoFrame | None = None
        position = start
        while position < stop and (frame := next(frames, None)) is not None:
            if not skip and position in wanted:
                picture = frame.to_ndarray(format="rgb24", **self._size)
                if not keyframes.size:
                    keyframes = np.empty((len(wanted), *picture.shape), dtype=np.uint8)
                keyframes[wanted == position] = picture
            last = frame
            position += 1
        if last is None:
            return None
        # The video ended inside this segment: its last frame stands for those that are missing.
        missing = wanted >= position
        if not skip and missing.any():
            keyframes[missing] = last.to_ndarray(format="rgb24", **self._size)
        kept = np.minimum(wanted, position - 1)
        return Segment(
            index=index,
            start_frame=start,
            stop_frame=position,
            frame_indices=tuple((kept - start).tolist()),
            keyframes=keyframes,
        )

    def _frames(self, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
        """Decode frame by frame; a packet that cannot be decoded is counted and skipped."""
        stream.thread_type = "AUTO"
        # A fixed number: after a damaged packet, how many frames are lost depends on it.
        stream.thread_count = NUM_DECODER_THREADS
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.MemoryError:
                raise  # no fault of the file's
            except av.error.FFmpegError:
                self.num_bad_packets += 1
                return
            if packet is None:
                return
            try:
                decoded = packet.decode()
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError:
                self.num_bad_packets += 1
                continue
            for frame in decoded:
                self._size = self._size or {"width": frame.width, "height": frame.height}
                self.num_decoded += 1
                yield frame
