"""Tables for papers: whatever stands in a cell, LaTeX gets a table."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from hiprobe.sweep.latex import escape, to_latex, write_latex
from hiprobe.sweep.layout import METRICS, Table


@pytest.fixture
def table():
    row = {
        "setting": "Qwen_2.5 & {co} 100%", "train": "/a/ucf.zarr", "test": "/b/xd.zarr",
        "layers": "3, 12", "num_draws": 3, "paper": 0.8135, "paper_metric": "auc",
        "auc_total_se": 0.03,
    }  # fmt: skip
    row |= dict.fromkeys(METRICS, 0.8) | {f"{name}_std": 0.012 for name in METRICS}
    empty = row | {
        "setting": "full",
        "paper": float("nan"),
        "paper_metric": "",
        "auc": float("nan"),
    }
    return Table("cross-dataset", pd.DataFrame([row, empty]), ["μ + κσ, 5 % of $x_1$", "a\nb"])


def test_every_row_has_the_header_s_cells(table):
    text = to_latex(table)
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1]
    assert columns == "lll" + "r" * 9
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.split("\n") if line.endswith(r"\\")]
    assert len(lines) == 3
    for line in lines:
        # Cells are parted by what is not escaped.
        assert len(re.split(r"(?<!\\)&", line)) == len(columns)
    assert lines[1].startswith(r"Qwen\_2.5 \& \{co\} 100\% & ucf.zarr & xd.zarr & 3, 12 & ")
    assert r"80.00 $\pm$ 1.20" in lines[1]
    assert "81.35 (AUC)" in lines[1]
    assert " & -- & " in lines[2]


def test_notes_stand_below_and_braces_and_environments_close(table):
    text = to_latex(table)
    assert r"\par\smallskip $\mu$ + $\kappa$$\sigma$, 5 \% of \$x\_1\$" in text
    assert "\na b" not in text
    assert r"\par\smallskip a b" in text
    for name in ("table", "tabular", "flushleft"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    plain = text.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")


def test_a_backslash_is_set_as_one():
    assert escape("a\\b{c}") == r"a\textbackslash{}b\{c\}"
    assert escape("~^") == r"\textasciitilde{}\textasciicircum{}"


def test_the_file_lies_beside_the_others(table, tmp_path):
    table.write(tmp_path, {})
    assert write_latex(table, tmp_path) == tmp_path / "cross-dataset.tex"
    assert (tmp_path / "cross-dataset.tex").read_text() == to_latex(table)
