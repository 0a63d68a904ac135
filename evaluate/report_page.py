"""`report.html` as a page: templates, filters, and the data inside it.

Plotly draws it in the browser, from data inside the page; a video's curve is drawn when it
scrolls into view and dropped when it is far away, so that 800 videos open as quickly as ten.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hiprobe.evaluate.report_content import ReportContent, ReportVideo
from hiprobe.store.probe_members import layer_list
from hiprobe.store.results import Interval

TEMPLATES = Path(__file__).parent / "templates"
SCORE_DECIMALS = 4
LAYER_METRICS = ("kl_divergence", "ldr", "entropy")
UNDEFINED = "undefined here: not measured, or it needs frames of both classes"


def render_page(content: ReportContent) -> str:
    """Render the report, the videos with the largest error first."""
    from plotly.offline import get_plotlyjs  # slow to import

    videos = sorted(content.videos, key=lambda video: (-video.error, video.video_id))
    return (
        _environment(content.metrics)
        .get_template("report.html.j2")
        .render(
            report=content,
            videos=videos,
            groups=sorted({video.group for video in videos}),
            layer_rows=_layer_rows(content.layers),
            chosen=layer_list(content.chosen_layers),
            provenance=list(_flatten(content.provenance)),
            data=_page_data(content, videos),
            css=_inline("report.css"),
            script=_inline("report.js"),
            plotly=Markup(get_plotlyjs()),
        )
    )


def _environment(metrics: dict[str, Any]) -> Environment:
    """Escape everything; what is ours and already HTML comes as `Markup`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty place
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
    # Any figure may be missing (one class only, another method): templates ask this.
    environment.globals["metric"] = lambda *keys: _lookup(metrics, *keys)
    return environment


def _inline(name: str) -> Markup:
    """Read one of our own files to stand inside the page."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _page_data(content: ReportContent, videos: list[ReportVideo]) -> dict[str, Any]:
    """Collect what the page's script draws, as JSON without NaN."""
    return {
        "threshold": content.threshold,
        "prevalence": _prevalence(content.metrics),
        "layers": _with_z_scores(content.layers),
        "chosenLayers": content.chosen_layers,
        "chosenText": layer_list(content.chosen_layers),
        "roc": [rounded(values) for values in content.roc],
        "pr": [rounded(values) for values in content.pr],
        "analysis": content.analysis,
        "videos": [_video_data(video) for video in videos],
    }


def _video_data(video: ReportVideo) -> dict[str, Any]:
    """One video's curve and marks, for the script."""
    return {
        "fps": video.fps if math.isfinite(video.fps) else None,
        "numFrames": video.num_frames,
        "starts": video.start_frames.tolist(),
        "stops": video.stop_frames.tolist(),
        "windows": video.windows,
        "scores": rounded(video.scores),
        "smoothed": rounded(video.smoothed),
        "intervals": video.intervals,
        "annotations": video.annotations,
        "thumbnails": video.thumbnails,
    }


def rounded(values: np.ndarray) -> list[float | None]:
    """Numbers as the page's script reads them: four decimals, null where not finite."""
    numbers = np.round(np.asarray(values, dtype=np.float64), SCORE_DECIMALS).tolist()
    return [value if math.isfinite(value) else None for value in numbers]


def _prevalence(metrics: dict[str, Any]) -> float | None:
    """Share of anomalous frames: the average precision of chance."""
    anomalous, frames = metrics.get("num_anomalous_frames"), metrics.get("num_frames")
    return anomalous / frames if anomalous is not None and frames else None


def _with_z_scores(layers: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    """Add each metric's z-scores over the layers above 0, where they are missing."""
    missing = [name for name in LAYER_METRICS if name in layers and f"{name}_z" not in layers]
    return layers | {f"{name}_z": _z_scores(layers[name]) for name in missing}


def _z_scores(values: list[float | None]) -> list[float | None]:
    """Z-scores of a metric over the layers above 0; index = layer."""
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
    """Whether there is a figure to show."""
    return value is not None and math.isfinite(value)


def _dash(reason: str = UNDEFINED) -> Markup:
    """Stand in for a number that is not there, with the reason on hover."""
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
    """Format a confidence interval."""
    return Markup("{:.3f}–{:.3f}").format(*interval) if interval else _dash("no interval")


def _count(value: int | None) -> Markup:
    """Format a whole number with its thousands apart."""
    return _dash() if value is None else Markup("{:,}").format(value)


def _plain(value: float | None, reason: str) -> Markup:
    """Format a number that is no share to four digits."""
    return Markup("{:#.4g}").format(value) if _is_number(value) else _dash(reason)


def _span(interval: Interval) -> str:
    """Frames and, where the frame rate is known, seconds of an interval."""
    text = f"frames {interval.start_frame}–{interval.stop_frame}"
    if interval.start_seconds is None:
        return text
    return f"{text}, {interval.start_seconds:.1f}–{interval.stop_seconds:.1f} s"


def _flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Rows of the table of provenance: dotted names and values."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, "–" if value is None else str(value)
