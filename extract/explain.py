"""The explaining job: detected intervals → the model's own `generate` → descriptions.

Run by ``hiprobe explain`` (section 4.2.3 of the paper). Anomalous and normal intervals go
separately through the model, each with keyframes of its own. Every description is appended to
``descriptions.jsonl`` of the results as it comes, so an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import IO, Any

from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.generation import MAX_NEW_TOKENS, Describer
from hiprobe.extract.video import Segment, SegmentReader
from hiprobe.store import FeatureStore, HiProbeError, StoreError, VideoError, write_errors
from hiprobe.store.descriptions import (
    FILE_NAME,
    append_description,
    read_descriptions,
    start_descriptions,
)
from hiprobe.store.provenance import Provenance, Purpose
from hiprobe.store.results import KINDS, Interval, read_intervals

__all__ = ["KINDS", "ExplainConfig", "ExplainSummary", "explain"]

NUM_KEYFRAMES = 16


@dataclass(frozen=True)
class ExplainConfig:
    """One run.

    Attributes
    ----------
    store : Path
        Where the videos lie.
    results : Path
        Results of `hiprobe evaluate` on that store.
    backbone : BackboneConfig
    prompts : dict of str to (str or None)
        By kind of interval; None is the store's own prompt.
    kinds : tuple of str
        Intervals to describe: 'anomalous', 'normal'.
    keyframes : int
        Frames shown of an interval, evenly spaced.
    max_new_tokens : int
    batch_size : int
        Intervals of one video per call of `generate`.
    only : tuple of str
        Video ids; none: all.
    overwrite : bool
        Drop descriptions made with other settings.
    """

    store: Path
    results: Path
    backbone: BackboneConfig
    prompts: dict[str, str | None]
    kinds: tuple[str, ...] = KINDS
    keyframes: int = NUM_KEYFRAMES
    max_new_tokens: int = MAX_NEW_TOKENS
    batch_size: int = 4
    only: tuple[str, ...] = ()
    overwrite: bool = False


@dataclass(frozen=True)
class ExplainSummary:
    """How a run went.

    Attributes
    ----------
    num_described, num_kept : int
        Intervals, in this run and in earlier ones.
    failures : dict of str to str
        Reason by video id.
    warnings : list of str
    """

    num_described: int
    num_kept: int
    failures: dict[str, str]
    warnings: list[str]


def explain(
    config: ExplainConfig,
    on_progress: Callable[[int, int, str], None] = lambda done, total, video_id: None,
) -> ExplainSummary:
    """Describe the intervals that have no description yet.

    Parameters
    ----------
    config : ExplainConfig
    on_progress : callable
        Called with (intervals done, intervals, video id).

    Raises
    ------
    HiProbeError
        No results, videos that the store does not know, or descriptions made with other settings.
    """
    store = FeatureStore.open(config.store)
    intervals = {
        video_id: video.in_order for video_id, video in read_intervals(config.results).items()
    }
    _check_videos(config, store, intervals)
    prompts = _prompts(config, store)
    describer = Describer(config.backbone, config.max_new_tokens)
    path = config.results / FILE_NAME
    with write_errors(path):
        known = _keep_valid(config, _provenance(config, prompts, describer), intervals)
    todo = {
        video_id: [one for one in own if one.kind in config.kinds and one not in known]
        for video_id, own in intervals.items()
        if not config.only or video_id in config.only
    }
    total, done, failures = sum(map(len, todo.values())), 0, {}
    with write_errors(path), path.open("a", encoding="utf-8") as file:
        for video_id, wanted in todo.items():
            if not wanted:
                continue
            on_progress(done, total, video_id)
            batches = _batches(store, intervals[video_id], wanted, config)
            try:
                for num_described in _describe(batches, prompts, describer, file):
                    done += num_described
                    on_progress(done, total, video_id)
            except VideoError as error:
                failures[video_id] = str(error)
    on_progress(total, total, "")
    return ExplainSummary(done, len(known), failures, _warnings(store, describer))


def _check_videos(
    config: ExplainConfig, store: FeatureStore, intervals: Mapping[str, Sequence[Interval]]
) -> None:
    """Refuse results of another store, and videos to be described that the results do not have."""
    unknown = [video_id for video_id in intervals if video_id not in store.videos.index]
    if unknown:
        raise HiProbeError(
            f"{config.results}: {len(unknown)} of its videos are not in {config.store}, for "
            f"example {unknown[0]!r}. Give the store that was evaluated."
        )
    if missing := [video_id for video_id in config.only if video_id not in intervals]:
        raise HiProbeError(f"{config.results}: --only {missing[0]!r}: it has no such video.")


def _prompts(config: ExplainConfig, store: FeatureStore) -> dict[str, str]:
    """Choose what is asked about each kind of interval; by default as the store's states were."""
    prompts = {kind: config.prompts.get(kind) or store.origin.prompt for kind in KINDS}
    if missing := [kind for kind, prompt in prompts.items() if prompt is None]:
        raise StoreError(
            f"{config.store}: does not record its prompt. Give one with "
            + " and ".join(f"--{kind}-prompt" for kind in missing)
            + "."
        )
    return {kind: str(prompt) for kind, prompt in prompts.items()}


def _provenance(
    config: ExplainConfig, prompts: dict[str, str], describer: Describer
) -> dict[str, Any]:
    libraries = ("hiprobe", "torch", "transformers", "av")
    return {
        "model": describer.provenance,
        "prompts": prompts,
        "keyframes": config.keyframes,
        "max_new_tokens": config.max_new_tokens,
        "sampling": "greedy",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "libraries": {name: version(name) for name in libraries},
    }


def _keep_valid(
    config: ExplainConfig,
    provenance: dict[str, Any],
    intervals: Mapping[str, Sequence[Interval]],
) -> set[Interval]:
    """Rewrite the file with what still holds; return the intervals that need no description."""
    header, texts = read_descriptions(config.results)
    if header is None:  # whose descriptions these are, nobody can tell
        texts = {}
    elif differs := _differences(header, provenance):
        if not config.overwrite:
            raise HiProbeError(
                f"{config.results / FILE_NAME}: was made with another {differs[0]}. Use the same, "
                "or drop the old with --overwrite."
            )
        header, texts = None, {}
    start_descriptions(config.results, provenance if header is None else header, texts)
    # What is not an interval today stays in the file: it may be one again, with the threshold of
    # before.
    return set(texts) & {interval for own in intervals.values() for interval in own}


def _differences(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Say which settings differ that make other texts; where the model lies is none of them."""
    own = ("prompts", "max_new_tokens")
    found = [(name, stored.get(name), wanted[name]) for name in own]
    comparison = Provenance.of(stored).compare(Provenance.of(wanted), Purpose.FILL)
    found += [(one.name, one.first, one.second) for one in comparison.refused]
    return [
        f"{name}: {before!r}, this run has {now!r}" for name, before, now in found if before != now
    ]


def _batches(
    store: FeatureStore,
    intervals: Sequence[Interval],
    wanted: Sequence[Interval],
    config: ExplainConfig,
) -> Iterator[tuple[list[Interval], list[Segment], float]]:
    """Decode a video once, and group the keyframes of the wanted intervals.

    Yields
    ------
    (list of Interval, list of Segment, float)
        The last one is the video's frames per second.

    Raises
    ------
    VideoError
        The video ends before the last of them begins.
    """
    video = store.videos.loc[wanted[0].video_id]
    # All of them, wanted or not: a decoder meets every frame, and ranges must not leave gaps.
    reader = SegmentReader(video["path"], [one.frames for one in intervals], config.keyframes)
    segments = (one for one in reader if intervals[one.index] in wanted)
    num_left = len(wanted)
    while batch := list(islice(segments, config.batch_size)):
        yield [intervals[one.index] for one in batch], batch, float(video["fps"])
        num_left -= len(batch)
    if num_left:
        raise VideoError(
            f"{video['path']}: ends before its last interval begins: expected "
            f"{video['num_frames']} frames. Is it another file than was extracted?"
        )


def _describe(
    batches: Iterator[tuple[list[Interval], list[Segment], float]],
    prompts: Mapping[str, str],
    describer: Describer,
    file: IO[str],
) -> Iterator[int]:
    """Describe a video's intervals, each line on the disk at once; yield how many a batch had."""
    for intervals, segments, fps in batches:
        texts = describer.describe(segments, [prompts[one.kind] for one in intervals], fps)
        for interval, text in zip(intervals, texts, strict=True):
            append_description(file, interval, text)
        yield len(texts)


def _warnings(store: FeatureStore, describer: Describer) -> list[str]:
    """Say so if another model describes than the one whose states were scored."""
    own, describing = store.origin, Provenance.of({"model": describer.provenance})
    if not own.compare(describing, Purpose.DESCRIBE).warned:
        return []
    if own.model.weights_digest is None:
        return [f"{describing.model.id} describes; which model the scores are of is not recorded."]
    return [f"{describing.model.id} describes; the scores are of another model, {own.model.id}."]
