"""One self-contained `report.html`: figures, curves of every video, provenance.

Plotly draws it in the browser, from data inside the page; a video's curve is drawn when it
scrolls into view, so that 800 videos open as quickly as ten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hiprobe.store.manifest import Annotations

TEMPLATES = Path(__file__).parent / "templates"
SCORE_DECIMALS = 4


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

    @property
    def error(self) -> float:
        """Mean over frames of the distance between smoothed score and ground truth."""
        lengths = self.stop_frames - self.start_frames
        truth = np.zeros(len(lengths))
        for start, stop in self.annotations:
            overlap = np.minimum(self.stop_frames, stop) - np.maximum(self.start_frames, start)
            truth += np.maximum(overlap, 0) / lengths
        wrong = self.smoothed * (1 - truth) + (1 - self.smoothed) * truth
        return float(wrong @ lengths / lengths.sum())


@dataclass(frozen=True)
class ReportContent:
    """Everything that the report shows.

    Attributes
    ----------
    title : str
    metrics : dict
        The content of ``metrics.json``.
    layers : dict of str to list of (float or None)
        `Probe.layers`.
    chosen_layer : int
    threshold : float
    roc : pair of (point,) float64
        False and true positive rates of the smoothed scores.
    pr : pair of (point,) float64
        Recall and precision.
    videos : list of ReportVideo
    provenance : dict
    warnings : list of str
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


def write_report(path: Path, content: ReportContent) -> None:
    """Render the report to `path`."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["figure"] = _figure
    videos = sorted(content.videos, key=lambda video: -video.error)
    page = environment.get_template("report.html.j2").render(
        report=content,
        videos=videos,
        categories=sorted({video.category or video.label for video in videos}),
        flat_provenance=list(_flatten(content.provenance)),
        data={
            "threshold": content.threshold,
            "layers": content.layers,
            "chosenLayer": content.chosen_layer,
            "roc": [_rounded(values) for values in content.roc],
            "pr": [_rounded(values) for values in content.pr],
            "videos": [_video_data(video) for video in videos],
        },
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )
    path.write_text(page, encoding="utf-8")


def _video_data(video: ReportVideo) -> dict[str, Any]:
    return {
        "fps": video.fps,
        "edges": [*video.start_frames.tolist(), int(video.stop_frames[-1])],
        "scores": _rounded(video.scores),
        "smoothed": _rounded(video.smoothed),
        "intervals": video.intervals,
        "annotations": video.annotations,
    }


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values, SCORE_DECIMALS).tolist()


def _figure(value: float | None, interval: list[float] | None = None) -> Markup:
    """Format a share as three decimals, with its interval; a dash where it is undefined."""
    if value is None:
        return Markup('<span title="undefined: one class only">–</span>')
    text = Markup("{:.3f}").format(value)
    if interval:
        text += Markup(' <span class="ci">{:.3f}–{:.3f}</span>').format(*interval)
    return text


def _flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, str(value)
