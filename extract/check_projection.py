"""How long a manifest will take: its videos weighed by their own lengths and sizes.

A video's size makes its tokens, and tokens make the time. Sizes are timed where they differ: those
of the user's videos, and the manifest's with the fewest and the most tokens; in between, by tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Self

import numpy as np

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.check_inputs import Sample, made_up, num_tokens
from hiprobe.extract.check_speed import best_of, time_batches
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.video import VideoInfo, inspect_video
from hiprobe.store import ManifestError, VideoError, read_manifest
from hiprobe.store.errors import listing

# Of a benchmark's size, where no manifest is given.
EXAMPLE_SEGMENTS = 100_000
# Of a made-up video: more are the same ones again.
NUM_MADE_UP = 2


@dataclass
class SizeShare:
    """The manifest's videos of one size.

    Attributes
    ----------
    info : VideoInfo
        Of the first of them.
    num_videos, num_segments : int
    tokens_per_segment : int
        0 until they are counted.
    """

    info: VideoInfo
    num_videos: int = 0
    num_segments: int = 0
    tokens_per_segment: int = 0


@dataclass
class ManifestShares:
    """A manifest's videos by size.

    Attributes
    ----------
    sizes : list of SizeShare
    unreadable : list of str
        Why videos could not be counted.
    """

    sizes: list[SizeShare] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, manifest: Path, segment_frames: int | None) -> Self:
        """Open each video of a manifest.

        Raises
        ------
        ManifestError
            It is none, or none of its videos can be opened.
        """
        sizes: dict[tuple[int, int], SizeShare] = {}
        unreadable = []
        for record in read_manifest(manifest):
            try:
                info = inspect_video(record.path)
            except VideoError as error:
                unreadable.append(str(error))
                continue
            share = sizes.setdefault((info.width, info.height), SizeShare(info))
            share.num_videos += 1
            share.num_segments += len(segment_ranges(info.num_frames, segment_frames))
        if not sizes:
            raise ManifestError(f"{manifest}: no video of it can be opened:\n{listing(unreadable)}")
        return cls(sorted(sizes.values(), key=lambda one: -one.num_segments), unreadable)

    def count_tokens(self, backbone: Backbone, num_keyframes: int) -> None:
        """Ask the processor what each size becomes."""
        for share in self.sizes:
            sample = made_up(share.info, num_keyframes, 1)
            share.tokens_per_segment = num_tokens(backbone, sample)

    def extremes(self) -> list[VideoInfo]:
        """Sizes that become the fewest and the most tokens."""
        ordered = sorted(self.sizes, key=lambda one: one.tokens_per_segment)
        return [ordered[0].info, ordered[-1].info]


def time_sizes(
    backbone: Backbone,
    samples: Sequence[Sample],
    shares: ManifestShares | None,
    batch_sizes: Sequence[int],
) -> list[dict[str, Any]]:
    """Time batches of the samples' sizes, and of the manifest's whose tokens lie beyond.

    Returns
    -------
    list of dict
        See `check_speed.time_batches`; only one size of those that are equally many tokens.
    """
    # Of equal tokens, the size that takes longest to prepare.
    wanted = sorted(samples, key=lambda one: one.info.width * one.info.height, reverse=True)
    if shares is not None:
        num_keyframes = len(samples[0].segments[0].keyframes)
        shares.count_tokens(backbone, num_keyframes)
        wanted += [made_up(info, num_keyframes, NUM_MADE_UP) for info in shares.extremes()]
    rows: dict[int, list[dict[str, Any]]] = {}
    for sample in wanted:
        if (count := num_tokens(backbone, sample)) not in rows:
            rows[count] = time_batches(backbone, sample, count, batch_sizes)
    return [row for count in sorted(rows) for row in rows[count]]


def project(
    samples: Sequence[Sample],
    shares: ManifestShares | None,
    rows: Sequence[dict[str, Any]],
    segment_bytes: int,
) -> dict[str, Any]:
    """Say how long a manifest will take at the best batches' speeds, and how large it will be.

    Parameters
    ----------
    samples : sequence of Sample
    shares : ManifestShares or None
        None: so many segments as the first timed size for an example.
    rows : sequence of dict
        From `time_sizes`.
    segment_bytes : int
        Of a segment's states.

    Returns
    -------
    dict
        ``num_segments``, ``is_of_manifest``, ``hours`` of the model, ``max_bytes``,
        ``seconds_per_segment`` (the mean), ``readers`` (threads that keep up with the model; None
        where nothing was decoded); of a manifest also ``num_videos``, ``unreadable`` and ``sizes``:
        for each ``width``, ``height``, ``num_videos``, ``num_segments``, ``tokens_per_segment``,
        ``seconds_per_segment``. Empty where nothing fits into memory.
    """
    best = best_of(rows)
    if not best:
        return {}
    tokens = sorted(best)
    seconds = [best[one]["seconds_per_segment"] for one in tokens]
    sizes = [] if shares is None else [_of_size(share, tokens, seconds) for share in shares.sizes]
    count = sum(one["num_segments"] for one in sizes) or EXAMPLE_SEGMENTS
    total = sum(one["num_segments"] * one["seconds_per_segment"] for one in sizes)
    total = total or EXAMPLE_SEGMENTS * max(seconds)
    projection = {
        "num_segments": count,
        "is_of_manifest": shares is not None,
        "seconds_per_segment": total / count,
        "hours": total / 3600,
        "max_bytes": count * segment_bytes,
        "readers": _readers(samples, best),
    }
    if shares is None:
        return projection
    num_videos = sum(one["num_videos"] for one in sizes)
    return projection | {
        "num_videos": num_videos, "unreadable": shares.unreadable, "sizes": sizes,
    }  # fmt: skip


def _of_size(share: SizeShare, tokens: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    return {
        "width": share.info.width,
        "height": share.info.height,
        "num_videos": share.num_videos,
        "num_segments": share.num_segments,
        "tokens_per_segment": share.tokens_per_segment,
        "seconds_per_segment": float(np.interp(share.tokens_per_segment, tokens, seconds)),
    }


def _readers(samples: Sequence[Sample], best: dict[int, dict[str, Any]]) -> int | None:
    """Threads that decode and prepare as fast as the model goes, for the video that needs most."""
    decoding = max(sample.decode_seconds for sample in samples)
    if not decoding:
        return None
    return max(
        ceil((decoding + row["prepare_seconds_per_segment"]) / row["seconds_per_segment"])
        for row in best.values()
    )
