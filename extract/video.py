"""Reading video files with PyAV: how long they are, and their segments' keyframes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
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
NOWHERE = np.zeros(0, dtype=bool)


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
        The keyframes' positions, counted from the window's start.
    keyframes : (K, height, width, 3) uint8
        RGB.
    window : (int, int) or None
        The frames that keyframes are taken from, where these are not the segment's own.
    """

    index: int
    start_frame: int
    stop_frame: int
    frame_indices: tuple[int, ...]
    keyframes: np.ndarray
    window: tuple[int, int] | None = None

    @property
    def seen(self) -> tuple[int, int]:
        """Half-open range of the frames that keyframes are taken from."""
        return self.window or (self.start_frame, self.stop_frame)


class _Request:
    """A segment being read: the keyframes that there are of it so far.

    Parameters
    ----------
    index : int
    frames : (int, int)
        The segment's range.
    window : (int, int) or None
        As of `Segment`.
    num_keyframes : int
    """

    def __init__(
        self,
        index: int,
        frames: tuple[int, int],
        window: tuple[int, int] | None,
        num_keyframes: int,
    ) -> None:
        self.frames = frames
        self._index, self._window = index, window
        self.begin, seen_until = window or frames
        self.end = max(seen_until, frames[1])
        self._wanted = np.array(keyframe_indices(self.begin, seen_until, num_keyframes))
        self._chosen = {*self._wanted.tolist()}
        # Written in place: frames may be large, and a list of them beside the stack is twice that.
        self._keyframes = np.empty(0, dtype=np.uint8)

    def places(self, position: int, *, is_last: bool) -> np.ndarray:
        """Which keyframes a frame is: (K,) bool; the last one stands for all behind it."""
        if is_last:
            return self._wanted > position
        if position not in self._chosen:
            return NOWHERE
        return self._wanted == position

    def put(self, places: np.ndarray, picture: np.ndarray) -> None:
        """Keep a picture as some of the keyframes."""
        if not self._keyframes.size:
            self._keyframes = np.empty((len(self._wanted), *picture.shape), dtype=np.uint8)
        self._keyframes[places] = picture

    def ended(self, num_decoded: int) -> Segment:
        """Make the segment, of a video of which so many frames have been decoded."""
        kept, begin = np.minimum(self._wanted, num_decoded - 1), min(self.begin, num_decoded - 1)
        start, stop = self.frames
        # A narrow window may lie behind the end: the last frame is what there is of it.
        window = self._window and (begin, min(self._window[1], num_decoded))
        return Segment(
            index=self._index,
            start_frame=start,
            stop_frame=min(stop, num_decoded),
            frame_indices=tuple((kept - begin).tolist()),
            keyframes=self._keyframes,
            window=window,
        )


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

    Of windows that overlap each frame is decoded once. Memory holds the keyframes of those windows
    that are being read: K for each segment that begins within one window's length.

    Parameters
    ----------
    path : path-like
    ranges : sequence of (int, int)
        Segments to read, from `hiprobe.extract.segments.segment_ranges`.
    num_keyframes : int
        K.
    first_segment : int
        Segments before it are decoded and left out (a resumed video).
    windows : sequence of (int, int), optional
        What keyframes are taken from, for each segment; neither bound ever goes back. Default: the
        segments.

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
        windows: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self._path = path
        self._ranges = ranges
        self._num_keyframes = num_keyframes
        self._first_segment = first_segment
        self._windows = windows
        self._size: dict[str, int] = {}
        self.num_decoded = 0
        self.num_bad_packets = 0

    def __iter__(self) -> Iterator[Segment]:
        with open_video(self._path) as (container, stream):
            waiting = self._requests()
            upcoming = next(waiting, None)
            reading: deque[_Request] = deque()
            last: av.VideoFrame | None = None
            # Also beyond the plan: what is there is counted.
            for position, frame in enumerate(self._frames(container, stream)):
                last = frame
                while upcoming is not None and upcoming.begin <= position:
                    reading.append(upcoming)
                    upcoming = next(waiting, None)
                self._show(frame, position, reading)
                while reading and reading[0].end <= position + 1:
                    yield reading.popleft().ended(position + 1)
            # The video has ended inside of these: its last frame stands for those missing.
            for request in (*reading, *([upcoming] if upcoming else []), *waiting):
                if last is None or request.frames[0] >= self.num_decoded:
                    return
                self._show(last, self.num_decoded - 1, [request], is_last=True)
                yield request.ended(self.num_decoded)

    def _requests(self) -> Iterator[_Request]:
        """What is to be read, in order."""
        for index in range(self._first_segment, len(self._ranges)):
            window = None if self._windows is None else self._windows[index]
            yield _Request(index, self._ranges[index], window, self._num_keyframes)

    def _show(
        self,
        frame: av.VideoFrame,
        position: int,
        requests: Iterable[_Request],
        *,
        is_last: bool = False,
    ) -> None:
        """Give a frame to those that want it, converted once."""
        picture: np.ndarray | None = None
        for request in requests:
            places = request.places(position, is_last=is_last)
            if places.any():
                if picture is None:
                    picture = frame.to_ndarray(format="rgb24", **self._size)
                request.put(places, picture)

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
