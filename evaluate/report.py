"""One self-contained `report.html`: figures, curves of every video, provenance.

It is made from the results' folder alone (`render_results`, ``hiprobe report``), so it can be made
again when ``hiprobe explain`` has added descriptions or ``hiprobe layers`` a layer analysis.

Plotly draws it in the browser, from data inside the page; a video's curve is drawn when it
scrolls into view and dropped when it is far away, so that 800 videos open as quickly as ten.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hiprobe.evaluate.results import Results
from hiprobe.store.ground_truth import anomalous_frame_counts
from hiprobe.store.manifest import Annotations

TEMPLATES = Path(__file__).parent / "templates"
SCORE_DECIMALS = 4
CURVE_POINTS = 500
LAYER_METRICS = ("kl_divergence", "ldr", "entropy")
UNDEFINED = "undefined here: not measured, or it needs frames of both classes"


@dataclass(frozen=True)
class ReportVideo:
    """One video's curve and ground truth.

    Attributes
    ----------
    video_id, label, category : str
    fps : float
    num_frames : int
    start_frames, stop_frames : (segment,) int
    scores, smoothed : (segment,) float64
    intervals, annotations : tuple of (int, int)
        Detected and true anomalous frame ranges, half-open.
    descriptions : tuple of dict
        Lines of ``descriptions.jsonl``.
    thumbnails : tuple of dict
        ``frame``, ``score`` and ``jpeg`` (base64) of the peaks.
    """

    video_id: str
    label: str
    category: str
    fps: float
    num_frames: int
    start_frames: np.ndarray
    stop_frames: np.ndarray
    scores: np.ndarray
    smoothed: np.ndarray
    intervals: Annotations
    annotations: Annotations
    descriptions: tuple[dict[str, Any], ...] = ()
    thumbnails: tuple[dict[str, Any], ...] = ()

    @property
    def group(self) -> str:
        """What the report filters by: the category, or the label where there is none."""
        return self.category or self.label

    @property
    def error(self) -> float:
        """Mean over frames of the distance between smoothed score and ground truth."""
        lengths = self.stop_frames - self.start_frames
        if not lengths.sum():
            return 0.0
        anomalous = anomalous_frame_counts(self.start_frames, self.stop_frames, self.annotations)
        too_high, too_low = np.abs(self.smoothed), np.abs(1 - self.smoothed)
        return float((too_high @ (lengths - anomalous) + too_low @ anomalous) / lengths.sum())


@dataclass(frozen=True)
class ReportContent:
    """Everything that the report shows.

    Attributes
    ----------
    title : str
    metrics : dict
        The content of ``metrics.json``; a missing or undefined value shows as a dash.
    layers : dict of str to list of (float or None)
        `Probe.layers`: index = layer, None for layers that are not stored. Empty for scores
        that come from elsewhere: the report then says nothing about layers.
    chosen_layer : int
    threshold : float
    roc : pair of (point,) float64
        False and true positive rates of the smoothed scores.
    pr : pair of (point,) float64
        Recall and precision.
    videos : list of ReportVideo
    provenance : dict
    warnings : list of str
    analysis : dict or None
        What ``hiprobe layers`` found: ``table``, ``tsne`` (lists by column) and ``summary``.
    """

    title: str
    metrics: dict[str, Any]
    layers: dict[str, list[float | None]]
    chosen_layer: int
    threshold: float
    roc: tuple[np.ndarray, np.ndarray]
    pr: tuple[np.ndarray, np.ndarray]
    videos: list[ReportVideo]
    provenance: dict[str, Any]
    warnings: list[str]
    analysis: dict[str, Any] | None = None


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
    true, false = results.ranking("smoothed").counts()
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
        analysis=_read_analysis(folder / "layers"),
    )
    write_report(folder / "report.html", content)


def _title(metrics: dict[str, Any]) -> str:
    provenance = metrics["provenance"]
    if "store" not in provenance:
        return Path(provenance["scores"]["path"]).name
    return f"{Path(provenance['store']['model']['id']).name}, layer {metrics['layer']}"


def _report_videos(results: Results) -> list[ReportVideo]:
    descriptions = _read_descriptions(results)
    path = results.folder / "thumbnails.json"
    thumbnails = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    segments = dict(list(results.segments.groupby("video_id", sort=False)))
    return [
        ReportVideo(
            video_id=video_id,
            label=video["label"],
            category=video["category"],
            fps=video["fps"] or math.nan,
            num_frames=video["num_frames"],
            start_frames=segments[video_id]["start_frame"].to_numpy(),
            stop_frames=segments[video_id]["stop_frame"].to_numpy(),
            scores=segments[video_id]["score"].to_numpy(dtype=np.float64),
            smoothed=segments[video_id]["smoothed"].to_numpy(dtype=np.float64),
            intervals=tuple((one["start_frame"], one["stop_frame"]) for one in video["anomalous"]),
            annotations=video["annotations"],
            descriptions=descriptions.get(video_id, ()),
            thumbnails=tuple(thumbnails.get(video_id, ())),
        )
        for video_id, video in results.videos.items()
    ]


def _read_descriptions(results: Results) -> dict[str, tuple[dict[str, Any], ...]]:
    """Descriptions of the intervals as they are now, by video, in the order of time."""
    path = results.folder / "descriptions.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    found: dict[str, list[dict[str, Any]]] = {}
    for text in lines:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # torn: `hiprobe explain` was killed while it wrote
        video = results.videos.get(line.get("video_id"))
        if video is None or "text" not in line:
            continue
        interval = (line["start_frame"], line["stop_frame"])
        if interval in {(one["start_frame"], one["stop_frame"]) for one in video[line["kind"]]}:
            found.setdefault(line["video_id"], []).append(line)
    return {
        video_id: tuple(sorted(lines, key=lambda line: line["start_frame"]))
        for video_id, lines in found.items()
    }


def _read_analysis(folder: Path) -> dict[str, Any] | None:
    """The tables of ``hiprobe layers``, if they are there."""
    if not (folder / "summary.json").exists():
        return None
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in ("layers", "tsne")}
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    columns = ("layer", "saliency", "silhouette", "cv_auc", "cv_auc_std", "chosen_share")
    return {
        "table": {name: _rounded(tables["layers"][name].to_numpy()) for name in columns},
        "tsne": [
            {
                "layer": int(layer),
                **{
                    label: [_rounded(own[axis].to_numpy()) for axis in ("x", "y")]
                    for label in ("normal", "anomalous")
                    for own in [points[points["label"] == label]]
                },
            }
            for layer, points in tables["tsne"].groupby("layer")
        ],
        "summary": summary,
    }


def write_report(path: Path, content: ReportContent) -> None:
    """Render the report to `path`, the videos with the largest error first."""
    from plotly.offline import get_plotlyjs

    videos = sorted(content.videos, key=lambda video: (-video.error, video.video_id))
    page = (
        _environment(content.metrics)
        .get_template("report.html.j2")
        .render(
            report=content,
            videos=videos,
            groups=sorted({video.group for video in videos}),
            layer_rows=_layer_rows(content.layers),
            provenance=list(_flatten(content.provenance)),
            data=_page_data(content, videos),
            css=_inline("report.css"),
            script=_inline("report.js"),
            plotly=Markup(get_plotlyjs()),
        )
    )
    path.write_text(page, encoding="utf-8")


def _environment(metrics: dict[str, Any]) -> Environment:
    """Escape everything; what is ours and already HTML comes as `Markup`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": _figure,
        "range": _range,
        "count": _count,
        "plain": _plain,
        "span": _span,
    }
    environment.globals["metric"] = lambda *keys: _lookup(metrics, *keys)
    return environment


def _inline(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _page_data(content: ReportContent, videos: list[ReportVideo]) -> dict[str, Any]:
    """Collect what the page's script draws, as JSON without NaN."""
    return {
        "threshold": content.threshold,
        "prevalence": _prevalence(content.metrics),
        "layers": _with_z_scores(content.layers),
        "chosenLayer": content.chosen_layer,
        "roc": [_rounded(values) for values in content.roc],
        "pr": [_rounded(values) for values in content.pr],
        "analysis": content.analysis,
        "videos": [_video_data(video) for video in videos],
    }


def _video_data(video: ReportVideo) -> dict[str, Any]:
    return {
        "fps": video.fps if math.isfinite(video.fps) else None,
        "numFrames": video.num_frames,
        "starts": video.start_frames.tolist(),
        "stops": video.stop_frames.tolist(),
        "scores": _rounded(video.scores),
        "smoothed": _rounded(video.smoothed),
        "intervals": video.intervals,
        "annotations": video.annotations,
        "thumbnails": video.thumbnails,
    }


def _rounded(values: np.ndarray) -> list[float | None]:
    rounded = np.round(np.asarray(values, dtype=np.float64), SCORE_DECIMALS).tolist()
    return [value if math.isfinite(value) else None for value in rounded]


def _prevalence(metrics: dict[str, Any]) -> float | None:
    """Share of anomalous frames: the average precision of chance."""
    anomalous, frames = metrics.get("num_anomalous_frames"), metrics.get("num_frames")
    return anomalous / frames if anomalous is not None and frames else None


def _with_z_scores(layers: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    """Add each metric's z-scores over the layers above 0, where they are missing."""
    missing = [name for name in LAYER_METRICS if name in layers and f"{name}_z" not in layers]
    return layers | {f"{name}_z": _z_scores(layers[name]) for name in missing}


def _z_scores(values: list[float | None]) -> list[float | None]:
    stored = np.array([value for value in values[1:] if value is not None])
    if not len(stored):
        return [None] * len(values)
    mean, std = stored.mean(), stored.std() or 1.0  # a constant metric contributes 0
    above = [None if value is None else float((value - mean) / std) for value in values[1:]]
    return [None, *above]


def _layer_rows(layers: dict[str, list[float | None]]) -> list[list[float | None]]:
    """One row a layer: the three metrics and the saliency."""
    columns = [layers.get(name, []) for name in (*LAYER_METRICS, "saliency")]
    num_layers = max(map(len, columns))
    return [
        [column[layer] if layer < len(column) else None for column in columns]
        for layer in range(num_layers)
    ]


def _lookup(content: Any, *keys: str) -> Any:
    """Go down nested dicts; None where a step is missing or the value is not finite."""
    for key in keys:
        content = content.get(key) if content is not None else None
    values = content if isinstance(content, list | tuple) else [content]
    is_undefined = any(isinstance(value, float) and not math.isfinite(value) for value in values)
    return None if is_undefined or None in values else content


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _dash(reason: str = UNDEFINED) -> Markup:
    return Markup('<span class="none" title="{}">–</span>').format(reason)


def _figure(value: float | None, interval: list[float] | None = None) -> Markup:
    """Format a share as three decimals, with its interval below; a dash where undefined."""
    if not _is_number(value):
        return _dash()
    text = Markup("{:.3f}").format(value)
    if interval:
        text += Markup(' <span class="ci">{}</span>').format(_range(interval))
    return text


def _range(interval: list[float] | None) -> Markup:
    return Markup("{:.3f}–{:.3f}").format(*interval) if interval else _dash("no interval")


def _count(value: int | None) -> Markup:
    return _dash() if value is None else Markup("{:,}").format(value)


def _plain(value: float | None, reason: str) -> Markup:
    """Format a number that is no share to four digits."""
    return Markup("{:#.4g}").format(value) if _is_number(value) else _dash(reason)


def _span(line: dict[str, Any]) -> str:
    """Frames and, where the frame rate is known, seconds of an interval."""
    text = f"frames {line['start_frame']}–{line['stop_frame']}"
    if line.get("start_seconds") is None:
        return text
    return f"{text}, {line['start_seconds']:.1f}–{line['stop_seconds']:.1f} s"


def _flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, "–" if value is None else str(value)
