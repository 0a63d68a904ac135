"""The explaining job: detected intervals → the model's own `generate` → descriptions.

Run by ``hiprobe explain`` (section 4.2.3 of the paper). Anomalous and normal intervals go
separately through the model, each with keyframes of its own. Every description is appended to
``descriptions.jsonl`` of the results as it comes, so an interrupted run goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hiprobe.extract.backbone import BackboneConfig
from hiprobe.extract.generation import MAX_NEW_TOKENS, Describer
from hiprobe.extract.video import Segment, SegmentReader
from hiprobe.store import FeatureStore, HiProbeError, VideoError, write_errors

NUM_KEYFRAMES = 16
KINDS = ("anomalous", "normal")


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
class Interval:
    """One interval of a video.

    Attributes
    ----------
    video_id : str
    kind : {'anomalous', 'normal'}
    start_frame, stop_frame : int
        Half-open.
    start_seconds, stop_seconds : float or None
    """

    video_id: str
    kind: str
    start_frame: int
    stop_frame: int
    start_seconds: float | None
    stop_seconds: float | None


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
    intervals = read_intervals(config.results)
    unknown = [video_id for video_id in intervals if video_id not in store.videos.index]
    if unknown:
        raise HiProbeError(
            f"{config.results}: {len(unknown)} of its videos are not in {config.store}, for "
            f"example {unknown[0]!r}. Give the store that was evaluated."
        )
    if missing := [video_id for video_id in config.only if video_id not in intervals]:
        raise HiProbeError(f"{config.results}: --only {missing[0]!r}: it has no such video.")
    describer = Describer(config.backbone, config.max_new_tokens)
    provenance, prompts = _provenance(config, store, describer)
    path = config.results / "descriptions.jsonl"
    known = _keep_valid(path, provenance, intervals, config.overwrite)
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
            video = store.videos.loc[video_id]
            before = done
            try:
                batches = _batches(video["path"], intervals[video_id], wanted, config)
                for batch in batches:
                    texts = describer.describe(
                        [segment for _, segment in batch],
                        [prompts[interval.kind] for interval, _ in batch],
                        float(video["fps"]),
                    )
                    for (interval, _), text in zip(batch, texts, strict=True):
                        _append(file, vars(interval) | {"text": text})
                    done += len(batch)
                    on_progress(done, total, video_id)
                if done - before < len(wanted):
                    raise VideoError(
                        f"{video['path']}: ends before its last interval begins: expected "
                        f"{video['num_frames']} frames. Is it another file than was extracted?"
                    )
            except VideoError as error:
                failures[video_id] = str(error)
    on_progress(total, total, "")
    return ExplainSummary(done, len(known), failures, _warnings(store, describer))


def read_intervals(results: Path) -> dict[str, list[Interval]]:
    """Read all intervals of ``intervals.json``, by video, in the order of time.

    Raises
    ------
    HiProbeError
        There is none, or it is damaged.
    """
    path = results / "intervals.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            video_id: sorted(
                (Interval(video_id, kind, **one) for kind in KINDS for one in video[kind]),
                key=lambda interval: interval.start_frame,
            )
            for video_id, video in content["videos"].items()
        }
    except (FileNotFoundError, NotADirectoryError):
        raise HiProbeError(
            f"{path}: no such file. Make results with `hiprobe evaluate STORE PROBE {results}`."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise HiProbeError(f"{path}: damaged ({error!r}). Evaluate again.") from error


def _provenance(
    config: ExplainConfig, store: FeatureStore, describer: Describer
) -> tuple[dict[str, Any], dict[str, str]]:
    prompts = {
        kind: prompt if (prompt := config.prompts.get(kind)) else store.provenance["prompt"]
        for kind in KINDS
    }
    libraries = ("hiprobe", "torch", "transformers", "av")
    return {
        "model": describer.provenance,
        "prompts": prompts,
        "keyframes": config.keyframes,
        "max_new_tokens": config.max_new_tokens,
        "sampling": "greedy",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "libraries": {name: version(name) for name in libraries},
    }, prompts


def _keep_valid(
    path: Path,
    provenance: dict[str, Any],
    intervals: dict[str, list[Interval]],
    overwrite: bool,
) -> set[Interval]:
    """Rewrite the file with what still holds: its settings, and lines of today's intervals."""
    header, lines = _read(path)
    if header is None:  # whose descriptions these are, nobody can tell
        lines = []
    differs = [] if header is None else _differences(header, provenance)
    if differs and not overwrite:
        raise HiProbeError(
            f"{path}: was made with another {differs[0]}. Use the same, or drop the old with "
            "--overwrite."
        )
    today = {interval for own in intervals.values() for interval in own}
    kept = {}
    for line in [] if differs else lines:
        values: dict[str, Any] = {name: line.get(name) for name in Interval.__dataclass_fields__}
        interval = Interval(**values)
        if "text" in line:
            kept[interval] = line
    header = provenance if header is None or differs else header
    partial = path.with_name(f"{path.name}.partial")
    with write_errors(path):
        with partial.open("w", encoding="utf-8") as file:
            for content in ({"provenance": header}, *kept.values()):
                _append(file, content)
        partial.replace(path)
    # What is not an interval today may be one again, with the threshold of before.
    return set(kept) & today


def _differences(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Say which settings differ that make other texts; where the model lies is none of them."""
    names = ("prompts", "keyframes", "max_new_tokens")
    pairs = {name: (stored[name], wanted[name]) for name in names}
    for name in ("weights_digest", "dtype", "load_in"):
        pairs[f"model.{name}"] = (stored["model"][name], wanted["model"][name])
    return [
        f"{name}: {before!r}, this run has {now!r}"
        for name, (before, now) in pairs.items()
        if before != now
    ]


def _read(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Read the file's provenance and lines; a torn line is left out."""
    if not path.exists():
        return None, []
    content = []
    for text in path.read_text(encoding="utf-8").split("\n"):  # a text may hold other line ends
        try:
            content.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    headers = [line["provenance"] for line in content if "provenance" in line]
    return (headers[0] if headers else None), [line for line in content if "video_id" in line]


def _append(file: Any, content: dict[str, Any]) -> None:
    file.write(json.dumps(content, ensure_ascii=False) + "\n")
    file.flush()
    os.fsync(file.fileno())


def _batches(
    path: str, intervals: Sequence[Interval], wanted: Sequence[Interval], config: ExplainConfig
) -> Iterator[list[tuple[Interval, Segment]]]:
    """Decode a video once, and group the keyframes of the wanted intervals."""
    ranges = [(one.start_frame, one.stop_frame) for one in intervals]
    batch: list[tuple[Interval, Segment]] = []
    for segment in SegmentReader(path, ranges, config.keyframes):
        interval = intervals[segment.index]
        if interval in wanted:
            batch.append((interval, segment))
        if len(batch) == config.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _warnings(store: FeatureStore, describer: Describer) -> list[str]:
    own = store.provenance["model"]
    if own["weights_digest"] == describer.provenance["weights_digest"]:
        return []
    return [
        f"{describer.provenance['id']} describes; the scores are of another model, {own['id']}."
    ]
