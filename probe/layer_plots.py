"""The pictures of `hiprobe layers`, as PNG and SVG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from hiprobe.probe.layers import LayerAnalysis

NORMAL, ANOMALOUS, ACCENT = "#1f6feb", "#cf222e", "#0f766e"
METRICS = {"kl_divergence_z": "KL divergence", "ldr_z": "LDR", "entropy_z": "entropy"}


def write_analysis(analysis: LayerAnalysis, folder: Path) -> list[Path]:
    """Write ``layers.csv``, ``tsne.csv``, ``summary.json``, and the figures; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    analysis.table.to_csv(folder / "layers.csv")
    analysis.embeddings.to_csv(folder / "tsne.csv", index=False)
    (folder / "summary.json").write_text(json.dumps(analysis.summary, indent=1) + "\n")
    written = [folder / name for name in ("layers.csv", "tsne.csv", "summary.json")]
    figures = {
        "saliency": _saliency(analysis),
        "separation": _separation(analysis),
        "tsne": _tsne(analysis),
    }
    for name, figure in figures.items():
        for ending in ("png", "svg"):
            written.append(folder / f"{name}.{ending}")
            figure.savefig(
                written[-1], dpi=150, metadata={"Date": None} if ending == "svg" else None
            )
        plt.close(figure)
    return written


def _saliency(analysis: LayerAnalysis) -> Any:
    """Figure 2 of the paper, and which layer the few-shot draws choose."""
    table = analysis.table
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(7, 5), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    for column, name in METRICS.items():
        above.plot(table.index, table[column], marker=".", linewidth=1, label=name)
    above.plot(table.index, table["saliency"], marker="o", color="black", label="saliency (sum)")
    _mark_choice(above, analysis)
    above.set_ylabel("z-score over layers")
    above.legend(fontsize=8)
    below.bar(table.index, table["chosen_share"], color=ACCENT)
    below.set_ylabel("chosen in\nshare of draws")
    below.set_xlabel("layer")
    below.set_ylim(0, 1)
    below.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _separation(analysis: LayerAnalysis) -> Any:
    """Silhouette (Figure 3 of the paper), and the scorer's cross-validated AUC."""
    table = analysis.table
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(table.index, table["silhouette"], marker="o", color=ACCENT)
    left.set_ylabel("silhouette of normal and anomalous")
    right.errorbar(
        table.index, table["cv_auc"], yerr=table["cv_auc_std"], marker="o", color=ACCENT, capsize=2
    )
    right.axhline(0.5, color="grey", linewidth=0.8)
    right.set_ylabel("cross-validated AUC over samples")
    for axis in (left, right):
        _mark_choice(axis, analysis)
        axis.set_xlabel("layer")
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _tsne(analysis: LayerAnalysis) -> Any:
    """Figure 4 of the paper."""
    groups = dict(list(analysis.embeddings.groupby("layer")))
    figure, axes = plt.subplots(
        1, len(groups), figsize=(3.4 * len(groups), 3.6), squeeze=False, layout="constrained"
    )
    for axis, (layer, points) in zip(axes[0], groups.items(), strict=True):
        _scatter(axis, points)
        chosen = " (DLSP)" if layer == analysis.summary["dlsp_layer"] else ""
        axis.set_title(f"layer {layer}{chosen}", fontsize=10)
    axes[0, 0].legend(fontsize=8)
    return figure


def _scatter(axis: Any, points: pd.DataFrame) -> None:
    for label, colour in (("normal", NORMAL), ("anomalous", ANOMALOUS)):
        own = points[points["label"] == label]
        axis.scatter(own["x"], own["y"], s=14, color=colour, alpha=0.8, label=label)
    axis.set_xticks([])
    axis.set_yticks([])


def _mark_choice(axis: Any, analysis: LayerAnalysis) -> None:
    axis.axvline(analysis.summary["dlsp_layer"], color="black", linestyle=":", linewidth=1)
