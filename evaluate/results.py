"""The results' folder: `scores.csv`, `intervals.json`, `thumbnails.json`, `metrics.json`, a report.

The files are the interface: the report and comparisons are made from them alone.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from hiprobe.evaluate.metrics import Ranking
from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.evaluate.thumbnails import write_thumbnails
from hiprobe.store import FeatureStore, HiProbeError, Probe, format_annotations, parse_annotations
from hiprobe.store.ground_truth import anomalous_frame_counts
from hiprobe.store.localization import intervals


def write_results(
    folder: Path,
    scored: ScoredSegments,
    metrics: dict[str, Any],
    probe: Probe | None = None,
    store: FeatureStore | None = None,
) -> None:
    """Write everything; ``metrics.json`` comes last: its existence means the results are whole.

    Parameters
    ----------
    folder : Path
    scored : ScoredSegments
    metrics : dict
        The content of ``metrics.json``; of the probe its layers are added.
    probe : Probe, optional
        What made the scores; None for those of other methods.
    store : FeatureStore, optional
        Where thumbnails may be.
    """
    if probe is not None:
        metrics |= {"layer": probe.layer, "layers": probe.layers}
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("metrics.json", "thumbnails.json", "report.html"):  # of an earlier evaluation
        (folder / name).unlink(missing_ok=True)
    _write_scores(folder / "scores.csv", scored)
    _write_json(folder / "intervals.json", _intervals(scored))
    if store is not None:
        write_thumbnails(folder, store, scored)
    _write_json(folder / "metrics.json", metrics)


@dataclass(frozen=True)
class Results:
    """What a results' folder holds.

    Attributes
    ----------
    folder : Path
    metrics : dict
        The content of ``metrics.json``.
    videos : dict of str to dict
        Of ``intervals.json``: label, category, fps, num_frames, annotations (half-open frame
        ranges), anomalous and normal intervals.
    segments : DataFrame
        ``video_id, segment, start_frame, stop_frame, score, smoothed, anomalous``.
    """

    folder: Path
    metrics: dict[str, Any]
    videos: dict[str, dict[str, Any]]
    segments: pd.DataFrame

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
            content = json.loads((folder / "intervals.json").read_text(encoding="utf-8"))
            segments = pd.read_csv(
                folder / "scores.csv", dtype={"video_id": str}, keep_default_na=False
            )
            videos = {
                video_id: video | {"annotations": parse_annotations(video["annotations"])}
                for video_id, video in content["videos"].items()
            }
            for name in ("ground_truth", "threshold", "provenance", "smoothed"):
                metrics[name]
            segments[["video_id", "start_frame", "stop_frame", "score", "smoothed"]]
        except (FileNotFoundError, NotADirectoryError) as error:
            raise HiProbeError(
                f"{error.filename}: no such file. Give a folder that `hiprobe evaluate` or "
                "`hiprobe evaluate-scores` wrote."
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise HiProbeError(
                f"{folder}: not whole results of this hiprobe ({error!r}). Evaluate again."
            ) from error
        return cls(folder, metrics, videos, segments)

    def ranking(self, column: str, video_ids: list[str] | None = None) -> Ranking:
        """Rank the segments of all videos, or of some, by ``score`` or ``smoothed``."""
        chosen = list(self.videos) if video_ids is None else video_ids
        position = {video_id: i for i, video_id in enumerate(chosen)}
        segments = self.segments[self.segments["video_id"].isin(chosen)]
        video = segments["video_id"].map(position).to_numpy()
        start, stop = segments["start_frame"].to_numpy(), segments["stop_frame"].to_numpy()
        num_anomalous = np.zeros(len(segments), dtype=np.int64)
        for video_id in chosen:
            if ranges := self.videos[video_id]["annotations"]:
                own = video == position[video_id]
                num_anomalous[own] = anomalous_frame_counts(start[own], stop[own], ranges)
        scores = segments[column].to_numpy(dtype=np.float64)
        return Ranking(scores, num_anomalous, stop - start - num_anomalous, video)


def _write_scores(path: Path, scored: ScoredSegments) -> None:
    names = scored.videos.index.to_numpy()
    first = np.searchsorted(scored.video, np.arange(len(names)))
    is_anomalous = scored.is_anomalous
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = ("video_id", "segment", "start_frame", "stop_frame", "score", "smoothed")
        writer.writerow([*columns, "anomalous"])
        for row, video in enumerate(scored.video):
            writer.writerow(
                [
                    names[video],
                    row - first[video],
                    scored.start_frame[row],
                    scored.stop_frame[row],
                    repr(float(scored.raw[row])),
                    repr(float(scored.smoothed[row])),
                    int(is_anomalous[row]),
                ]
            )


def _intervals(scored: ScoredSegments) -> dict[str, Any]:
    """Per video, the anomalous and the normal intervals, in frames and seconds."""
    content = {}
    is_anomalous = scored.is_anomalous
    for index, (video_id, row) in enumerate(scored.videos.iterrows()):
        own = scored.video == index
        start, stop = scored.start_frame[own], scored.stop_frame[own]
        fps = float(row["fps"]) if np.isfinite(row["fps"]) else None
        content[str(video_id)] = {
            "label": row["label"],
            "category": row["category"],
            "fps": fps,
            "num_frames": int(row["num_frames"]),
            "annotations": format_annotations(row["annotations"]),
            **{
                name: [
                    {
                        "start_frame": first,
                        "stop_frame": last,
                        "start_seconds": round(first / fps, 3) if fps else None,
                        "stop_seconds": round(last / fps, 3) if fps else None,
                    }
                    for first, last in intervals(flags, start, stop)
                ]
                for name, flags in (
                    ("anomalous", is_anomalous[own]),
                    ("normal", ~is_anomalous[own]),
                )
            },
        }
    return {"threshold": scored.threshold, "videos": content}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)
