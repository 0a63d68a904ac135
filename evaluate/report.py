"""One self-contained `report.html`: figures, curves of every video, provenance.

It is made from the results' folder alone (`render_results`, ``hiprobe report``), so it can be made
again when ``hiprobe explain`` has added descriptions or ``hiprobe layers`` a layer analysis.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import UndefinedError

from hiprobe.evaluate.report_content import ReportContent, ReportVideo
from hiprobe.evaluate.report_page import render_page, rounded
from hiprobe.evaluate.scored import rank_results
from hiprobe.store import HiProbeError
from hiprobe.store.descriptions import read_descriptions
from hiprobe.store.layer_tables import LayerTables
from hiprobe.store.probe_file import DEFAULT_METHOD
from hiprobe.store.probe_members import layer_list
from hiprobe.store.provenance import Provenance
from hiprobe.store.results import Interval, Results, write_results
from hiprobe.store.single_files import make_folder, only_writer, write_text
from hiprobe.store.taps import HIDDEN_STATES
from hiprobe.store.windows import COLUMNS

CURVE_POINTS = 500


def publish(folder: Path, **results: Any) -> None:
    """Write a results' folder and its report, while no other process does.

    Parameters
    ----------
    folder : Path
    **results
        As `write_results` takes them.

    Raises
    ------
    StoreError
        The disk is full, or refuses.
    """
    make_folder(folder)
    # A second evaluation waits these seconds: two that write by turns would mix their files.
    with only_writer(folder, waits=True):
        write_results(folder, **results)
        _render(folder)


def render_results(folder: Path) -> None:
    """Make ``report.html`` of a results' folder from what lies in it.

    Beside the results themselves: ``descriptions.jsonl`` of `hiprobe explain`,
    ``thumbnails.json``, and in ``layers/`` the tables of `hiprobe layers`.

    Raises
    ------
    HiProbeError
        The folder holds no whole results.
    """
    Results.read(folder)  # before a lock is made in what is no such folder
    with only_writer(folder, waits=True):
        _render(folder)


def _render(folder: Path) -> None:
    results = Results.read(folder)
    try:
        content = _content(results)
        page = render_page(content)
    # The page is made of these files and nothing else: what it stumbles over is in them.
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        UndefinedError,
    ) as error:
        raise HiProbeError(
            f"{folder / 'metrics.json'}: not whole results of this hiprobe ({error!r:.200}): the "
            "report cannot be made of it. Evaluate again."
        ) from error
    write_text(folder / "report.html", page)


def _content(results: Results) -> ReportContent:
    """Gather what the report shows."""
    metrics = results.metrics
    true, false = rank_results(results, "smoothed").counts()
    # A page does not grow with the number of distinct scores.
    thin = np.unique(np.linspace(0, len(true) - 1, min(len(true), CURVE_POINTS)).astype(int))
    recall = true[thin] / max(true[-1], 1)
    precision = true[thin] / np.maximum(true[thin] + false[thin], 1)
    return ReportContent(
        title=_title(metrics),
        metrics=metrics,
        layers=metrics.get("layers", {}),
        chosen_layers=_layers_read(metrics),
        threshold=metrics["threshold"],
        roc=(
            np.concatenate([[0.0], false[thin] / max(false[-1], 1)]),
            np.concatenate([[0.0], recall]),
        ),
        pr=(np.concatenate([[0.0], recall]), np.concatenate([[1.0], precision])),
        videos=_report_videos(results),
        provenance=metrics["provenance"],
        warnings=metrics["warnings"],
        analysis=_analysis(results.folder / "layers"),
        has_frame_labels=_has_frame_labels(results),
    )


def _has_frame_labels(results: Results) -> bool:
    """Whether it is known how many frames are anomalous."""
    return results.metrics.get("num_anomalous_frames", 0) is not None


def _title(metrics: dict[str, Any]) -> str:
    """The model, the method and the layers, or the name of the scores' file."""
    provenance = metrics["provenance"]
    if "store" not in provenance:
        return Path(provenance["scores"]["path"]).name
    layers = _layers_read(metrics)
    named = f"layer{'s' * (len(layers) > 1)} {layer_list(layers)}"
    taps = dict.fromkeys(one["tap"] for one in metrics.get("inputs", ()))
    method = metrics.get("method", DEFAULT_METHOD)
    parts = [Path(Provenance.of(provenance["store"]).model.id).name]
    parts += [method] * (method != DEFAULT_METHOD)
    parts += [", ".join(taps)] * ([*taps] not in ([], [HIDDEN_STATES]))
    return ", ".join([*parts, named])


def _layers_read(metrics: dict[str, Any]) -> tuple[int, ...]:
    """The layers that the scores are made of; older results name the only one."""
    layer = metrics.get("layer")
    return tuple(metrics.get("layers_read") or ([] if layer is None else [layer]))


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
            has_frame_labels=_has_frame_labels(results),
            windows=_windows(segments[video_id]),
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


def _windows(segments: pd.DataFrame) -> tuple[tuple[int, int], ...]:
    """What the model saw of each segment, where the results have it."""
    if not {*COLUMNS} <= {*segments}:
        return ()
    return tuple((int(a), int(b)) for a, b in segments[[*COLUMNS]].to_numpy())


def _analysis(folder: Path) -> dict[str, Any] | None:
    """The tables of ``hiprobe layers`` by column, as the page's script reads them."""
    tables = LayerTables.read(folder)
    if tables is None:
        return None
    table = tables.table.reset_index()
    columns = ["layer", "saliency", "silhouette", "cv_auc", "cv_auc_std", "chosen_share"]
    columns += [name for name in ("lens_auc",) if name in table]
    try:
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
            "summary": _checked_summary(tables.summary),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise HiProbeError(
            f"{folder}: not whole tables of layers ({error!r:.200}). Make them again with "
            "`hiprobe layers`, or remove the folder."
        ) from error


def _checked_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of the summary that the page shows; one that is not defined is null."""
    names = (
        "dlsp_layer",
        "best_cv_layer",
        "cv_auc_at_dlsp_layer",
        "cv_auc_at_best_layer",
        "spearman",
        "num_draws",
        "draw_fraction",
    )
    shown = {name: summary[name] for name in names}
    if strangers := [n for n, v in shown.items() if not isinstance(v, int | float)]:
        raise ValueError(f"{strangers[0]} is no number")
    return {name: value if math.isfinite(value) else None for name, value in shown.items()}
