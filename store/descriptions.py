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

from hiprobe.store import fields
from hiprobe.store.errors import HiProbeError
from hiprobe.store.result_videos import Interval
from hiprobe.store.single_files import check_file, parse_json, write_text

FILE_NAME = "descriptions.jsonl"


def read_descriptions(folder: Path) -> tuple[dict[str, Any] | None, dict[Interval, str]]:
    """Read a results' folder's descriptions.

    Returns
    -------
    provenance : dict or None
        How they were made; None where there are none, or nobody can tell.
    texts : dict of Interval to str
        In the order of the file; of two of one interval the later one.

    Raises
    ------
    HiProbeError
        The file cannot be read.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None, {}
    try:
        check_file(path)
        lines = path.read_bytes().split(b"\n")
    except (OSError, ValueError) as error:
        raise HiProbeError(
            f"{path}: cannot be read as descriptions: {error}. Remove it, or describe again."
        ) from error
    provenance, texts = None, {}
    # Bytes: a text may hold other line ends than \n, and a torn line may end inside a character.
    for line in lines:
        try:
            content = fields.mapping(parse_json(line), "the line")
            if "provenance" in content:
                provenance = provenance or fields.mapping(content["provenance"], "provenance")
            elif "text" in content:
                video_id, kind = (fields.text(content[name], name) for name in ("video_id", "kind"))
                interval = Interval.from_json(video_id, kind, content)
                texts[interval] = fields.text(content["text"], "text")
        except (ValueError, TypeError, KeyError):
            continue  # torn: a run was killed while it wrote
    return provenance, texts


def start_descriptions(
    folder: Path, provenance: Mapping[str, Any], texts: Mapping[Interval, str]
) -> None:
    """Write the file anew, with what is to be kept; afterwards lines may be appended to it.

    Anew also when all is kept: what is appended to a torn line is lost with it.
    """
    lines = [{"provenance": provenance}]
    lines += [asdict(interval) | {"text": text} for interval, text in texts.items()]
    write_text(folder / FILE_NAME, "".join(map(_line, lines)))


def append_description(file: IO[str], interval: Interval, text: str) -> None:
    """Append one line and bring it to the disk."""
    # Each cost a model's answer.
    file.write(_line(asdict(interval) | {"text": text}))
    file.flush()
    os.fsync(file.fileno())


def _line(content: Mapping[str, Any]) -> str:
    r"""A line of the file; a lone surrogate, which no file can hold, as JSON's ``\udcff``."""
    text = json.dumps(content, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
