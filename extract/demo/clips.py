"""The demo's videos: which events when, rendered and encoded to MP4 with exact annotations.

Everything follows from the seed. An event's annotation is the range of frames in which it is
drawn.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import ImageDraw

from hiprobe.extract.demo.scenes import CLOTHES, EVENTS, PLACES, Canvas, background
from hiprobe.store import format_annotations, merge_ranges

NORMAL_EVENTS = ("empty", "stand", "walk", "walk_two", "talk", "car")
ANOMALOUS_EVENTS = ("fight", "fire", "fall", "crowd")
SIZES = ((160, 120), (176, 144), (192, 108), (128, 96))
RATES = (Fraction(10), Fraction(15), Fraction(25), Fraction(30000, 1001))


@dataclass(frozen=True)
class Event:
    """Something that happens in a range of frames.

    Attributes
    ----------
    kind : str
        One of `NORMAL_EVENTS` or `ANOMALOUS_EVENTS`.
    start_frame, stop_frame : int
        Half-open.
    place : str
        A key of `scenes.PLACES`.
    colour : str
        A key of `scenes.CLOTHES`: the clothes of the first person, or the car.
    """

    kind: str
    start_frame: int
    stop_frame: int
    place: str
    colour: str


@dataclass(frozen=True)
class Clip:
    """A video to be rendered.

    Attributes
    ----------
    name : str
        File name without ending.
    split : {'train', 'test'}
    label : {'normal', 'anomalous'}
    category : str
        Kind of the anomalous event; empty for a normal clip.
    width, height : int
        Pixels.
    fps : Fraction
    num_frames : int
    events : tuple of Event
    seed : int
        Of the scene, the noise and the events' details.
    """

    name: str
    split: str
    label: str
    category: str
    width: int
    height: int
    fps: Fraction
    num_frames: int
    events: tuple[Event, ...]
    seed: int

    @property
    def annotations(self) -> tuple[tuple[int, int], ...]:
        """Half-open frame ranges of the anomalous events."""
        return merge_ranges(
            (event.start_frame, event.stop_frame)
            for event in self.events
            if event.kind in ANOMALOUS_EVENTS
        )

    @property
    def folder(self) -> str:
        """Where it lies below the root: split and label or category."""
        return f"{self.split}/{self.category or 'normal'}"


def plan_clips(num_videos: int = 48, seed: int = 0) -> list[Clip]:
    """Plan the demo's clips: half for training, half of each split anomalous.

    Parameters
    ----------
    num_videos : int
        A multiple of 4.
    seed : int
        Same seed, same clips, frame by frame.
    """
    rng = np.random.default_rng(seed)
    clips = []
    for index in range(num_videos):
        split = ("train", "test")[index % 2]
        is_anomalous = index // 2 % 2 == 1
        category = ANOMALOUS_EVENTS[index // 4 % len(ANOMALOUS_EVENTS)] if is_anomalous else ""
        clips.append(_plan_clip(rng, index, split, category))
    return clips


def render_frames(clip: Clip) -> Iterator[np.ndarray]:
    """Render a clip.

    Yields
    ------
    (height, width, 3) uint8
        RGB.
    """
    rng = np.random.default_rng(clip.seed)
    scene = background(clip.width, clip.height, rng)
    painters = [
        (event, EVENTS[event.kind](rng, PLACES[event.place], CLOTHES[event.colour]))
        for event in clip.events
    ]
    noise = rng.uniform(2, 9)
    drift, phase = rng.uniform(0.0, 0.08), rng.uniform(0, 6)
    fps = float(clip.fps)
    for frame in range(clip.num_frames):
        image = scene.copy()
        canvas = Canvas(ImageDraw.Draw(image), clip.width, clip.height)
        for event, paint in painters:
            if event.start_frame <= frame < event.stop_frame:
                done = frame - event.start_frame
                paint(canvas, done / fps, done / (event.stop_frame - event.start_frame))
        brightness = 1 + drift * np.sin(0.7 * frame / fps + phase)
        grain = rng.normal(0, noise, (clip.height, clip.width, 1)).astype(np.float32)
        picture = np.asarray(image, dtype=np.float32) * brightness + grain
        yield np.clip(picture, 0, 255).astype(np.uint8)


def write_clips(
    clips: Sequence[Clip],
    root: Path,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Render and encode clips to ``root/SPLIT/CATEGORY/NAME.mp4``, with ``root/annotations.csv``.

    Parameters
    ----------
    clips : sequence of Clip
    root : Path
    on_progress : callable
        Called with the number of clips done.
    """
    for done, clip in enumerate(clips, start=1):
        folder = root / clip.folder
        folder.mkdir(parents=True, exist_ok=True)
        _encode(clip, folder / f"{clip.name}.mp4")
        on_progress(done)
    with (root / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "annotations"])
        for clip in clips:
            if clip.annotations:
                ranges = format_annotations(clip.annotations)
                writer.writerow([f"{clip.folder}/{clip.name}", ranges])


def _plan_clip(rng: np.random.Generator, index: int, split: str, category: str) -> Clip:
    num_frames = int(rng.integers(150, 421))
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    events = _normal_events(rng, num_frames)
    if category:
        length = int(num_frames * rng.uniform(0.25, 0.6))
        start = int(rng.integers(0, num_frames - length + 1))
        events.append(_event(rng, category, start, start + length))
    return Clip(
        name=f"clip-{index:03d}",
        split=split,
        label="anomalous" if category else "normal",
        category=category,
        width=width,
        height=height,
        fps=RATES[int(rng.integers(len(RATES)))],
        num_frames=num_frames,
        events=tuple(events),
        seed=int(rng.integers(2**32)),
    )


def _normal_events(rng: np.random.Generator, num_frames: int) -> list[Event]:
    """Two or three normal events, one after the other, over the whole video."""
    cuts = np.sort(rng.integers(0, num_frames, int(rng.integers(1, 3))))
    edges = [0, *(int(cut) for cut in cuts), num_frames]
    return [
        _event(rng, NORMAL_EVENTS[int(rng.integers(len(NORMAL_EVENTS)))], start, stop)
        for start, stop in itertools.pairwise(edges)
        if stop > start
    ]


def _event(rng: np.random.Generator, kind: str, start: int, stop: int) -> Event:
    places, colours = list(PLACES), list(CLOTHES)
    return Event(
        kind,
        start,
        stop,
        places[int(rng.integers(len(places)))],
        colours[int(rng.integers(len(colours)))],
    )


def _encode(clip: Clip, path: Path) -> None:
    """Write a clip under a temporary name first: a file with its name is whole."""
    partial = path.with_suffix(".partial")
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=clip.fps, options={"preset": "veryfast", "crf": "20"}
        )
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for frame in render_frames(clip):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    partial.rename(path)
