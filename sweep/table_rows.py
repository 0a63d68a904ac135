"""What all tables share: what they are asked for, a row of several draws, and how one is ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiprobe.store import FeatureStore
from hiprobe.store.probe_members import layer_list
from hiprobe.sweep import paper
from hiprobe.sweep.grid import SweepConfig
from hiprobe.sweep.layout import METRICS, Table
from hiprobe.sweep.table_file import total_error


@dataclass(frozen=True)
class TableConfig:
    """What all tables share.

    Attributes
    ----------
    out : Path
        Folder for the table as Markdown and CSV, how it was made as JSON, and its experiments.
    sweep : SweepConfig
        Few-shot draws, penalty and κ; stores, layers and scorers are the table's.
    num_workers : int
        Processes; 0 works in this one.
    on_task : callable
        Called with (layers done, layers) of the sweep in progress.
    """

    out: Path
    sweep: SweepConfig
    num_workers: int = 0
    on_task: Callable[[int, int], None] = lambda done, total: None


def averaged_row(
    setting: str, train: Path, test: Path, table: pd.DataFrame, figure: paper.Figure | None = None
) -> dict[str, Any]:
    """Mean and deviation over the draws of the chosen experiments."""
    assert table["draw"].is_unique, f"{setting}: more than one experiment a draw"
    row: dict[str, Any] = {
        "setting": setting,
        "train": str(train),
        "test": str(test),
        "layers": _layers(table["layers"]),
        "num_draws": len(table),
    }
    for metric in METRICS:
        row |= {metric: table[metric].mean(), f"{metric}_std": table[metric].std()}
    row["auc_se"] = np.sqrt((table["auc_se"] ** 2).mean())
    row["auc_total_se"] = total_error(table)
    value, metric = figure or (np.nan, "")
    return row | {"paper": value, "paper_metric": metric}


def _layers(texts: pd.Series) -> str:
    """The layers of all draws, in words: ``3, 5``, or ``3-5; 4-6`` where several are read."""
    found = sorted({tuple(int(one) for one in text.split(",") if one) for text in texts})
    between = "; " if any(len(layers) > 1 for layers in found) else ", "
    return between.join(map(layer_list, found))


def finished(
    name: str,
    rows: list[dict[str, Any]],
    stores: Sequence[FeatureStore],
    config: TableConfig,
    notes: Sequence[str] = (),
) -> Table:
    """Write the table with its notes."""
    frame = pd.DataFrame(rows)
    draws = f"{frame['num_draws'].max()} few-shot draw(s)"
    all_notes = [
        f"Percent, mean ± deviation over {draws}; DLSP's layer may differ between them.",
        "AUC's total error is the standard error of one draw's, from the draws and the test videos "
        "together.",
    ]
    all_notes += dict.fromkeys(notes)
    if frame["paper"].isna().all():
        all_notes.append(
            "No figure of the paper stands beside these: they would have to be of its models on "
            "UCF-Crime's 290 or XD-Violence's 800 test videos, with the official totals of frames."
        )
    table = Table(name, frame, all_notes)
    sources = [{"path": str(store.path), **store.provenance} for store in stores]
    table.write(config.out, {"options": asdict(config.sweep), "stores": sources})
    return table
