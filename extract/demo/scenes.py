"""Drawing surveillance-like pictures: a fixed scene, people, a car, a fire.

Coordinates are shares of the picture (0 … 1 to the right and downwards). People further down
are nearer and larger. Everything moves as a function of seconds, so that a clip's look does not
depend on its frame rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
# What an event draws: called with the canvas, seconds since its start, and its share done.
Painter = Callable[["Canvas", float, float], None]

CLOTHES: dict[str, Colour] = {
    "red": (170, 50, 45),
    "blue": (50, 75, 160),
    "green": (55, 120, 65),
    "yellow": (190, 165, 60),
    "white": (205, 205, 200),
    "black": (40, 40, 45),
}
PLACES = {"left": 0.25, "middle": 0.5, "right": 0.75}
SKIN: Colour = (190, 150, 125)


@dataclass(frozen=True)
class Canvas:
    """A picture to draw on, in shares of its size."""

    draw: ImageDraw.ImageDraw
    width: int
    height: int

    def line(self, points: list[tuple[float, float]], colour: Colour, thickness: float) -> None:
        """Draw a polyline; `thickness` is a share of the height."""
        self.draw.line(
            [(x * self.width, y * self.height) for x, y in points],
            fill=colour,
            width=max(1, round(thickness * self.height)),
        )

    def ellipse(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Draw a circle; `radius` is a share of the height."""
        centre_x, centre_y, size = x * self.width, y * self.height, radius * self.height
        self.draw.ellipse(
            (centre_x - size, centre_y - size, centre_x + size, centre_y + size), fill=colour
        )

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Draw a filled rectangle."""
        self.draw.rectangle(
            (x0 * self.width, y0 * self.height, x1 * self.width, y1 * self.height), fill=colour
        )


def background(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Paint a scene without people: wall or sky, ground, a door, some boxes, a lamp post."""
    wall = rng.integers(100, 170) + rng.integers(-18, 19, 3)
    ground = rng.integers(65, 125) + rng.integers(-14, 15, 3)
    horizon = int(height * rng.uniform(0.32, 0.45))
    picture = np.empty((height, width, 3))
    picture[:horizon] = wall
    shade = np.linspace(0.75, 1.15, height - horizon)[:, None, None]
    picture[horizon:] = ground * shade
    picture += rng.normal(0, 5, (height, width, 1))
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    canvas = Canvas(ImageDraw.Draw(image), width, height)
    top = horizon / height
    for _ in range(int(rng.integers(2, 5))):
        x, w, h = rng.uniform(0, 0.9), rng.uniform(0.05, 0.14), rng.uniform(0.08, 0.2)
        canvas.box(x, top - h, x + w, top + 0.02, _colour(rng.integers(40, 200, 3)))
    post = rng.uniform(0.1, 0.9)
    canvas.line([(post, 0.05), (post, top + 0.05)], (60, 60, 60), 0.015)
    return image


def person(
    canvas: Canvas,
    x: float,
    y: float,
    clothes: Colour,
    stride: float = 0.0,
    lean: float = 0.0,
    reach: float = 0.0,
) -> None:
    """Draw one person.

    Parameters
    ----------
    canvas : Canvas
    x, y : float
        Where the feet are.
    clothes : Colour
    stride : float
        Phase of the walk in radians; 0 stands.
    lean : float
        Radians from upright; pi/2 lies on the ground.
    reach : float
        How far the arms are stretched forwards (1, -1), or hang (0).
    """
    size = 0.13 + 0.22 * y
    aspect = canvas.height / canvas.width
    up = (math.sin(lean) * aspect, -math.cos(lean))
    along = (math.cos(lean) * aspect, math.sin(lean))

    def at(height: float, side: float = 0.0) -> tuple[float, float]:
        return (
            x + size * (height * up[0] + side * along[0]),
            y + size * (height * up[1] + side * along[1]),
        )

    swing = 0.16 * math.sin(stride)
    trousers = _colour(np.array(clothes) * 0.5)
    for side in (swing, -swing):
        canvas.line([at(0.0, side), at(0.45)], trousers, 0.09 * size)
        hand = at(0.6, 0.35 * reach) if reach else at(0.42, -side)
        canvas.line([at(0.78), hand], clothes, 0.06 * size)
    canvas.line([at(0.42), at(0.82)], clothes, 0.22 * size)
    canvas.ellipse(*at(0.93), 0.1 * size, SKIN)


def stand(rng: np.random.Generator, place: float, colour: Colour) -> Painter:
    """One person stands and sways a little."""
    y, phase = rng.uniform(0.6, 0.9), rng.uniform(0, 6)

    def paint(canvas: Canvas, seconds: float, share: float) -> None:
        person(canvas, place, y, colour, lean=0.04 * math.sin(1.5 * seconds + phase))

    return paint


def walk(rng: np.random.Generator, place: float, colour: Colour) -> Painter:
    """One person walks through the picture."""
    y, direction, speed = rng.uniform(0.55, 0.9), rng.choice([-1, 1]), rng.uniform(0.12, 0.22)

    def paint(canvas: Canvas, seconds: float, share: float) -> None:
        x = (place + direction * speed * seconds) % 1.2 - 0.1
        person(canvas, x, y, colour, stride=6 * seconds)

    return paint


def walk_two(rng: np.random.Generator, place: float, colour: Colour) -> Painter:
    """Two people walk, each their own way."""
    one, two = walk(rng, place, colour), walk(rng, place + 0.3, _other(rng, colour))
    return _together(one, two)


def talk(rng: np.random.Generator, place: float, colour: Colour) -> Painter:
    """Two people stand face to face; now and then one moves an arm."""
    y, other = rng.uniform(0.6, 0.9), _other(rng, colour)

    def paint(canvas: Canvas, seconds: float, share: float) -> None:
        gesture = max(0.0, math.sin(1.3 * seconds)) ** 4
        person(canvas, place - 0.06, y, colour, reach=gesture)
        person(canvas, place + 0.06, y, other, lean=0.03 * math.sin(seconds))

    return paint


def car(rng: np.random.Generator, place: float, colour: Colour) -> Painter:
    """A car passes; then the street is empty until it comes again."""
    y, direction, speed = rng.uniform(0.6, 0.8), rng.choice([-1, 1]), rng.uniform(0.3, 0.5)

    def paint(canvas: Canvas, seconds: float, share: float) -> None:
        x = (place + direction * speed * seconds) % 2.2 - 0.6
        canvas.box(x, y - 0.1, x + 0.34, y, colour)
        canvas.box(x + 0.07, y - 0.18, x + 0.26, y - 0.1, _colour(np.array(colour) * 0.8))
        for wheel in (x + 0.07, x + 0.27):
            canvas.ellipse(wheel, y, 0.035, (25, 25, 25))

    return paint


def empty(rng: np.random.Generator, place: float, colour: Colour) -> Painter:
    """Nothing moves, but a lamp may flicker."""
    rate = rng.choice([0.0, 5.0])

    def paint(canvas: Canvas, seconds: float, share: float) -> None:
        glow = 0.6 + 0.4 * math.sin(rate * seconds)
        canvas.ellipse(place, 0.1, 0.035, _colour(np.array([255, 240, 190]) * glow))

    return paint


def fight(rng: np.random.Generator, place: float, colour: Colour) -> Painter:
    """Two people at close quarters hit and push each other."""
    y, other, pace = rng.uniform(0.65, 0.9), _other(rng, colour), rng.uniform(11, 15)

    def paint(canvas: Canvas, seconds: float, share: float) -> None:
        sway = 0.04 * math.sin(2.1 * seconds)
        for side, clothes, phase in ((-1, colour, 0.0), (1, other, 2.0)):
            jerk = math.sin(pace * seconds + phase)
            person(
                canvas,
                place + sway + side * (0.05 + 0.02 * jerk),
                y + 0.01 * math.sin(1.7 * pace * seconds),
                clothes,
                stride=pace * seconds,
                lean=-side * (0.25 + 0.2 * jerk),
                reach=-side * (0.5 + 0.5 * jerk),
            )

    return paint


def fire(rng: np.random.Generator, place: float, colour: Colour) -> Painter:
    """Flames grow and flicker on the ground."""
    y = rng.uniform(0.6, 0.85)
    phases = rng.uniform(0, 6, 7)

    def paint(canvas: Canvas, seconds: float, share: float) -> None:
        size = 0.04 + 0.09 * share
        for index, phase in enumerate(phases):
            flicker = 0.7 + 0.3 * math.sin(13 * seconds + phase)
            x = place + (index - 3) * 0.3 * size
            canvas.ellipse(x, y - size * flicker, 0.75 * size * flicker, (225, 95, 30))
            canvas.ellipse(x, y - 0.5 * size * flicker, 0.4 * size * flicker, (250, 200, 80))

    return paint


def fall(rng: np.random.Generator, place: float, colour: Colour) -> Painter:
    """A person walks, falls over and stays on the ground."""
    y, direction = rng.uniform(0.65, 0.9), rng.choice([-1, 1])

    def paint(canvas: Canvas, seconds: float, share: float) -> None:
        x = place + direction * 0.1 * min(seconds - 1.0, 0.0)
        lean = direction * math.pi / 2 * min(max(seconds - 1.0, 0.0) / 0.6, 1.0)
        person(canvas, x, y, colour, stride=6 * min(seconds, 1.0), lean=lean)

    return paint


def crowd(rng: np.random.Generator, place: float, colour: Colour) -> Painter:
    """Six to nine people run one way."""
    direction = rng.choice([-1, 1])
    clothes = list(CLOTHES.values())
    runners = [
        (rng.uniform(0, 1.2), rng.uniform(0.55, 0.92), rng.uniform(0.45, 0.7), clothes[i % 6])
        for i in range(int(rng.integers(6, 10)))
    ]
    runners.sort(key=lambda runner: runner[1])

    def paint(canvas: Canvas, seconds: float, share: float) -> None:
        for start, y, speed, dress in runners:
            x = (start + direction * speed * seconds) % 1.2 - 0.1
            person(canvas, x, y, dress, stride=13 * seconds, lean=0.2 * direction)

    return paint


EVENTS: dict[str, Callable[[np.random.Generator, float, Colour], Painter]] = {
    "empty": empty,
    "stand": stand,
    "walk": walk,
    "walk_two": walk_two,
    "talk": talk,
    "car": car,
    "fight": fight,
    "fire": fire,
    "fall": fall,
    "crowd": crowd,
}


def _together(*painters: Painter) -> Painter:
    def paint(canvas: Canvas, seconds: float, share: float) -> None:
        for painter in painters:
            painter(canvas, seconds, share)

    return paint


def _other(rng: np.random.Generator, colour: Colour) -> Colour:
    others = [value for value in CLOTHES.values() if value != colour]
    return others[int(rng.integers(len(others)))]


def _colour(values: np.ndarray) -> Colour:
    red, green, blue = (int(value) for value in np.clip(values, 0, 255))
    return red, green, blue
