"""`descriptions.jsonl`: what a model says of intervals, a line each, appended as it comes.

The first line is ``{"provenance": …}``; every other one an interval with its ``text``. A line torn
by a kill is skipped. `hiprobe explain` writes it into a results' folder, the report shows it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from hiprobe.store.results import Interval

FILE_NAME = "descriptions.jsonl"


def read_descriptions(folder: Path) -> tuple[dict[str, Any] | None, dict[Interval, str]]:
    """Read a results' folder's descriptions.

    Returns
    -------
    provenance : dict or None
        How they were made; None where there are none, or nobody can tell.
    texts : dict of Interval to str
        In the order of the file; of two of one interval the later one.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None, {}
    provenance, texts = None, {}
    # Bytes: a text may hold other line ends than \n, and a torn line may end inside a character.
    for line in path.read_bytes().split(b"\n"):
        try:
            content = json.loads(line)
            if "provenance" in content:
                provenance = provenance or content["provenance"]
            elif "text" in content:
                interval = Interval.from_json(content["video_id"], content["kind"], content)
                texts[interval] = content["text"]
        except (ValueError, TypeError, KeyError):
            continue  # torn: a run was killed while it wrote
    return provenance, texts


def start_descriptions(
    folder: Path, provenance: Mapping[str, Any], texts: Mapping[Interval, str]
) -> None:
    """Write the file anew, with what is to be kept; afterwards lines may be appended to it.

    Anew also when all is kept: what is appended to a torn line is lost with it.
    """
    partial = folder / f"{FILE_NAME}.partial"
    with partial.open("w", encoding="utf-8") as file:
        _append(file, {"provenance": provenance})
        for interval, text in texts.items():
            append_description(file, interval, text)
    partial.replace(folder / FILE_NAME)


def append_description(file: IO[str], interval: Interval, text: str) -> None:
    """Append one line and bring it to the disk."""
    _append(file, asdict(interval) | {"text": text})


def _append(file: IO[str], content: Mapping[str, Any]) -> None:
    """Append a line and wait until it is on the disk: each cost a model's answer."""
    file.write(json.dumps(content, ensure_ascii=False) + "\n")
    file.flush()
    os.fsync(file.fileno())
