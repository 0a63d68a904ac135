"""`hiprobe manifest events`: own data, labelled in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hiprobe.cli.evaluate import LENGTHS, OUT, write


def events(
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV video_id,path,split,label,category,start_seconds,stop_seconds; a line an "
            "interval, both empty for none."
        ),
    ],
    out: Annotated[Path, OUT],
    lengths: Annotated[Path | None, LENGTHS] = None,
) -> None:
    """Build a manifest from intervals in seconds, each video at its own frame rate."""
    from hiprobe.manifest.events import own_data

    write(own_data(table, lengths=lengths, inspect=_inspect), out)


def _inspect(path: Path) -> Any:
    from hiprobe.cli.extract import require_video

    require_video()
    from hiprobe.extract.video import inspect_video

    return inspect_video(path)
