"""Commands that look into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def info(store: Annotated[Path, typer.Argument(help="The store's folder.")]) -> None:
    """Say what a store holds and how it was made."""
    from rich.console import Console
    from rich.table import Table

    from hiprobe.store import FeatureStore

    features = FeatureStore.open(store)
    table = Table("split", "label", "status", "videos", "segments", title=str(store))
    groups = features.videos.groupby(["split", "label", "status"])["num_segments"]
    for (split, label, status), counts in groups:
        table.add_row(split, label, status, str(len(counts)), str(counts.sum()))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"layers {features.layers[0]} to {features.layers[-1]} ({len(features.layers)}), "
        f"{features.num_features} features"
    )
    console.print_json(data=features.provenance)
    for video_id, row in features.videos.iterrows():
        if row["error"]:
            console.print(f"{row['status']}: {video_id}: {row['error']}", markup=False)
