"""ROC and precision-recall curves of a results' folder: points as CSV, figures as PDF and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # needs no display; has to come before pyplot
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hiprobe.evaluate.scored import rank_results
from hiprobe.store import HiProbeError
from hiprobe.store.results import Results
from hiprobe.store.single_files import only_writer, replaced, write_text

COLUMNS = {"raw": "score", "smoothed": "smoothed"}


def curve_points(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every point of both curves, at frame level, from the folder's files alone.

    Parameters
    ----------
    results : Results

    Returns
    -------
    roc : DataFrame
        ``scores`` ('raw' or 'smoothed'), ``threshold`` (a frame counts as anomalous from it on;
        infinite at the origin), ``false_positive_rate``, ``true_positive_rate``.
    precision_recall : DataFrame
        ``scores``, ``threshold``, ``recall``, ``precision``; average precision is the sum of the
        precisions times what recall gains.

    Raises
    ------
    HiProbeError
        The frames are of one class, so neither curve is defined.
    """
    roc, precision_recall = [], []
    for name, column in COLUMNS.items():
        ranking = rank_results(results, column)
        true, false = ranking.counts()
        if not len(true) or not true[-1] or not false[-1]:
            raise HiProbeError(
                f"{results.folder}: its frames are all of one class: no ROC or precision-recall "
                "curve is defined."
            )
        # A score above which no frame lies, of an empty segment, is no point.
        is_point = true + false > 0
        true, false, thresholds = true[is_point], false[is_point], ranking.thresholds[is_point]
        roc.append(
            pd.DataFrame(
                {
                    "scores": name,
                    "threshold": np.append(np.inf, thresholds),
                    "false_positive_rate": np.append(0.0, false / false[-1]),
                    "true_positive_rate": np.append(0.0, true / true[-1]),
                }
            )
        )
        precision_recall.append(
            pd.DataFrame(
                {
                    "scores": name,
                    "threshold": thresholds,
                    "recall": true / true[-1],
                    "precision": true / (true + false),
                }
            )
        )
    return pd.concat(roc, ignore_index=True), pd.concat(precision_recall, ignore_index=True)


def write_curves(folder: Path) -> list[Path]:
    """Write ``roc`` and ``precision_recall`` as CSV, PDF and SVG into a results' folder.

    Raises
    ------
    HiProbeError
        It is no results' folder, or its frames are of one class.
    """
    results = Results.read(folder)
    roc, precision_recall = curve_points(results)
    figures = {
        "roc": (roc, "false_positive_rate", "true_positive_rate", "auc", "AUC", "default"),
        # Between two points the precision is that of the right one: the area is then the AP.
        "precision_recall": (precision_recall, "recall", "precision", "ap", "AP", "steps-pre"),
    }
    written = []
    # Two that write by turns would mix their files; the second waits.
    with only_writer(folder, waits=True):
        for name, (points, across, up, metric, title, style) in figures.items():
            written.append(folder / f"{name}.csv")
            write_text(written[-1], points.to_csv(index=False))
            figure = _figure(points, across, up, style, _areas(results, metric, title))
            for ending in ("pdf", "svg"):
                written.append(folder / f"{name}.{ending}")
                # Without the date: the same results give the same files.
                metadata = {"Date": None} if ending == "svg" else {"CreationDate": None}
                with replaced(written[-1]) as partial:
                    figure.savefig(partial, format=ending, metadata=metadata)
            plt.close(figure)
    return written


def _areas(results: Results, metric: str, title: str) -> dict[str, str]:
    """The legend's text for each curve, with the area that ``metrics.json`` has."""
    areas = {name: results.metrics.get(name) for name in COLUMNS}
    return {
        name: f"{name}, {title} {own[metric]:.4f}"
        if isinstance(own, dict) and isinstance(own.get(metric), float)
        else name
        for name, own in areas.items()
    }


def _figure(points: pd.DataFrame, across: str, up: str, style: str, labels: dict[str, str]) -> Any:
    """Draw a curve for each kind of scores."""
    figure, axes = plt.subplots(figsize=(3.5, 3.2), layout="constrained")
    for name, own in points.groupby("scores", sort=False):
        axes.plot(
            own[across], own[up], drawstyle=style, linewidth=1.2, label=labels[str(name)],
            linestyle="-" if name == "smoothed" else "--",
        )  # fmt: skip
    axes.set(
        xlabel=across.replace("_", " "), ylabel=up.replace("_", " "), xlim=(0, 1), ylim=(0, 1.01)
    )
    axes.legend(fontsize=8)
    return figure
