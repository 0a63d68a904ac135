"""Which few-shot draws of a grid are different ones: each set of videos is run and counted once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import replace

import pandas as pd

from hiprobe.probe.samples import choose_videos, other_size
from hiprobe.store import HiProbeError
from hiprobe.sweep.grid import Draw, SweepConfig


def draw_digest(video_ids: Iterable[str]) -> str:
    """What a draw is known by: a digest of the ids of its videos, whatever their order."""
    joined = "\0".join(sorted(video_ids)).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()[:12]


# Of what learns from no video.
NOTHING_DRAWN = draw_digest(())


def distinct_draws(
    config: SweepConfig, labels: pd.Series
) -> tuple[dict[Draw, list[str]], list[str]]:
    """Draw all few-shot sets of a grid, and leave out those that are there already.

    Two sizes may be raised to the same number of videos, and two seeds may draw the same ones:
    pooled as repeats they would make a deviation over draws too small.

    Parameters
    ----------
    config : SweepConfig
    labels : Series of {'normal', 'anomalous'}
        Of all videos that can be drawn, by video id.

    Returns
    -------
    dict of Draw to list of str
        The videos of each draw; no set of them stands there twice.
    list of str
        What there is to say: sizes that are not those asked for, draws that are left out.

    Raises
    ------
    HiProbeError
        Repeats were asked for, and no size has two different draws.
    """
    kept: dict[frozenset[str], Draw] = {}
    drawn: dict[Draw, list[str]] = {}
    copies: list[tuple[Draw, Draw]] = []
    said: list[str] = []
    for size, own in itertools.groupby(config.draws(), key=lambda draw: replace(draw, seed=0)):
        for draw in own:
            ids = choose_videos(labels, draw.fraction, draw.seed, draw.num_videos)
            original = kept.setdefault(frozenset(ids), draw)
            if original is draw:
                drawn[draw] = ids
            else:
                copies.append((draw, original))
        said += other_size(labels, len(ids), size.fraction, size.num_videos)
    _check_repeats(config, drawn, len(labels))
    return drawn, said + _say_copies(copies)


def _check_repeats(config: SweepConfig, drawn: dict[Draw, list[str]], num_videos: int) -> None:
    """Refuse repeats of which none differs from the first."""
    first = min(config.seeds)
    if len(set(config.seeds)) > 1 and all(draw.seed == first for draw in drawn):
        raise HiProbeError(
            f"{len(config.seeds)} repeats were asked for, and each would draw the same "
            f"{max(map(len, drawn.values()))} of {num_videos} training videos: a deviation over "
            "them would be 0 and say nothing. Train on a fraction below 1 or on fewer videos "
            "(--num-videos), or leave --repeats out."
        )


def _say_copies(copies: list[tuple[Draw, Draw]]) -> list[str]:
    """Tell which draws are left out, a line for each two sizes."""
    said = []
    for (size, of), own in itertools.groupby(copies, key=lambda pair: (pair[0].size, pair[1].size)):
        seeds = [draw.seed for draw, _ in own]
        which = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
        other = "another seed of it" if size == of else of
        said.append(f"{size}, {which}: the very videos that {other} draws, run and counted once")
    return said
