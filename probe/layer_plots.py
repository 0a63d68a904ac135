"""The pictures of `hiprobe layers`, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # needs no display; has to come before pyplot
import matplotlib.pyplot as plt
import pandas as pd

from hiprobe.store.layer_tables import LayerTables
from hiprobe.store.single_files import make_folder, only_writer, replaced

NORMAL, ANOMALOUS, ACCENT = "#1f6feb", "#cf222e", "#0f766e"
METRICS = {"kl_divergence_z": "KL divergence", "ldr_z": "LDR", "entropy_z": "entropy"}


def write_analysis(tables: LayerTables, folder: Path) -> list[Path]:
    """Write the tables (see `LayerTables.write`) and the figures; return all paths."""
    make_folder(folder)
    # Two that write by turns would mix their files; the second waits these seconds.
    with only_writer(folder, waits=True):
        written = tables.write(folder)
        figures = {
            "saliency": _saliency(tables),
            "separation": _separation(tables),
            "tsne": _tsne(tables),
        }
        for name, figure in figures.items():
            for ending in ("png", "svg"):
                written.append(folder / f"{name}.{ending}")
                metadata = {"Date": None} if ending == "svg" else None
                with replaced(written[-1]) as partial:
                    figure.savefig(partial, dpi=150, metadata=metadata, format=ending)
            plt.close(figure)
    return written


def _saliency(tables: LayerTables) -> Any:
    """Figure 2 of the paper, and which layer the few-shot draws choose."""
    table = tables.table
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(7, 5), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    for column, name in METRICS.items():
        above.plot(table.index, table[column], marker=".", linewidth=1, label=name)
    above.plot(table.index, table["saliency"], marker="o", color="black", label="saliency (sum)")
    _mark_choice(above, tables)
    above.set_ylabel("z-score over layers")
    above.legend(fontsize=8)
    below.bar(table.index, table["chosen_share"], color=ACCENT)
    below.set_ylabel("chosen in\nshare of draws")
    below.set_xlabel("layer")
    below.set_ylim(0, 1)
    below.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _separation(tables: LayerTables) -> Any:
    """Silhouette (Figure 3 of the paper), and the scorer's cross-validated AUC."""
    table = tables.table
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(table.index, table["silhouette"], marker="o", color=ACCENT)
    left.set_ylabel("silhouette of normal and anomalous")
    right.errorbar(
        table.index, table["cv_auc"], yerr=table["cv_auc_std"], marker="o", color=ACCENT, capsize=2
    )
    right.axhline(0.5, color="grey", linewidth=0.8)
    if "lens_auc" in table:
        right.plot(
            table.index, table["lens_auc"], marker=".", color=NORMAL, label="p(yes), no training"
        )
        right.legend(fontsize=8)
    null = tables.summary.get("best_cv_null_95")
    if null is not None:
        name = f"best of shuffled labels, 95 % ({null:.2f})"
        right.axhline(null, color=ANOMALOUS, linestyle="--", linewidth=1, label=name)
        right.legend(fontsize=8)
    right.set_ylabel("AUC over samples, cross-validated by video")
    for axis in (left, right):
        _mark_choice(axis, tables)
        axis.set_xlabel("layer")
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _tsne(tables: LayerTables) -> Any:
    """Figure 4 of the paper."""
    groups = dict(list(tables.embeddings.groupby("layer")))
    figure, axes = plt.subplots(
        1, len(groups), figsize=(3.4 * len(groups), 3.6), squeeze=False, layout="constrained"
    )
    for axis, (layer, points) in zip(axes[0], groups.items(), strict=True):
        _scatter(axis, points)
        chosen = " (DLSP)" if layer == tables.summary["dlsp_layer"] else ""
        axis.set_title(f"layer {layer}{chosen}", fontsize=10)
    axes[0, 0].legend(fontsize=8)
    return figure


def _scatter(axis: Any, points: pd.DataFrame) -> None:
    """Draw one layer's embedding; its axes have no unit."""
    for label, colour in (("normal", NORMAL), ("anomalous", ANOMALOUS)):
        own = points[points["label"] == label]
        axis.scatter(own["x"], own["y"], s=14, color=colour, alpha=0.8, label=label)
    axis.set_xticks([])
    axis.set_yticks([])


def _mark_choice(axis: Any, tables: LayerTables) -> None:
    """Draw a line at DLSP's layer."""
    axis.axvline(tables.summary["dlsp_layer"], color="black", linestyle=":", linewidth=1)
