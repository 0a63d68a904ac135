"""A table, ready to print and to write: Markdown and CSV to read, JSON to know how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiprobe.store.single_files import only_writer, write_text

TOTAL_ERROR = "AUC's total error"
METRICS = ("auc", "ap", "localized_auc", "localized_ap", "binary_auc", "binary_ap")
LIBRARIES = ("hiprobe", "numpy", "scipy", "scikit-learn", "zarr")


@dataclass(frozen=True)
class Table:
    """A table, ready to print.

    Attributes
    ----------
    name : str
    rows : DataFrame
        ``setting``, ``train``, ``test``, ``layers`` (those chosen), ``num_draws``; of each of
        `METRICS` the mean over draws and ``…_std``; ``auc_se`` over test videos and
        ``auc_total_se``; ``paper``, ``paper_metric``. MAY: ``auc_difference`` to the paper's
        method, ``auc_low``, ``auc_high``, ``auc_p_holm``.
    notes : list of str
    """

    name: str
    rows: pd.DataFrame
    notes: list[str]

    def cells(self, metrics: Sequence[str] = METRICS) -> list[list[str]]:
        """Header and rows as text: percent, mean ± deviation over draws."""
        # Only the columns that tell rows apart: a terminal is narrow.
        places: dict[str, str] = {}
        if (self.rows["train"] != self.rows["test"]).any():
            places = {"train": "trained on", "test": "tested on"}
        elif self.rows["setting"].duplicated().any():
            places = {"train": "store"}
        names = {
            name: name.replace("_", " ").replace("auc", "AUC").replace("ap", "AP")
            for name in METRICS
        }
        header = ["setting", *places.values(), "layer", *(names[name] for name in metrics)]
        compares = "auc_difference" in self.rows
        header += [TOTAL_ERROR, *(["AUC − paper's", "p"] if compares else ["paper"])]
        cells = [header]
        for _, row in self.rows.iterrows():
            paper = row["paper_metric"]
            cells.append(
                [
                    row["setting"],
                    *(Path(row[place]).name for place in places),
                    row["layers"],
                    *(_percent(row[name], row[f"{name}_std"]) for name in metrics),
                    _percent(row["auc_total_se"], np.nan),
                    *(
                        _difference(row)
                        if compares
                        else [f"{100 * row['paper']:.2f} ({names[paper]})" if paper else ""]
                    ),
                ]
            )
        return cells

    def to_markdown(self) -> str:
        """The table and its notes."""
        header, *rows = map(_line, self.cells())
        rule = _line(["---"] * len(self.cells()[0]))
        return "\n".join([header, rule, *rows, "", *(f"- {note}" for note in self.notes), ""])

    def write(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        """Write ``NAME.csv``, ``NAME.md`` and ``NAME.json``; the last says how it was made."""
        made = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **made_with,
            "libraries": {library: version(library) for library in LIBRARIES},
        }
        text = json.dumps(made, indent=1, default=str, ensure_ascii=False)
        # Two that write by turns would mix their files; the second waits.
        with only_writer(folder / self.name, waits=True):
            write_text(folder / f"{self.name}.csv", self.rows.to_csv(index=False))
            write_text(folder / f"{self.name}.md", self.to_markdown())
            write_text(folder / f"{self.name}.json", text + "\n")


def _line(cells: Sequence[str]) -> str:
    """A row of Markdown."""
    return "| " + " | ".join(cells) + " |"


def _difference(row: pd.Series) -> tuple[str, str]:
    """A difference with its interval, and its p."""
    if pd.isna(row["auc_difference"]):
        return "–", "–"
    value, low, high = (100 * row[name] for name in ("auc_difference", "auc_low", "auc_high"))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]", f"{row['auc_p_holm']:.3f}"


def _percent(mean: float, std: float) -> str:
    if pd.isna(mean):
        return "–"
    return f"{100 * mean:.2f}" + ("" if pd.isna(std) else f" ± {100 * std:.2f}")
