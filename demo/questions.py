"""Questions that are answered by yes or no.

They ask whether something is done in a video, as `hiprobe.demo.captions` tells it, and never
whether that is normal.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from hiprobe.demo.captions import seen_events
from hiprobe.demo.clips import Clip

YES, NO = "Yes", "No"
# What is done in each kind of event. What is held out of training is never asked for there.
ACTIONS = {
    "standing": "standing still",
    "walking": "walking",
    "walking_together": "walking",
    "talking": "talking",
    "car": "driving",
    "fight": "fighting",
    "fire": "burning",
    "fall": "lying on the ground",
}
# What the demo asks beside the default prompt: what some of its anomalies look like.
INCIDENTS = ("fighting", "burning", "lying on the ground")
# How often one, two or three things are asked for at once.
SHARES = (0.6, 0.25, 0.15)


def question(actions: Sequence[str]) -> str:
    """Ask whether any of some actions is seen."""
    return f"Is there {' or '.join(actions)} in this video? Answer {YES} or {NO}."


def seen_actions(clip: Clip, start_frame: int, stop_frame: int) -> set[str]:
    """What is done in a range of a clip's frames, of `ACTIONS`."""
    kinds = {event.kind for event in seen_events(clip, start_frame, stop_frame)}
    return {action for kind, action in ACTIONS.items() if kind in kinds}


def draw_question(seen: Collection[str], rng: np.random.Generator) -> tuple[str, str]:
    """Draw a question whose true answer is yes half of the time, if anything is seen.

    Returns
    -------
    question, answer : str
    """
    known = sorted({*ACTIONS.values()})
    unseen = [action for action in known if action not in seen]
    number = 1 + int(rng.choice(len(SHARES), p=SHARES))
    if seen and (rng.random() < 0.5 or len(unseen) < number):
        first = str(rng.choice(sorted(seen)))
        others = [action for action in known if action != first]
        asked = [first, *rng.choice(others, number - 1, replace=False).tolist()]
        return question(rng.permutation(asked).tolist()), YES
    return question(rng.choice(unseen, number, replace=False).tolist()), NO
