"""The sweep's table as a file: written whole, read exactly, never robbed of its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hiprobe.store import HiProbeError
from hiprobe.store.errors import listing
from hiprobe.store.probe_file import DEFAULT_METHOD
from hiprobe.store.single_files import check_file, replaced
from hiprobe.store.taps import HIDDEN_STATES

SUFFIXES = (".parquet", ".csv")
# What a draw is told by: DLSP chooses one layer for each.
DRAW = ("store", "fraction", "num_videos", "seed")
# What one row is told by, with a fixed threshold besides; `draw` is a digest of the videos drawn.
KEY = (
    "store", "test_store", "method", "tap", "prompt", "draw", "layer", "rule", "mil", "scorer",
    "l2", "kappa", "target_far",
)  # fmt: skip
SHOWN = (
    "store",
    "method",
    "tap",
    "prompt",
    "layer",
    "rule",
    "mil",
    "scorer",
    "l2",
    "num_videos",
    "seed",
    "kappa",
)
# An empty text reads back as no value.
TEXTS = dict.fromkeys(
    ("store", "test_store", "method", "tap", "prompt", "rule", "layers", "scorer", "scores",
     "draw"), str,
)  # fmt: skip
# Of a table that an older hiprobe wrote.
BEFORE_METHODS = {"tap": HIDDEN_STATES, "prompt": "", "method": DEFAULT_METHOD}


def read_table(path: Path) -> pd.DataFrame:
    """Read the table of a sweep, or of one of its layers, with exactly the numbers written.

    Raises
    ------
    HiProbeError
        There is none, or it is no such table.
    """
    try:
        check_file(path)
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            # Only `round_trip` reads exactly the numbers that were written.
            table = pd.read_csv(path, float_precision="round_trip", dtype=TEXTS)
        for name, value in BEFORE_METHODS.items():
            if name not in table:
                table[name] = value
        for name in TEXTS.keys() & set(table):
            table[name] = table[name].fillna("")
        if table["layer"].isna().any():
            table["layer"] = table["layer"].astype("Int64")  # rows of rules and methods have none
        table[[*DRAW, "scorer", "l2", "kappa", "threshold", "auc"]]
    except (OSError, ValueError, KeyError) as error:
        raise HiProbeError(f"{path}: not a sweep's table ({error}).") from error
    return table


def total_error(table: pd.DataFrame) -> float:
    """Standard error of one draw's AUC, for other draws and other test videos together.

    Parameters
    ----------
    table : DataFrame
        One setting's rows, one a draw: ``auc`` and ``auc_se``. A single draw knows no deviation
        over draws: then it is the error over test videos alone.
    """
    deviation = float(table["auc"].std()) if len(table) > 1 else 0.0
    return float(np.hypot(deviation, np.sqrt((table["auc_se"] ** 2).mean())))


def write_table(table: pd.DataFrame, out: Path) -> None:
    """Write a table; an old one stays until the new one is whole."""
    with replaced(out) as partial:
        if out.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)


def appended(old: pd.DataFrame, new: pd.DataFrame, out: Path) -> pd.DataFrame:
    """Put new rows below old ones.

    Raises
    ------
    HiProbeError
        The columns differ, or an experiment stands in both; those are listed.
    """
    _refuse_differing(set(old) ^ set(new), out)
    refuse_doubled(old, new, out)
    return pd.concat([old, new], ignore_index=True)


def refuse_columns(old: pd.DataFrame, keeps_scores: bool, out: Path) -> None:
    """Refuse a table that rows cannot be appended to, before there are any."""
    has_scores = "scores" in old
    _refuse_differing(
        (set(KEY) - set(old)) | ({"scores"} if has_scores != keeps_scores else set()), out
    )


def _refuse_differing(names: set[str], out: Path) -> None:
    if names:
        raise HiProbeError(
            f"{out}: cannot append: {', '.join(sorted(names))} would be in some rows only (one of "
            "the sweeps keeps scores, or is of another hiprobe). Write to another file."
        )


def refuse_doubled(old: pd.DataFrame, new: pd.DataFrame, out: Path) -> None:
    """Refuse rows that the table holds already: the same videos drawn, and the same settings."""
    twice = new[_keys(new).isin(set(_keys(old)))]
    if len(twice):
        shown = [
            ", ".join(
                f"{name} {row[name]}" for name in SHOWN if row[name] != "" and pd.notna(row[name])
            )
            for row in twice.to_dict("records")
        ]
        raise HiProbeError(
            f"{out}: cannot append: it holds {len(twice)} of these experiments already:\n"
            f"{listing(shown)}\nLeave them out of the sweep, or write to another file."
        )


def _keys(table: pd.DataFrame) -> pd.Series:
    """What each row is told by: equal tuples are the same experiment and threshold."""
    own = table.reindex(columns=list(KEY)).astype(object)
    # A threshold that follows from κ or a rate is a result; a fixed one is part of the question.
    own["fixed"] = table["threshold"].where(own["kappa"].isna() & own["target_far"].isna())
    own = own.where(own.notna(), "")
    return pd.Series(list(own.itertuples(index=False, name=None)), index=table.index)
