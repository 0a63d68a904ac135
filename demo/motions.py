"""What each kind of event looks like at each moment."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import ImageDraw

from hiprobe.demo.scenes import (
    Pose,
    body_size,
    draw_car,
    draw_fire,
    draw_person,
    draw_shadow,
)

NORMAL_EVENTS = ("standing", "walking", "walking_together", "talking", "car", "empty")
ANOMALOUS_EVENTS = ("fight", "fire", "fall", "crowd", "pavement_car")
CARS = ("car", "pavement_car")
# Something to draw and how far down the picture it stands: what is nearer is drawn later.
Part = tuple[float, Callable[[ImageDraw.ImageDraw], None]]


@dataclass(frozen=True)
class Event:
    """Something that happens in a range of frames.

    Attributes
    ----------
    kind : str
        One of `NORMAL_EVENTS` or `ANOMALOUS_EVENTS`.
    start_frame, stop_frame : int
        Half-open.
    x, x_stop : float
        Where it starts and stops, in shares of the picture's width (below 0, above 1: outside).
    y : float
        Where its feet, wheels or flames stand, in shares of the picture's height.
    colours : tuple of str
        One name per person (the jacket) or car; keys of `scenes.COLOURS`.
    """

    kind: str
    start_frame: int
    stop_frame: int
    x: float
    x_stop: float
    y: float
    colours: tuple[str, ...] = ()

    @property
    def is_anomalous(self) -> bool:
        """Whether it belongs into the annotations."""
        return self.kind in ANOMALOUS_EVENTS

    @property
    def direction(self) -> str:
        """Where it goes: 'left', 'right', or '' when it stays where it is."""
        return "" if self.x == self.x_stop else "right" if self.x_stop > self.x else "left"

    @property
    def facing(self) -> int:
        """1 to the right, -1 to the left."""
        return -1 if self.direction == "left" else 1

    @property
    def place(self) -> str:
        """Where its middle is: 'left', 'middle' or 'right', after 'far' for the background."""
        side = ("left", "middle", "right")[min(2, max(0, int(1.5 * (self.x + self.x_stop))))]
        return f"far {side}" if self.y < 0.6 else side


@dataclass(frozen=True)
class Moment:
    """A frame of an event.

    Attributes
    ----------
    seconds, left : float
        Since the event's start, and until its stop.
    aspect : float
        The picture's height over its width.
    phases : (16,) float
        The event's own random numbers, 0 … 2 pi.
    """

    seconds: float
    left: float
    aspect: float
    phases: np.ndarray

    @property
    def share(self) -> float:
        """How much of the event has passed, 0 … 1."""
        return self.seconds / (self.seconds + self.left)


def event_parts(event: Event, moment: Moment, size: tuple[int, int]) -> list[Part]:
    """List what an event shows in one frame.

    Parameters
    ----------
    event : Event
    moment : Moment
    size : (int, int)
        The picture's width and height in pixels.
    """
    x, y = event.x + (event.x_stop - event.x) * moment.share, event.y
    if event.kind in CARS:
        (paint,), facing = event.colours, event.facing
        return [(y, lambda draw: draw_car(draw, size, x, y, colour=paint, facing=facing))]
    if event.kind == "fire":
        flicker, grown = fire_flicker(moment), fire_growth(moment)
        return [(y, lambda draw: draw_fire(draw, size, x, y, grown=grown, flicker=flicker))]
    poses = POSES[event.kind](event, moment) if event.kind in POSES else []
    return [(pose.y, _person_drawer(pose, size)) for pose in poses]


def pair_gap(y: float, aspect: float) -> float:
    """Half the distance of two people who face each other, as a share of the width."""
    return 0.28 * body_size(y) * aspect


def fire_growth(moment: Moment) -> float:
    """How big a fire is, 0 … 1: it grows for half its time and dies in its last second."""
    return min(1.0, 0.15 + 1.7 * moment.share) * min(1.0, 0.2 + 0.8 * moment.left)


def fire_flicker(moment: Moment) -> np.ndarray:
    """Heights of a fire's seven flames around 1, (7,)."""
    rates = 14 + 1.5 * np.cos(moment.phases[7:14])
    slow = 0.15 * np.sin(5 * moment.seconds + moment.phases[14])
    return 1 + slow + 0.3 * np.sin(rates * moment.seconds + moment.phases[:7])


def _person_drawer(pose: Pose, size: tuple[int, int]) -> Callable[[ImageDraw.ImageDraw], None]:
    def draw_both(draw: ImageDraw.ImageDraw) -> None:
        draw_shadow(draw, size, pose)
        draw_person(draw, size, pose)

    return draw_both


def _stand(event: Event, moment: Moment) -> list[Pose]:
    # The sixth power makes the hand rise briefly and seldom, as when somebody looks at a watch.
    sway = 0.04 * math.sin(1.4 * moment.seconds + moment.phases[0])
    reach = 0.7 * max(0.0, math.sin(0.8 * moment.seconds + moment.phases[1])) ** 6
    (colour,) = event.colours
    return [Pose(event.x, event.y, colour, event.facing, lean=sway, reach=reach)]


def _walk(event: Event, moment: Moment) -> list[Pose]:
    """One person or two side by side; the legs keep time with the way they have gone."""
    scale = body_size(event.y) * moment.aspect
    way = (event.x_stop - event.x) * moment.share
    poses = []
    for index, colour in enumerate(event.colours):
        x = event.x + way - index * event.facing * 0.45 * scale
        stride = 2 * math.pi * abs(way) / scale / 0.85 + moment.phases[index]
        y = event.y - 0.02 * index
        poses.append(Pose(x, y, colour, event.facing, stride, swing=1.0, lean=0.04))
    return poses


def _talk(event: Event, moment: Moment) -> list[Pose]:
    gap = pair_gap(event.y, moment.aspect)
    poses = []
    # A hand rises now and then, and shakes while it is up.
    for side, colour, phase in zip((-1, 1), event.colours, moment.phases, strict=False):
        gesture = max(0.0, math.sin(1.1 * moment.seconds + phase)) ** 3
        reach = gesture * (0.5 + 0.25 * math.sin(7 * moment.seconds))
        lean = 0.03 * math.sin(1.6 * moment.seconds + 2 * phase)
        poses.append(Pose(event.x + side * gap, event.y, colour, -side, lean=lean, reach=reach))
    return poses


def _fight(event: Event, moment: Moment) -> list[Pose]:
    """Two people punch and push; at its start and stop they stand as if they talked."""
    fury = min(1.0, 0.2 + 2 * moment.seconds, 0.2 + 2 * moment.left)
    scale = body_size(event.y) * moment.aspect
    drift = 0.35 * scale * math.sin(1.1 * moment.seconds) * fury
    poses = []
    for index, pose in enumerate(_talk(event, moment)):
        phase, punch_phase, rate = moment.phases[3 * index : 3 * index + 3]
        jerk = math.sin((10 + rate / 2) * moment.seconds + phase)
        punch = math.sin((13 + rate / 2) * moment.seconds + punch_phase)
        x = event.x - 0.8 * (event.x - pose.x) + drift - pose.facing * 0.13 * scale * jerk * fury
        poses.append(
            replace(
                pose,
                x=x,
                y=pose.y + 0.012 * fury * math.sin(7 * moment.seconds + phase),
                stride=9 * moment.seconds + phase,
                swing=0.9 * fury,
                lean=fury * (0.12 + 0.3 * jerk),
                reach=fury * (0.6 + 0.6 * punch),
            )
        )
    return poses


def _fall(event: Event, moment: Moment) -> list[Pose]:
    """One person stumbles, lies, and gets up in the event's last second."""
    fallen = min(1.0, moment.seconds / 0.6)
    x = event.x + (event.x_stop - event.x) * fallen
    lean = math.pi / 2 * min(fallen**2, moment.left / 0.9)
    (colour,) = event.colours
    stride = 8 * min(moment.seconds, 0.6) + moment.phases[0]
    twitch = 0.3 + 0.3 * math.sin(1.2 * moment.seconds + moment.phases[1])
    return [Pose(x, event.y, colour, event.facing, stride, 0.7, lean, reach=fallen * twitch)]


def _run(event: Event, moment: Moment) -> list[Pose]:
    """People run through the picture one after the other; somebody is always in it."""
    length = moment.seconds + moment.left
    crossing = min(0.7 * length, 2.2)
    last = len(event.colours) - 1
    poses = []
    for index, colour in enumerate(event.colours):
        done = (moment.seconds - (length - crossing) * index / last) / crossing
        depth = 0.25 * math.sin(moment.phases[index]) if 0 < index < last else 0.25
        if not 0 <= done <= 1:
            continue
        y = event.y - 0.25 + depth
        way = (event.x_stop - event.x) * done
        stride = 2 * math.pi * abs(way) / (body_size(y) * moment.aspect) / 1.5
        stride += moment.phases[index]
        poses.append(
            Pose(event.x + way, y, colour, event.facing, stride, swing=1.5, lean=0.25, reach=0.4)
        )
    return poses


POSES: dict[str, Callable[[Event, Moment], list[Pose]]] = {
    "standing": _stand,
    "walking": _walk,
    "walking_together": _walk,
    "talking": _talk,
    "fight": _fight,
    "fall": _fall,
    "crowd": _run,
}
