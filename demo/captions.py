"""One-line captions of generated clips: who does what, and where.

They say what is seen and never whether it is normal: a model that learns them is told nothing
about anomalies.
"""

from __future__ import annotations

from hiprobe.demo.clips import Clip
from hiprobe.demo.motions import CARS, Event

# Ways to tell the same thing: what comes first.
STYLES = ("subject", "place", "verb")
NOTHING = "Nobody is on the street."
# An event is told if it is seen in at least this share of the frames.
MIN_SHARE = 1 / 3
SIDES = {"left": "on the left", "middle": "in the middle", "right": "on the right"}


def caption(clip: Clip, start_frame: int, stop_frame: int, style: str = "subject") -> str:
    """Tell what is seen in a range of a clip's frames.

    Parameters
    ----------
    clip : Clip
    start_frame, stop_frame : int
        Half-open.
    style : {'subject', 'place', 'verb'}
        What the sentence begins with.

    Returns
    -------
    str
        One line on the main event: the anomalous one or, else, the nearest.
    """
    events = seen_events(clip, start_frame, stop_frame)
    if not events:
        return NOTHING
    text = _sentence(events[0], style)
    return f"{text[0].upper()}{text[1:]}."


def seen_events(clip: Clip, start_frame: int, stop_frame: int) -> list[Event]:
    """List the events that are within the picture for long enough to be told.

    Returns
    -------
    list of Event
        The anomalous one first, then the nearest.
    """
    frames = range(start_frame, stop_frame)
    seen = [
        event
        for event in clip.events
        if event.kind != "empty"
        and sum(_is_inside(event, frame) for frame in frames) >= MIN_SHARE * len(frames)
    ]
    return sorted(seen, key=lambda event: (not event.is_anomalous, -event.y))


def _is_inside(event: Event, frame: int) -> bool:
    """Tell whether an event is in the picture; an anomalous one is, from start to stop."""
    if not event.start_frame <= frame < event.stop_frame:
        return False
    share = (frame - event.start_frame) / (event.stop_frame - event.start_frame)
    return event.is_anomalous or 0 < event.x + (event.x_stop - event.x) * share < 1


def _sentence(event: Event, style: str) -> str:
    subject, action, place = _subject(event), verb(event), _place(event)
    if style == "place":
        return f"{place}, {subject} {action}"
    if style == "verb":
        return f"{action}: {subject} {place}"
    return f"{subject} {action} {place}"


def _subject(event: Event) -> str:
    if event.kind in CARS:
        return "a car"
    if event.kind in ("fire", "crowd"):
        return f"a {event.kind}"
    return "two people" if len(event.colours) == 2 else "a person"


def verb(event: Event) -> str:
    """Tell what is done in an event, with the direction."""
    direction = f"to the {event.direction}"
    return {
        "standing": "standing still",
        "walking": f"walking {direction}",
        "walking_together": f"walking together {direction}",
        "talking": "talking",
        "car": f"driving {direction}",
        "pavement_car": f"driving {direction}",
        "fight": "fighting",
        "fire": "burning",
        "fall": "lying on the ground",
        "crowd": f"running {direction}",
    }[event.kind]


def _place(event: Event) -> str:
    """Tell where it happens; what crosses the picture has no side."""
    if event.kind == "pavement_car":
        return "on the pavement"
    if event.kind == "car":
        return "on the road"
    if event.y < 0.6:
        return "in the background"
    if event.kind.startswith("walking") or event.kind == "crowd":
        return "in front"
    return SIDES[event.place]
