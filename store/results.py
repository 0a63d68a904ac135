"""The results' folder: what `evaluate` writes and reports, comparisons and explanations read.

`scores.csv`, `intervals.json`, `thumbnails.json`, and `metrics.json`, which comes last: its
existence means that the results are whole. The files are the interface, specified in
storage_schema.md; `hiprobe.store.descriptions` and `hiprobe.store.layer_tables` are what other
commands add to the folder.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from hiprobe.store.errors import HiProbeError
from hiprobe.store.manifest import Annotations, format_annotations, parse_annotations

KINDS = ("anomalous", "normal")
SEGMENT_COLUMNS = ("video_id", "segment", "start_frame", "stop_frame", "score", "smoothed")
_INTERVAL_FIELDS = ("start_frame", "stop_frame", "start_seconds", "stop_seconds")
# Files of an earlier evaluation that would be wrong beside new scores.
STALE = ("metrics.json", "thumbnails.json", "report.html")


@dataclass(frozen=True)
class Interval:
    """A stretch of a video that was detected as anomalous, or as normal.

    Attributes
    ----------
    video_id : str
    kind : {'anomalous', 'normal'}
    start_frame, stop_frame : int
        Half-open.
    start_seconds, stop_seconds : float or None
        None where the frame rate is not known.
    """

    video_id: str
    kind: str
    start_frame: int
    stop_frame: int
    start_seconds: float | None
    stop_seconds: float | None

    @classmethod
    def of_frames(cls, video_id: str, kind: str, start: int, stop: int, fps: float | None) -> Self:
        """Add the seconds to a frame range."""
        seconds = [round(frame / fps, 3) if fps else None for frame in (start, stop)]
        return cls(video_id, kind, start, stop, *seconds)

    @classmethod
    def from_json(cls, video_id: str, kind: str, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote, and leave alone what else there may be."""
        return cls(video_id, kind, *(content[name] for name in _INTERVAL_FIELDS))

    @property
    def frames(self) -> tuple[int, int]:
        """The half-open frame range."""
        return self.start_frame, self.stop_frame

    def to_json(self) -> dict[str, Any]:
        """The interval as ``intervals.json`` has it, below its video and its kind."""
        return {name: getattr(self, name) for name in _INTERVAL_FIELDS}


@dataclass(frozen=True)
class ResultVideo:
    """What ``intervals.json`` says of a video.

    Attributes
    ----------
    label, category : str
    fps : float or None
    num_frames : int
        That were evaluated.
    annotations : tuple of (int, int)
        The truth, half-open frame ranges.
    intervals : dict of str to tuple of Interval
        What was found, by kind ('anomalous', 'normal'), in the order of time.
    """

    label: str
    category: str
    fps: float | None
    num_frames: int
    annotations: Annotations
    intervals: dict[str, tuple[Interval, ...]]

    @property
    def in_order(self) -> list[Interval]:
        """All intervals in the order of time."""
        everything = [one for kind in KINDS for one in self.intervals[kind]]
        return sorted(everything, key=lambda interval: interval.start_frame)

    def to_json(self) -> dict[str, Any]:
        """The video as ``intervals.json`` has it."""
        return {
            "label": self.label,
            "category": self.category,
            "fps": self.fps,
            "num_frames": self.num_frames,
            "annotations": format_annotations(self.annotations),
            **{kind: [one.to_json() for one in self.intervals[kind]] for kind in KINDS},
        }

    @classmethod
    def from_json(cls, video_id: str, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            label=content["label"],
            category=content["category"],
            fps=content["fps"],
            num_frames=content["num_frames"],
            annotations=parse_annotations(content["annotations"]),
            intervals={
                kind: tuple(Interval.from_json(video_id, kind, one) for one in content[kind])
                for kind in KINDS
            },
        )


@dataclass(frozen=True)
class Results:
    """What a results' folder holds.

    Attributes
    ----------
    folder : Path
    metrics : dict
        The content of ``metrics.json``.
    threshold : float
    videos : dict of str to ResultVideo
    segments : DataFrame
        ``video_id, segment, start_frame, stop_frame, score, smoothed, anomalous``.
    thumbnails : dict of str to list of dict
        By video, ``frame``, ``score`` and ``jpeg`` (base64) of the score's peaks; empty without.
    """

    folder: Path
    metrics: dict[str, Any]
    threshold: float
    videos: dict[str, ResultVideo]
    segments: pd.DataFrame
    thumbnails: dict[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a results' folder.

        Raises
        ------
        HiProbeError
            Results are missing, not whole, or of another hiprobe.
        """
        try:
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            threshold, videos = _read_intervals(folder / "intervals.json")
            segments = pd.read_csv(
                folder / "scores.csv", dtype={"video_id": str}, keep_default_na=False
            )
            for name in ("ground_truth", "threshold", "provenance", "smoothed"):
                metrics[name]
            segments[list(SEGMENT_COLUMNS)]
            path = folder / "thumbnails.json"
            thumbnails = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(error.filename) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HiProbeError(
                f"{folder}: not whole results of this hiprobe ({error!r}). Evaluate again."
            ) from error
        return cls(folder, metrics, threshold, videos, segments, thumbnails)


def read_intervals(folder: Path) -> dict[str, ResultVideo]:
    """Read ``intervals.json`` alone: the videos of a results' folder.

    Raises
    ------
    HiProbeError
        There is none, or it is damaged.
    """
    path = folder / "intervals.json"
    try:
        return _read_intervals(path)[1]
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HiProbeError(f"{path}: damaged ({error!r}). Evaluate again.") from error


def write_results(
    folder: Path,
    *,
    metrics: Mapping[str, Any],
    threshold: float,
    videos: Mapping[str, ResultVideo],
    segments: pd.DataFrame,
    thumbnails: Mapping[str, list[dict[str, Any]]] | None = None,
) -> None:
    """Write a results' folder; ``metrics.json`` comes last.

    Parameters
    ----------
    folder : Path
    metrics, threshold, videos, segments
        As `Results` has them.
    thumbnails : mapping, optional
        None where there are no pictures: then there is no such file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # First, so that a folder that is being written is not taken for the whole old one.
    for name in STALE:
        (folder / name).unlink(missing_ok=True)
    _write_scores(folder / "scores.csv", segments)
    content = {video_id: video.to_json() for video_id, video in videos.items()}
    write_json(folder / "intervals.json", {"threshold": threshold, "videos": content})
    if thumbnails is not None:
        (folder / "thumbnails.json").write_text(json.dumps(thumbnails), encoding="utf-8")
    write_json(folder / "metrics.json", metrics)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON under a temporary name and rename it: nobody reads half a file."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)


def known_fps(fps: float) -> float | None:
    """Frame rate as JSON has it: null where it is not known."""
    return float(fps) if math.isfinite(fps) else None


def _read_intervals(path: Path) -> tuple[float, dict[str, ResultVideo]]:
    """Read the threshold and the videos; each caller makes its own error of what is wrong."""
    content = json.loads(path.read_text(encoding="utf-8"))
    videos = {
        video_id: ResultVideo.from_json(video_id, video)
        for video_id, video in content["videos"].items()
    }
    return content["threshold"], videos


def _write_scores(path: Path, segments: pd.DataFrame) -> None:
    """Write ``scores.csv``, a row a segment."""
    columns = (*SEGMENT_COLUMNS, "anomalous")
    segments = segments.astype({"anomalous": int})  # a bool would be written as a word
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        # `tolist` gives Python's own numbers, whose text reads back as exactly the same.
        writer.writerows(zip(*(segments[name].tolist() for name in columns), strict=True))


def _missing(path: str | Path) -> HiProbeError:
    return HiProbeError(
        f"{path}: no such file. Give a folder that `hiprobe evaluate` or "
        "`hiprobe evaluate-scores` wrote."
    )
