"""One self-contained `report.html`: figures, curves of every video, provenance.

It is made from the results' folder alone (`render_results`, ``hiprobe report``), so it can be made
again when ``hiprobe explain`` has added descriptions or ``hiprobe layers`` a layer analysis.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.evaluate.report_content import ReportContent, ReportVideo
from hiprobe.evaluate.report_page import rounded, write_report
from hiprobe.evaluate.scored import rank_results
from hiprobe.store.descriptions import read_descriptions
from hiprobe.store.layer_tables import LayerTables
from hiprobe.store.provenance import Provenance
from hiprobe.store.results import Interval, Results

CURVE_POINTS = 500


def render_results(folder: Path) -> None:
    """Make ``report.html`` of a results' folder from what lies in it.

    Beside the results themselves: ``descriptions.jsonl`` of `hiprobe explain`,
    ``thumbnails.json``, and in ``layers/`` the tables of `hiprobe layers`.

    Raises
    ------
    HiProbeError
        The folder holds no whole results.
    """
    results = Results.read(folder)
    metrics = results.metrics
    true, false = rank_results(results, "smoothed").counts()
    # A page does not grow with the number of distinct scores.
    thin = np.unique(np.linspace(0, len(true) - 1, min(len(true), CURVE_POINTS)).astype(int))
    recall = true[thin] / max(true[-1], 1)
    precision = true[thin] / np.maximum(true[thin] + false[thin], 1)
    content = ReportContent(
        title=_title(metrics),
        metrics=metrics,
        layers=metrics.get("layers", {}),
        chosen_layer=metrics.get("layer", 0),
        threshold=metrics["threshold"],
        roc=(
            np.concatenate([[0.0], false[thin] / max(false[-1], 1)]),
            np.concatenate([[0.0], recall]),
        ),
        pr=(np.concatenate([[0.0], recall]), np.concatenate([[1.0], precision])),
        videos=_report_videos(results),
        provenance=metrics["provenance"],
        warnings=metrics["warnings"],
        analysis=_analysis(LayerTables.read(folder / "layers")),
    )
    write_report(folder / "report.html", content)


def _title(metrics: dict[str, Any]) -> str:
    """The model and its layer, or the name of the scores' file."""
    provenance = metrics["provenance"]
    if "store" not in provenance:
        return Path(provenance["scores"]["path"]).name
    return f"{Path(Provenance.of(provenance['store']).model.id).name}, layer {metrics['layer']}"


def _report_videos(results: Results) -> list[ReportVideo]:
    """Each video with what the folder holds of it."""
    descriptions = _descriptions(results)
    segments = dict(list(results.segments.groupby("video_id", sort=False)))
    return [
        ReportVideo(
            video_id=video_id,
            label=video.label,
            category=video.category,
            fps=video.fps or math.nan,
            num_frames=video.num_frames,
            start_frames=segments[video_id]["start_frame"].to_numpy(),
            stop_frames=segments[video_id]["stop_frame"].to_numpy(),
            scores=segments[video_id]["score"].to_numpy(dtype=np.float64),
            smoothed=segments[video_id]["smoothed"].to_numpy(dtype=np.float64),
            intervals=tuple(one.frames for one in video.intervals["anomalous"]),
            annotations=video.annotations,
            descriptions=descriptions.get(video_id, ()),
            thumbnails=tuple(results.thumbnails.get(video_id, ())),
        )
        for video_id, video in results.videos.items()
    ]


def _descriptions(results: Results) -> dict[str, tuple[tuple[Interval, str], ...]]:
    """Descriptions by video, in the order of time.

    Those of intervals that another evaluation has moved since are left out.
    """
    found: dict[str, list[tuple[Interval, str]]] = {}
    for interval, text in read_descriptions(results.folder)[1].items():
        video = results.videos.get(interval.video_id)
        current = () if video is None else video.intervals.get(interval.kind, ())
        if interval.frames in {one.frames for one in current}:
            found.setdefault(interval.video_id, []).append((interval, text))
    return {
        video_id: tuple(sorted(said, key=lambda one: one[0].start_frame))
        for video_id, said in found.items()
    }


def _analysis(tables: LayerTables | None) -> dict[str, Any] | None:
    """The tables of ``hiprobe layers`` by column, as the page's script reads them."""
    if tables is None:
        return None
    table = tables.table.reset_index()
    columns = ("layer", "saliency", "silhouette", "cv_auc", "cv_auc_std", "chosen_share")
    return {
        "table": {name: rounded(table[name].to_numpy()) for name in columns},
        "tsne": [
            {
                "layer": int(layer),
                **{
                    label: [rounded(own[axis].to_numpy()) for axis in ("x", "y")]
                    for label in ("normal", "anomalous")
                    for own in [points[points["label"] == label]]
                },
            }
            for layer, points in tables.embeddings.groupby("layer")
        ],
        "summary": tables.summary,
    }
