"""Rows of the CSV files that users hand in: manifests, lengths, annotations, events."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hiprobe.store.errors import ManifestError
from hiprobe.store.single_files import read_text


def read_csv(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Go through a table's lines: number and cells, with the missing ones as ''.

    Cells of an optional column are there only if the table has it.

    Raises
    ------
    ManifestError
        There is no such file, it is no CSV, a column is missing or stands twice, or a line has
        more fields than the header.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file. Expected CSV {','.join(columns)}.") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot read it as CSV: {error}") from error
    for line, row in csv_rows(path, text, columns, columns):
        if None in row:
            raise ManifestError(f"{path}: line {line}: {too_many(row)}")
        present = [*columns, *(name for name in optional if name in row)]
        yield line, {name: (row[name] or "").strip() for name in present}


def csv_rows(
    path: Path, text: str, required: Sequence[str], expected: Sequence[str]
) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Go through the rows of CSV text: the number of a row's last line, and the row.

    A row's fields beyond the header are listed under None.

    Raises
    ------
    ManifestError
        As `read_csv`, but for those fields.
    """
    # The file's own lines, not the rows: a quoted field may hold line ends.
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        header = reader.fieldnames or []
        check_header(path, header, required, expected)
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ManifestError(
            f"{path}: not CSV: {error}. Look for a quotation mark that is not closed."
        ) from error


def check_header(
    path: Path, header: Sequence[str], required: Sequence[str], expected: Sequence[str]
) -> None:
    """Refuse a header that lacks a column, or has one twice: which one counts, nobody can tell."""
    if missing := [name for name in required if name not in header]:
        got = ",".join(header)[:200] or "nothing"
        raise ManifestError(
            f"{path}: the header lacks {', '.join(missing)}. Expected {','.join(expected)}; "
            f"got {got}."
        )
    twice = [name for name in dict.fromkeys(header) if name and list(header).count(name) > 1]
    if twice:
        raise ManifestError(
            f"{path}: the column {', '.join(twice)} stands there more than once. "
            "Leave all but one of them out."
        )


def too_many(row: dict[Any, Any]) -> str:
    """Say of a row that it has more fields than the header."""
    return f"{len(row[None])} field(s) too many; quote a field that holds a comma"
