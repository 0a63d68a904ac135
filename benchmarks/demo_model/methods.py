"""All methods of one pass side by side, on the study's footage: `hiprobe table methods`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.demo_model.experiments import FEW_SHOT_VIDEOS, Stores
from hiprobe.demo.training_data import HELD_OUT_EVENTS, TRAINED_EVENTS
from hiprobe.store import VideoRecord, read_manifest, write_manifest
from hiprobe.sweep.grid import SweepConfig
from hiprobe.sweep.layout import Table
from hiprobe.sweep.method_table import methods
from hiprobe.sweep.table_rows import TableConfig

# Of the fights, half are tested on.
FEW_FIGHTS = 16


@dataclass(frozen=True)
class Compared:
    """All methods on some footage.

    Attributes
    ----------
    name, title, text : str
    table : Table
    """

    name: str
    title: str
    text: str
    table: Table


def compare_methods(
    folder: Path, stores: Stores, manifests: dict[str, Path], seeds: Sequence[int]
) -> Iterator[Compared]:
    """Compare all methods of the trained model's stores, learned and tested on the same clips."""
    clips = read_manifest(manifests["generated"])
    unseen = [record for record in clips if record.category in _kinds_of(record.split)]
    listed = {
        "generated": ("Generated clips, all kinds", clips, FEW_SHOT_VIDEOS),
        "generated_unseen": ("Generated clips, held-out kinds", unseen, FEW_SHOT_VIDEOS),
    }
    if "fights" in stores:
        fights = _halves(read_manifest(manifests["fights"]))
        listed["fights"] = ("Real fights", fights, FEW_FIGHTS)
    for name, (title, records, num_videos) in listed.items():
        manifest = folder / f"methods-{name}.csv"
        write_manifest(manifest, records)
        store = stores[name.removesuffix("_unseen")]["trained"]
        sweep = SweepConfig(
            stores=(), num_videos=(num_videos,), seeds=tuple(seeds), manifest=manifest
        )
        made = methods([store.path], TableConfig(folder / f"methods-{name}", sweep))
        num_train = sum(record.split == "train" for record in records)
        text = f"{num_videos} of {num_train} clips a draw; tested on {len(records) - num_train}."
        yield Compared(name, title, text, made)


def _kinds_of(split: str) -> set[str]:
    """Categories that take part where the test is on kinds that nothing has learned."""
    return {"", *(TRAINED_EVENTS if split == "train" else HELD_OUT_EVENTS)}


def _halves(records: Sequence[VideoRecord]) -> list[VideoRecord]:
    """Train and test by turns, within each label."""
    turns = {record.label: 0 for record in records}
    parted = []
    for record in records:
        parted.append(replace(record, split=("train", "test")[turns[record.label] % 2]))
        turns[record.label] += 1
    return parted
