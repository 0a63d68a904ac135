"""Writing the results' folder: `scores.csv`, `intervals.json`, `report.html`, `metrics.json`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.evaluate.localization import intervals
from hiprobe.evaluate.report import ReportContent, ReportVideo, write_report
from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.store import Probe, format_annotations

CURVE_POINTS = 500


def write_results(
    folder: Path, scored: ScoredSegments, metrics: dict[str, Any], probe: Probe | None = None
) -> None:
    """Write everything; ``metrics.json`` comes last: its existence means the results are whole.

    Parameters
    ----------
    folder : Path
    scored : ScoredSegments
    metrics : dict
        The content of ``metrics.json``.
    probe : Probe, optional
        What made the scores; None for those of other methods.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_scores(folder / "scores.csv", scored)
    _write_json(folder / "intervals.json", _intervals(scored))
    write_report(folder / "report.html", _report(scored, metrics, probe))
    _write_json(folder / "metrics.json", metrics)


def _write_scores(path: Path, scored: ScoredSegments) -> None:
    names = scored.videos.index.to_numpy()
    first = np.searchsorted(scored.video, np.arange(len(names)))
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
                    int(scored.is_anomalous[row]),
                ]
            )


def _detected(scored: ScoredSegments, index: int) -> list[tuple[int, int]]:
    own = scored.video == index
    return intervals(scored.is_anomalous[own], scored.start_frame[own], scored.stop_frame[own])


def _intervals(scored: ScoredSegments) -> dict[str, Any]:
    """Per video, the anomalous and the normal intervals, in frames and seconds."""
    content = {}
    for index, (video_id, row) in enumerate(scored.videos.iterrows()):
        own = scored.video == index
        start, stop = scored.start_frame[own], scored.stop_frame[own]
        fps = float(row["fps"])
        content[str(video_id)] = {
            "label": row["label"],
            "fps": fps if np.isfinite(fps) else None,
            "num_frames": int(row["num_frames"]),
            "annotations": format_annotations(row["annotations"]),
            **{
                name: [
                    {
                        "start_frame": first,
                        "stop_frame": last,
                        "start_seconds": _seconds(first, fps),
                        "stop_seconds": _seconds(last, fps),
                    }
                    for first, last in intervals(flags, start, stop)
                ]
                for name, flags in (
                    ("anomalous", scored.is_anomalous[own]),
                    ("normal", ~scored.is_anomalous[own]),
                )
            },
        }
    return {"threshold": scored.threshold, "videos": content}


def _seconds(frame: int, fps: float) -> float | None:
    """Time of a frame; None where the frame rate is not known."""
    return round(frame / fps, 3) if np.isfinite(fps) else None


def _report(scored: ScoredSegments, metrics: dict[str, Any], probe: Probe | None) -> ReportContent:
    true, false = scored.ranking(scored.smoothed).counts()
    thin = np.unique(np.linspace(0, len(true) - 1, min(len(true), CURVE_POINTS)).astype(int))
    recall = true[thin] / max(true[-1], 1)
    videos = []
    for index, (video_id, row) in enumerate(scored.videos.iterrows()):
        own = scored.video == index
        videos.append(
            ReportVideo(
                video_id=str(video_id),
                label=row["label"],
                category=row["category"],
                fps=float(row["fps"]),
                num_frames=int(row["num_frames"]),
                start_frames=scored.start_frame[own],
                stop_frames=scored.stop_frame[own],
                scores=scored.raw[own],
                smoothed=scored.smoothed[own],
                intervals=tuple(_detected(scored, index)),
                annotations=row["annotations"],
            )
        )
    if probe is None:
        title = Path(metrics["provenance"]["scores"]["path"]).name
    else:
        model = Path(metrics["provenance"]["store"]["model"]["id"]).name
        title = f"{model}, layer {probe.layer}"
    return ReportContent(
        title=title,
        metrics=metrics,
        layers={} if probe is None else probe.layers,
        chosen_layer=0 if probe is None else probe.layer,
        threshold=scored.threshold,
        roc=(
            np.concatenate([[0.0], false[thin] / max(false[-1], 1)]),
            np.concatenate([[0.0], recall]),
        ),
        pr=(
            np.concatenate([[0.0], recall]),
            np.concatenate([[1.0], true[thin] / np.maximum(true[thin] + false[thin], 1)]),
        ),
        videos=videos,
        provenance=metrics["provenance"],
        warnings=metrics["warnings"],
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
