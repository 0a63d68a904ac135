"""The demo's videos: surveillance-like clips, encoded to MP4, with exact annotations.

Everything follows from seeds: the same seed gives the same frames, byte by byte, before they are
encoded. An anomalous clip's annotations are the ranges of frames in which its event is drawn.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from PIL import Image, ImageDraw

from hiprobe.demo.motions import (
    ANOMALOUS_EVENTS,
    NORMAL_EVENTS,
    Event,
    Moment,
    Part,
    event_parts,
    fire_flicker,
    fire_growth,
)
from hiprobe.demo.scenes import draw_lamp, glow_map, paint_background
from hiprobe.demo.timelines import plan_events
from hiprobe.store import format_annotations, merge_ranges

__all__ = [
    "ANOMALOUS_EVENTS",
    "NORMAL_EVENTS",
    "Clip",
    "Event",
    "Renderer",
    "plan_clips",
    "render_frames",
    "write_clips",
]

SIZES = ((160, 120), (176, 144), (192, 108), (128, 96))
RATES = (10.0, 15.0, 25.0, 30000 / 1001)
MIN_FRAMES, MAX_FRAMES = 150, 420
# Measured: with its lookahead and adaptive quantisation (every preset but this one), or with
# threads, x264 gives other bytes from run to run.
REPEATABLE_X264 = {"preset": "ultrafast", "crf": "26", "threads": "1"}
T = TypeVar("T")


@dataclass(frozen=True)
class Clip:
    """A video to be rendered.

    Attributes
    ----------
    name : str
        File name without ending; unique in its plan.
    split : {'train', 'test'}
    label : {'normal', 'anomalous'}
    category : str
        Kind of the anomalous event; empty for a normal clip.
    width, height : int
        Pixels.
    fps : float
    num_frames : int
    events : tuple of Event
        In order of their starts; they may overlap. Frames in none show the empty street.
    seed : int
        Of the scene, the noise and the events' details.
    """

    name: str
    split: str
    label: str
    category: str
    width: int
    height: int
    fps: float
    num_frames: int
    events: tuple[Event, ...]
    seed: int

    @property
    def annotations(self) -> tuple[tuple[int, int], ...]:
        """Half-open frame ranges of the anomalous events, joined where they touch."""
        return merge_ranges(
            (event.start_frame, event.stop_frame) for event in self.events if event.is_anomalous
        )

    @property
    def video_id(self) -> str:
        """Its path below the root, without the ending."""
        return f"{self.split}/{self.category or 'normal'}/{self.name}"


def plan_clips(
    num_videos: int = 60, seed: int = 0, kinds: Sequence[str] = ANOMALOUS_EVENTS
) -> list[Clip]:
    """Plan clips: half for training, half of each split anomalous, kinds in equal numbers.

    Sizes and frame rates are dealt out evenly within each split and label, so that neither
    tells the label.

    Parameters
    ----------
    num_videos : int
    seed : int
        Not negative. Clips of different seeds share no seed, up to 100 000 clips.
    kinds : sequence of str
        Anomalous events to show.
    """
    rng = np.random.default_rng(seed)
    clips: list[Clip] = []
    num_train = (num_videos + 1) // 2
    for split, count in (("train", num_train), ("test", num_videos - num_train)):
        for label, number in (("normal", (count + 1) // 2), ("anomalous", count // 2)):
            sizes, rates = _deal(SIZES, number, rng), _deal(RATES, number, rng)
            dealt = _deal(kinds if label == "anomalous" else ("",), number, rng)
            normal_kinds = iter(_deal(NORMAL_EVENTS, 3 * number, rng))
            for kind, size, fps in zip(dealt, sizes, rates, strict=True):
                num_frames = int(np.clip(rng.uniform(11, 20) * fps, MIN_FRAMES, MAX_FRAMES))
                name = f"{kind or 'normal'}-{len(clips):03d}"
                events = plan_events(
                    kind, num_frames, fps, size[1] / size[0], normal_kinds=normal_kinds, rng=rng
                )
                # Far enough apart for any number of clips that anybody plans.
                clip_seed = seed * 100_000 + len(clips)
                clips.append(
                    Clip(name, split, label, kind, *size, fps, num_frames, events, clip_seed)
                )
    return clips


class Renderer:
    """Renders a clip's frames, in any order.

    Parameters
    ----------
    clip : Clip
    """

    def __init__(self, clip: Clip) -> None:
        rng = np.random.default_rng(clip.seed)
        self._clip, self._size = clip, (clip.width, clip.height)
        self._scene = paint_background(*self._size, rng)
        self._lamp = _Lamp(self._size, rng)
        draw_lamp(ImageDraw.Draw(self._scene), self._size, self._lamp.x)
        self._phases = [rng.uniform(0, 2 * math.pi, 16) for _ in clip.events]
        self._noise = np.float32(rng.uniform(2, 10))
        self._drift = rng.uniform(0, 0.1), rng.uniform(6, 15), rng.uniform(0, 1)
        self._fires = {
            event: glow_map(self._size, event.x, event.y - 0.05, 0.2)[:, :, None]
            * np.array([1.0, 0.6, 0.25], np.float32)
            for event in clip.events
            if event.kind == "fire"
        }

    def frame(self, index: int) -> np.ndarray:
        """Render a frame: (height, width, 3) uint8, RGB."""
        clip, seconds = self._clip, index / self._clip.fps
        light = self._lamp.light(seconds)
        for event, moment in self._moments(index):
            if event in self._fires:
                strength = 60 * fire_growth(moment) * fire_flicker(moment).mean()
                light = light + np.float32(strength) * self._fires[event]
        drift, period, start = self._drift
        gain = 1 + drift * math.sin(2 * math.pi * (seconds / period + start))
        picture = np.asarray(self._drawn(index), np.float32) * np.float32(gain) + light
        # Of the frame alone, so that frames can be rendered in any order.
        rng = np.random.default_rng((clip.seed, index))
        grain = rng.standard_normal((clip.height, clip.width, 1), np.float32)
        return np.clip(picture + self._noise * grain, 0, 255).astype(np.uint8)

    def foreground(self, index: int) -> np.ndarray:
        """Tell where people, cars and flames are drawn in a frame: (height, width) bool."""
        return (np.asarray(self._drawn(index)) != np.asarray(self._scene)).any(axis=2)

    def _drawn(self, index: int) -> Image.Image:
        """Draw the scene with everything that happens in a frame, before light and noise."""
        parts: list[Part] = []
        for event, moment in self._moments(index):
            parts += event_parts(event, moment, self._size)
        image = self._scene.copy()
        draw = ImageDraw.Draw(image)
        for _, paint in sorted(parts, key=lambda part: part[0]):
            paint(draw)
        return image

    def _moments(self, index: int) -> Iterator[tuple[Event, Moment]]:
        """Go through the events that happen in a frame."""
        clip = self._clip
        for event, phases in zip(clip.events, self._phases, strict=True):
            if event.start_frame <= index < event.stop_frame:
                seconds = (index - event.start_frame) / clip.fps
                left = (event.stop_frame - index) / clip.fps
                yield event, Moment(seconds, left, clip.height / clip.width, phases)


def render_frames(clip: Clip) -> Iterator[np.ndarray]:
    """Render a clip.

    Yields
    ------
    (height, width, 3) uint8
        RGB.
    """
    renderer = Renderer(clip)
    for index in range(clip.num_frames):
        yield renderer.frame(index)


def write_clips(
    clips: Sequence[Clip],
    root: Path,
    on_progress: Callable[[int], None] = lambda num_done: None,
) -> None:
    """Render and encode clips to ``root/SPLIT/CATEGORY/NAME.mp4``, with ``root/annotations.csv``.

    Parameters
    ----------
    clips : sequence of Clip
    root : Path
        Made if it is not there; files of the same names are replaced.
    on_progress : callable
        Called after each clip with the number of clips written.
    """
    for num_done, clip in enumerate(clips, start=1):
        path = root / f"{clip.video_id}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(clip, path)
        on_progress(num_done)
    root.mkdir(parents=True, exist_ok=True)
    partial = root / "annotations.csv.partial"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "annotations"])
        for clip in clips:
            if clip.annotations:
                writer.writerow([clip.video_id, format_annotations(clip.annotations)])
    partial.replace(root / "annotations.csv")


class _Lamp:
    """A street lamp that is off, on, or flickers, whatever happens below it."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.x = rng.uniform(0.08, 0.92)
        strength = rng.choice([0.0, 40.0, 65.0]).astype(np.float32)
        self._flickers = rng.random() < 0.5
        self._phase = rng.uniform(0, 6)
        colour = np.array([1.0, 0.93, 0.75], np.float32)
        self._map = strength * glow_map(size, self.x, 0.12, 0.2)[:, :, None] * colour

    def light(self, seconds: float) -> np.ndarray:
        """Light to add, (height, width, 3) float32."""
        wave = math.sin(11 * seconds + self._phase) + math.sin(17.3 * seconds)
        return self._map * np.float32(0.25 if self._flickers and wave > 0.3 else 1.0)


def _encode(clip: Clip, path: Path) -> None:
    """Encode under a temporary name first: a file with its own name is whole."""
    partial = path.with_name(f"{path.name}.partial")
    # 1001 keeps the 30000 / 1001 of broadcasts exact.
    rate = Fraction(clip.fps).limit_denominator(1001)
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=REPEATABLE_X264)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for frame in render_frames(clip):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    partial.replace(path)


def _deal(items: Sequence[T], count: int, rng: np.random.Generator) -> list[T]:
    """Take `count` items, each as often as the others, in random order."""
    dealt: list[T] = []
    while len(dealt) < count:
        dealt += [items[index] for index in rng.permutation(len(items))]
    return dealt[:count]
