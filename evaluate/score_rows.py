"""Scores as rows of a CSV file: which frames of which video have which score."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from hiprobe.store import HiProbeError
from hiprobe.store.csv_rows import check_header
from hiprobe.store.errors import listing
from hiprobe.store.fields import MAX_FRAMES
from hiprobe.store.single_files import check_file

COLUMNS = ("video_id", "start_frame", "stop_frame", "score")


def read_rows(path: Path) -> pd.DataFrame:
    """Read a scores' file, in its order.

    Returns
    -------
    DataFrame
        ``video_id`` (str), ``start_frame``, ``stop_frame`` (int64), ``score`` (float64).

    Raises
    ------
    HiProbeError
        No such file, a column is missing, or lines are wrong (they are listed).
    """
    table = _read_csv(path)
    try:
        numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in COLUMNS[1:]}
    except OverflowError:
        raise HiProbeError(f"{path}: wrong line(s): a number of more than 300 digits.") from None
    start, stop, score = numbers.values()
    wrong = {
        f"start_frame and stop_frame are not whole numbers, 0 <= start < stop <= {MAX_FRAMES}": ~(
            (start >= 0)
            & (stop > start)
            & (stop <= MAX_FRAMES)
            & (start % 1 == 0)
            & (stop % 1 == 0)
        ),
        "score is not a finite number": ~np.isfinite(score),
        "video_id is empty": table["video_id"].isna(),
    }
    # The header is line 1.
    problems = [
        f"line {line + 2}: {what}: {','.join(map(str, table.loc[line, list(COLUMNS)]))[:200]}"
        for what, lines in wrong.items()
        for line in table.index[lines]
    ]
    if problems:
        raise HiProbeError(f"{path}: {len(problems)} wrong line(s):\n{listing(problems)}")
    return pd.DataFrame(
        {
            "video_id": table["video_id"],
            "start_frame": start.astype(np.int64),
            "stop_frame": stop.astype(np.int64),
            "score": score.astype(np.float64),
        }
    )


def _read_csv(path: Path) -> pd.DataFrame:
    """Read the file as text and numbers, unchecked but for its header."""
    try:
        check_file(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
        with warnings.catch_warnings():
            # pandas only warns of lines with too many fields, and drops the rest of them.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                dtype={"video_id": str},
                index_col=False,
                # A video may be called NA.
                keep_default_na=False,
                na_values=[""],
            )
    except FileNotFoundError:
        raise HiProbeError(
            f"{path}: no such file. Expected CSV with the columns {', '.join(COLUMNS)}."
        ) from None
    except (OSError, ValueError, csv.Error, pd.errors.ParserWarning) as error:
        raise HiProbeError(f"{path}: cannot read it as CSV: {error}") from error
    # pandas would read a second `score` under the name `score.1`.
    check_header(path, header, COLUMNS, COLUMNS)
    return table
