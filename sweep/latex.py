"""A table for a paper: LaTeX, with the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hiprobe.store.single_files import write_text
from hiprobe.sweep.layout import METRICS, Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "…": r"\dots{}",
    "κ": r"$\kappa$",
    "μ": r"$\mu$",
    "σ": r"$\sigma$",
    **{mark: rf"\{mark}" for mark in "&%$#_{}"},
}
_ANY_SPECIAL = re.compile("|".join(map(re.escape, _SPECIAL)))


def to_latex(table: Table, metrics: Sequence[str] = METRICS) -> str:
    """Set a table with its notes below; `booktabs` is all it needs.

    Parameters
    ----------
    table : Table
    metrics : sequence of str
        Columns, of `METRICS`.
    """
    header, *rows = table.cells(metrics)
    # Numbers to the right; what names a row to the left.
    num_names = header.index("layer")
    columns = "l" * num_names + "r" * (len(header) - num_names)
    notes = [rf"\par\smallskip {escape(note)}" for note in table.notes]
    return "\n".join(
        [
            f"% hiprobe table {table.name}: needs \\usepackage{{booktabs}}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _line(header),
            r"\midrule",
            *map(_line, rows),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\label{{tab:{table.name}}}",
            r"\begin{flushleft}\footnotesize",
            *notes,
            r"\end{flushleft}",
            r"\end{table}",
            "",
        ]
    )


def write_latex(table: Table, folder: Path) -> Path:
    """Write ``NAME.tex`` beside the table's other files."""
    path = folder / f"{table.name}.tex"
    write_text(path, to_latex(table))
    return path


def escape(text: str) -> str:
    """Write text so that LaTeX sets it as it is, on one line."""
    return _ANY_SPECIAL.sub(lambda mark: _SPECIAL[mark[0]], " ".join(text.split()))


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"
