"""Drawing surveillance-like pictures: a fixed scene, people, cars, fires.

Positions on the ground are shares of the picture: x runs to the right, y downwards, and what
stands lower is nearer and larger. Motion follows seconds, so that a clip's look does not depend
on its frame rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (178, 48, 44),
    "orange": (205, 120, 45),
    "yellow": (200, 178, 70),
    "green": (60, 125, 70),
    "blue": (55, 85, 170),
    "purple": (115, 70, 140),
    "white": (215, 215, 208),
    "grey": (125, 125, 128),
    "black": (38, 38, 44),
}
TROUSERS: tuple[Colour, ...] = ((45, 50, 80), (70, 62, 52), (30, 30, 34), (98, 98, 104))
SKINS: tuple[Colour, ...] = ((205, 165, 138), (160, 112, 82), (108, 74, 54))
HORIZON = 0.4
ROAD = (0.56, 0.67)


def body_size(y: float) -> float:
    """Height of a person whose feet are at `y`, as a share of the picture's height."""
    return 0.1 + 0.62 * (y - HORIZON)


@dataclass(frozen=True)
class Pose:
    """One person in one frame.

    Attributes
    ----------
    x, y : float
        Where the feet are, in shares of the picture.
    colour : str
        Of the jacket; the trousers and the skin follow from it.
    facing : int
        1 to the right, -1 to the left.
    stride : float
        Phase of the legs in radians; ``swing`` is how far they go.
    swing : float
        0 stands, 1 walks, above 1 runs.
    lean : float
        Radians from upright, positive to the front; pi/2 lies on the ground.
    reach : float
        How far the front arm is stretched forwards: 0 hangs, 1 is level with the shoulder.
    """

    x: float
    y: float
    colour: str
    facing: int = 1
    stride: float = 0.0
    swing: float = 0.0
    lean: float = 0.0
    reach: float = 0.0


def draw_shadow(draw: ImageDraw.ImageDraw, size: tuple[int, int], pose: Pose) -> None:
    """Darken the ground beneath a person's body, wherever it leans to."""
    unit = body_size(pose.y) * size[1]
    x = pose.x * size[0] + 0.4 * unit * pose.facing * math.sin(pose.lean)
    half = unit * (0.17 + 0.3 * abs(math.sin(pose.lean)))
    y = pose.y * size[1]
    draw.ellipse((x - half, y - 0.05 * unit, x + half, y + 0.05 * unit), fill=(48, 46, 46))


def draw_person(draw: ImageDraw.ImageDraw, size: tuple[int, int], pose: Pose) -> None:
    """Draw head, torso, arms and legs, turned about the feet by `Pose.lean`."""
    unit = body_size(pose.y) * size[1]
    cos, sin = math.cos(pose.lean), math.sin(pose.lean)

    def at(ahead: float, up: float) -> tuple[float, float]:
        forwards, upwards = ahead * cos + up * sin, up * cos - ahead * sin
        return (
            pose.x * size[0] + unit * pose.facing * forwards,
            pose.y * size[1] - unit * upwards,
        )

    def limb(points: list[tuple[float, float]], colour: Colour, thickness: float) -> None:
        width = max(1, round(thickness * unit))
        draw.line([at(*point) for point in points], fill=colour, width=width, joint="curve")

    index = list(COLOURS).index(pose.colour)
    jacket, trousers = COLOURS[pose.colour], TROUSERS[index % len(TROUSERS)]
    skin = SKINS[index % len(SKINS)]
    swing = pose.swing * math.sin(pose.stride)
    # From the far arm to the near one: what is drawn later covers what was drawn before.
    limb([(0, 0.8), (0.16 * swing, 0.47)], shade(jacket, 0.75), 0.08)
    for side, tone in ((-1, 0.8), (1, 1.0)):
        foot, knee = 0.2 * side * swing, 0.12 * side * swing + 0.04 * pose.swing
        lift = max(0.0, -side * math.cos(pose.stride)) * 0.07 * pose.swing
        limb([(0, 0.46), (knee, 0.24), (foot - lift, lift)], shade(trousers, tone), 0.12)
    limb([(0, 0.44), (0, 0.83)], jacket, 0.21)
    hand = (-0.16 * swing + 0.34 * pose.reach, 0.46 + 0.34 * min(pose.reach, 1.0))
    limb([(0.02, 0.78), hand], shade(jacket, 0.85), 0.08)
    x, y = at(0.01, 0.92)
    radius = max(1.0, 0.085 * unit)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=skin)


def draw_car(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    x: float,
    y: float,
    *,
    colour: str,
    facing: int,
) -> None:
    """Draw a car from the side; `x` is its middle, `y` where its wheels touch the road."""
    unit = body_size(y) * size[1]

    def at(ahead: float, up: float) -> tuple[float, float]:
        return x * size[0] + unit * facing * ahead, y * size[1] - unit * up

    def polygon(points: list[tuple[float, float]], fill: Colour) -> None:
        draw.polygon([at(*point) for point in points], fill=fill)

    paint = COLOURS[colour]
    polygon([(-1.2, 0), (1.2, 0), (1.3, 0.08), (-1.3, 0.08)], (45, 43, 43))
    polygon([(-0.8, 0.4), (-0.6, 0.8), (0.25, 0.8), (0.65, 0.4)], shade(paint, 0.8))
    polygon([(-0.66, 0.43), (-0.52, 0.73), (-0.2, 0.73), (-0.2, 0.43)], (75, 90, 100))
    polygon([(-0.12, 0.43), (-0.12, 0.73), (0.2, 0.73), (0.5, 0.43)], (75, 90, 100))
    polygon([(-1.25, 0.12), (-1.25, 0.44), (0.75, 0.44), (1.25, 0.36), (1.25, 0.12)], paint)
    for wheel in (-0.75, 0.75):
        left, top = at(wheel, 0.18)
        radius = 0.18 * unit
        draw.ellipse((left - radius, top - radius, left + radius, top + radius), fill=(25, 25, 27))


def draw_fire(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    x: float,
    y: float,
    *,
    grown: float,
    flicker: np.ndarray,
) -> None:
    """Draw flames.

    Parameters
    ----------
    draw : ImageDraw
    size : (int, int)
        The picture's width and height in pixels.
    x, y : float
        Middle of the fire's foot.
    grown : float
        0 … 1.
    flicker : (n,) float
        Height of each flame, around 1.
    """
    unit = body_size(y) * size[1] * (0.18 + 0.85 * grown)
    for colour, share in (((196, 74, 26), 1.0), ((236, 140, 44), 0.68), ((250, 216, 120), 0.36)):
        for index, height in enumerate(flicker):
            offset = (index + 0.5) / len(flicker) - 0.5
            middle = x * size[0] + unit * 0.8 * share * offset
            tip = unit * share * height * (1.1 - 1.2 * abs(offset))
            half = unit * 0.22 * share
            foot = y * size[1]
            shoulder = foot - 0.4 * half
            lean = unit * 0.15 * (height - 1)
            draw.ellipse((middle - half, foot - half, middle + half, foot + 0.3 * half), colour)
            draw.polygon(
                [(middle - half, shoulder), (middle + lean, foot - tip), (middle + half, shoulder)],
                fill=colour,
            )


def paint_background(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Paint an empty street: sky or wall, ground, a road, doors or windows, boxes, a lamp post."""
    light = rng.uniform(0.6, 1.05)
    wall = light * (rng.uniform(95, 165) + rng.uniform(-18, 18, 3))
    ground = light * (rng.uniform(85, 135) + rng.uniform(-10, 10, 3))
    edge = round(HORIZON * height)
    picture = np.empty((height, width, 3))
    picture[:edge] = wall * np.linspace(1.15, 0.95, edge)[:, None, None]
    picture[edge:] = ground * np.linspace(0.85, 1.15, height - edge)[:, None, None]
    picture[round(ROAD[0] * height) : round(ROAD[1] * height)] *= rng.uniform(0.6, 0.8)
    picture += _clouds(width, height, 7.0, rng)
    picture += rng.normal(0, 3, (height, width, 1))
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    # At places of their own, so that no two openings overlap.
    for middle in rng.permutation([0.12, 0.37, 0.63, 0.88])[: rng.integers(1, 4)]:
        _draw_opening(draw, (width, height), middle, rng)
    for middle in rng.uniform(0.05, 0.95, rng.integers(1, 4)):
        tone = shade((150, 125, 95), light * rng.uniform(0.5, 1.1))
        half, tall = rng.uniform(0.02, 0.06), rng.uniform(0.05, 0.12)
        top = HORIZON + 0.05 - tall
        _box(draw, (width, height), (middle - half, top, middle + half, top + tall), tone)
    return image


def draw_lamp(draw: ImageDraw.ImageDraw, size: tuple[int, int], x: float) -> None:
    """Draw a lamp post behind the road."""
    _box(draw, size, (x - 0.005, 0.1, x + 0.005, HORIZON + 0.1), (52, 52, 56))
    _box(draw, size, (x - 0.025, 0.07, x + 0.025, 0.11), (205, 198, 165))


def glow_map(size: tuple[int, int], x: float, y: float, radius: float) -> np.ndarray:
    """Light around a point, 1 at its middle.

    Parameters
    ----------
    size : (int, int)
        Width and height in pixels.
    x, y : float
    radius : float
        Share of the picture's height.

    Returns
    -------
    (height, width) float32
    """
    width, height = size
    across = (np.arange(width) - x * width)[None, :] / height
    down = np.arange(height)[:, None] / height - y
    return np.exp(-(across**2 + down**2) / (2 * radius**2)).astype(np.float32)


def shade(colour: Colour, gain: float) -> Colour:
    """Make a colour darker or brighter."""
    red, green, blue = (min(255, round(value * gain)) for value in colour)
    return red, green, blue


def _clouds(width: int, height: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth blotches, (height, width, 1)."""
    coarse = Image.fromarray(rng.normal(0, strength, (6, 8)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))[:, :, None]


def _draw_opening(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], middle: float, rng: np.random.Generator
) -> None:
    """Draw a door that reaches the ground, or a window."""
    tone = shade((110, 90, 75), rng.uniform(0.4, 1.2))
    if rng.random() < 0.5:
        _box(draw, size, (middle - 0.04, 0.2, middle + 0.04, HORIZON), shade(tone, 0.6))
        _box(draw, size, (middle - 0.03, 0.22, middle + 0.03, HORIZON), tone)
    else:
        _box(draw, size, (middle - 0.06, 0.1, middle + 0.06, 0.26), shade(tone, 0.6))
        _box(draw, size, (middle - 0.05, 0.115, middle + 0.05, 0.245), (95, 110, 122))


def _box(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    colour: Colour,
) -> None:
    left, top, right, bottom = box
    width, height = size
    draw.rectangle((left * width, top * height, right * width, bottom * height), fill=colour)
