"""Correcting a store's labels, splits, categories and annotations by a manifest.

The states stay as they are: nothing is extracted again. What the labels were stays in the store's
attributes, with the date and the manifest's digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from hiprobe.store.errors import ManifestError, listing
from hiprobe.store.manifest import (
    LABEL_COLUMNS,
    VideoRecord,
    file_digest,
    format_annotations,
    read_manifest,
)
from hiprobe.store.reader import FeatureStore
from hiprobe.store.schema import DONE
from hiprobe.store.writer import StoreWriter

HISTORY = "relabelled"

# By video id and column: what the store says, and what the manifest says.
Differences = dict[str, dict[str, tuple[str, str]]]


@dataclass(frozen=True)
class Relabelling:
    """What a manifest says otherwise than a store.

    Attributes
    ----------
    changes : dict of str to dict of str to (str, str)
        By video id and by column (split, label, category, annotations): the old and the new text.
    only_in_store, only_in_manifest : list of str
        Ids that only one of the two has: these stay as they are.
    """

    changes: Differences
    only_in_store: list[str]
    only_in_manifest: list[str]


def label_differences(videos: pd.DataFrame, records: Sequence[VideoRecord]) -> Differences:
    """Compare a store's labels with a manifest's, for the videos that are in both.

    Parameters
    ----------
    videos : DataFrame
        As `FeatureStore.videos`.
    records : sequence of VideoRecord

    Returns
    -------
    dict
        By id, in the manifest's order; only what differs.
    """
    known: dict[Any, dict[str, Any]] = videos[[*LABEL_COLUMNS]].to_dict("index")
    found = {}
    for record in records:
        if record.video_id not in known:
            continue
        pairs = {
            name: (_text(known[record.video_id][name]), _text(getattr(record, name)))
            for name in LABEL_COLUMNS
        }
        if changed := {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}:
            found[record.video_id] = changed
    return found


def describe(differences: Differences) -> list[str]:
    """Say what differs, a line a video."""
    return [
        f"{video_id}: " + ", ".join(f"{name} {old!r} → {new!r}" for name, (old, new) in own.items())
        for video_id, own in differences.items()
    ]


def relabel(path: Path, manifest: Path, *, dry_run: bool = False) -> Relabelling:
    """Write a manifest's splits, labels, categories and annotations into a store.

    Parameters
    ----------
    path : Path
        The store. Killed half way, it has the old labels or the new ones, of all videos.
    manifest : Path
    dry_run : bool
        Only say what would change.

    Returns
    -------
    Relabelling

    Raises
    ------
    ManifestError
        It is no manifest, has no video of the store, or videos of another length; all are listed,
        and nothing is changed.
    StoreError
        The store is damaged, or another process is writing it.
    """
    records = read_manifest(manifest)
    if dry_run:
        return _compare(FeatureStore.open(path), records, manifest)
    with StoreWriter(path) as writer:
        # Read under the lock.
        found = _compare(FeatureStore.open(path), records, manifest)
        if found.changes:
            writer.relabel(_new_labels(writer, found, records), _history(writer, found, manifest))
    return found


def _compare(store: FeatureStore, records: Sequence[VideoRecord], manifest: Path) -> Relabelling:
    """Compare the two; refuse a manifest that is of other videos."""
    videos = store.videos
    named = [record.video_id for record in records]
    common = [record for record in records if record.video_id in videos.index]
    if not common:
        raise ManifestError(
            f"{manifest}: has none of the {len(videos)} videos of {store.path}: its ids look like "
            f"{named[0]!r}, the store's like {str(videos.index[0])!r}."
            if len(videos)
            else f"{store.path}: it has no videos."
        )
    is_done = videos["status"] == DONE
    wrong = [
        f"{one.video_id}: has {one.num_frames} frames here, {known} in the store"
        for one in common
        if one.num_frames is not None
        and is_done[one.video_id]
        and one.num_frames != (known := int(videos.loc[one.video_id, "num_frames"]))
    ]
    if wrong:
        raise ManifestError(
            f"{manifest}: {len(wrong)} videos are of another length than in {store.path}:\n"
            f"{listing(wrong)}\nNothing was changed. Annotations of another version of a video do "
            "not fit: correct the manifest."
        )
    return Relabelling(
        changes=label_differences(videos, common),
        only_in_store=[str(video_id) for video_id in videos.index.difference(named, sort=False)],
        only_in_manifest=[video_id for video_id in named if video_id not in videos.index],
    )


def _new_labels(
    writer: StoreWriter, found: Relabelling, records: Sequence[VideoRecord]
) -> dict[str, list[Any]]:
    """The changed videos' positions, and all four of their texts, by column."""
    positions = writer.index.positions()
    changed = [record for record in records if record.video_id in found.changes]
    return {
        "video": [positions[record.video_id] for record in changed],
        **{name: [_text(getattr(one, name)) for one in changed] for name in LABEL_COLUMNS},
    }


def _history(writer: StoreWriter, found: Relabelling, manifest: Path) -> list[dict[str, Any]]:
    """All changes of labels so far, and this one, with what stood there before."""
    earlier = writer.provenance.get(HISTORY)
    entry = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "manifest": {"path": str(manifest.absolute()), "digest": file_digest(manifest)},
        "before": {
            video_id: {name: old for name, (old, _) in own.items()}
            for video_id, own in found.changes.items()
        },
    }
    return [*(earlier if isinstance(earlier, list) else []), entry]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else format_annotations(value)
