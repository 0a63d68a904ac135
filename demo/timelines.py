"""Which events a clip shows, when, and where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hiprobe.demo.motions import Event, pair_gap
from hiprobe.demo.scenes import COLOURS, ROAD, body_size

# How long a person needs from the picture's edge to where something happens.
APPROACH_SECONDS = 1.8
MIN_EVENT_SECONDS = 2.5
OUTSIDE = 0.15
STATIONARY = ("standing", "talking", "fight", "fall")


@dataclass(frozen=True)
class _Stage:
    """What all events of a clip share."""

    num_frames: int
    fps: float
    aspect: float
    rng: np.random.Generator

    def frames(self, seconds: float) -> int:
        return round(seconds * self.fps)

    def colours(self, count: int) -> tuple[str, ...]:
        return tuple(str(name) for name in self.rng.permutation(list(COLOURS))[:count])

    def side(self) -> int:
        return 1 if self.rng.random() < 0.5 else -1


def plan_events(
    kind: str,
    num_frames: int,
    fps: float,
    aspect: float,
    *,
    normal_kinds: Iterator[str],
    rng: np.random.Generator,
) -> tuple[Event, ...]:
    """Plan a clip's events.

    Parameters
    ----------
    kind : str
        The anomalous event; '' for a normal clip of two or three normal events in sequence.
    num_frames : int
    fps : float
    aspect : float
        The picture's height over its width.
    normal_kinds : iterator of str
        Normal events to take from; up to three are taken.
    rng : Generator

    Returns
    -------
    tuple of Event
        In order of their starts. People who stand, talk, fight or fall come and go by events
        of their own (of kind 'walking'), unless the video starts or stops with theirs.
    """
    stage = _Stage(num_frames, fps, aspect, rng)
    if kind:
        events = _anomalous_timeline(stage, kind, normal_kinds)
    else:
        weights = rng.uniform(0.8, 1.2, rng.integers(2, 4))
        cuts = [round(num_frames * cut) for cut in np.cumsum(weights) / weights.sum()]
        events = []
        for start, stop in zip([0, *cuts], cuts, strict=False):
            events += _happen(stage, next(normal_kinds), start, stop)
    return tuple(sorted(events, key=lambda event: (event.start_frame, event.stop_frame)))


def _anomalous_timeline(stage: _Stage, kind: str, normal_kinds: Iterator[str]) -> list[Event]:
    """Put the anomaly somewhere, normal events before, after and sometimes beside it."""
    rng, num_frames = stage.rng, stage.num_frames
    length = round(num_frames * rng.uniform(0.26, 0.4 if kind == "crowd" else 0.59))
    margin = stage.frames(APPROACH_SECONDS)
    places = [0, num_frames - length, *rng.integers(margin, num_frames - length - margin, 8)]
    start = int(rng.choice(places))
    stop = start + length
    events = _happen(stage, kind, start, stop)
    slots = [(0, start), (stop, num_frames)] + [(start, stop)] * int(rng.integers(2))
    for slot_start, slot_stop in slots:
        if slot_stop - slot_start >= stage.frames(MIN_EVENT_SECONDS):
            events += _happen(stage, next(normal_kinds), slot_start, slot_stop)
    return events


def _happen(stage: _Stage, kind: str, start: int, stop: int) -> list[Event]:
    """Make one event within a range of frames, with those of people coming and going."""
    if kind in STATIONARY:
        return _stay(stage, kind, start, stop)
    if kind in ("walking", "walking_together"):
        return [_cross(stage, kind, start, stop)]
    if kind == "car":
        return [_drive(stage, start, stop)]
    y = stage.rng.uniform(0.78, 0.9)
    if kind == "crowd":
        side, colours = stage.side(), stage.colours(int(stage.rng.integers(6, 10)))
        return [Event(kind, start, stop, 0.5 - 0.53 * side, 0.5 + 0.53 * side, y, colours)]
    if kind == "pavement_car":
        # From one edge to the other, its nose in the picture all the time.
        side, y = stage.side(), stage.rng.uniform(0.74, 0.86)
        reach = 0.5 + body_size(y) * stage.aspect
        return [
            Event(kind, start, stop, 0.5 - reach * side, 0.5 + reach * side, y, stage.colours(1))
        ]
    x = stage.rng.uniform(0.2, 0.8)
    return [Event(kind, start, stop, x, x, y)]


def _stay(stage: _Stage, kind: str, start: int, stop: int) -> list[Event]:
    """Let one person or two do something in one place, and come and go on foot."""
    rng = stage.rng
    x, y = rng.uniform(0.2, 0.8), rng.uniform(0.7, 0.92)
    if kind in ("standing", "fall"):
        side, colours = stage.side(), stage.colours(1)
        # However short, the way tells which side a standing person faces.
        stumble = 0.05 * side if kind == "fall" else 0.001 * side
        event = Event(kind, start, stop, x, x + stumble, y, colours)
        # Of each person: from outside to the place, and from there outside again.
        ways = [(0.5 - side * (0.5 + OUTSIDE), x, x + stumble, 0.5 + side * (0.5 + OUTSIDE))]
    else:
        gap = pair_gap(y, stage.aspect) * (0.8 if kind == "fight" else 1.0)
        event = Event(kind, start, stop, x, x, y, stage.colours(2))
        ways = [
            (-OUTSIDE, x - gap, x - gap, -OUTSIDE),
            (1 + OUTSIDE, x + gap, x + gap, 1 + OUTSIDE),
        ]
    events = [event]
    for colour, (begin, first, last, end) in zip(event.colours, ways, strict=True):
        before = start - stage.frames(APPROACH_SECONDS)
        after = stop + stage.frames(APPROACH_SECONDS)
        if start > 0:
            events.append(Event("walking", max(0, before), start, begin, first, y, (colour,)))
        if stop < stage.num_frames:
            gone = min(after, stage.num_frames)
            events.append(Event("walking", stop, gone, last, end, y, (colour,)))
    return events


def _cross(stage: _Stage, kind: str, start: int, stop: int) -> Event:
    """One person or two walk from edge to edge, at a walking pace where the time allows."""
    rng = stage.rng
    y = rng.uniform(0.5, 0.54) if rng.random() < 0.25 else rng.uniform(0.7, 0.93)
    natural = (1 + 2 * OUTSIDE) / stage.aspect / body_size(y) * rng.uniform(0.7, 1.0)
    start, stop = _part(stage, start, stop, natural)
    side, colours = stage.side(), stage.colours(2 if kind == "walking_together" else 1)
    x = 0.5 - side * (0.5 + OUTSIDE)
    return Event(kind, start, stop, x, 1 - x, y, colours)


def _drive(stage: _Stage, start: int, stop: int) -> Event:
    start, stop = _part(stage, start, stop, stage.rng.uniform(2.0, 4.0))
    x, y = 0.5 - stage.side() * 0.75, stage.rng.uniform(ROAD[0] + 0.05, ROAD[1])
    return Event("car", start, stop, x, 1 - x, y, stage.colours(1))


def _part(stage: _Stage, start: int, stop: int, seconds: float) -> tuple[int, int]:
    """Take a part of a range, so many seconds long or all of it."""
    length = min(stop - start, stage.frames(seconds))
    first = int(stage.rng.integers(start, stop - length + 1))
    return first, first + length
