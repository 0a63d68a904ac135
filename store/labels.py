"""Which of a store's videos take part, and with which labels: the store's, or a manifest's.

Every command that takes ``--manifest`` asks here, so that the option means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from hiprobe.store.errors import ManifestError, listing
from hiprobe.store.manifest import LABEL_COLUMNS, VideoRecord, read_manifest
from hiprobe.store.reader import FeatureStore
from hiprobe.store.schema import DONE


def labelled_videos(
    store: FeatureStore, split: str, manifest: Path | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """List the finished videos of a split.

    Parameters
    ----------
    store : FeatureStore
    split : str
        'train' or 'test'.
    manifest : Path, optional
        Labels, splits, categories and annotations from here instead of the store's.

    Returns
    -------
    videos : DataFrame
        As `FeatureStore.videos`; may be empty.
    warnings : list of str
        Videos that take no part, and why.

    Raises
    ------
    ManifestError
        The manifest has videos of this split that the store does not have, or that are of another
        length there; all are listed.
    """
    videos, warnings = store.videos, []
    if manifest is not None:
        records = {record.video_id: record for record in read_manifest(manifest)}
        _check_manifest(store, records, split, manifest)
        unlisted = videos.index[(videos["split"] == split) & ~videos.index.isin(list(records))]
        if len(unlisted):
            warnings.append(
                f"{len(unlisted)} {split} videos of the store are not in {manifest.name} and take "
                f"no part, for example {unlisted[0]}"
            )
        # In the store's order, whatever the manifest's: states are read in it.
        videos = videos.loc[[video_id for video_id in videos.index if video_id in records]]
        videos = videos.assign(
            **{
                name: [getattr(records[video_id], name) for video_id in videos.index]
                for name in LABEL_COLUMNS
            }
        )
    videos = videos[videos["split"] == split]
    warnings += [
        f"{video_id} is {row['status']} and takes no part"
        + (f": {row['error']}" * bool(row["error"]))
        for video_id, row in videos[videos["status"] != DONE].iterrows()
    ]
    return videos[videos["status"] == DONE], warnings


def _check_manifest(
    store: FeatureStore, records: Mapping[str, VideoRecord], split: str, manifest: Path
) -> None:
    """Refuse a manifest that is of other videos, or of other versions of them."""
    known = store.videos
    problems = []
    for video_id, record in records.items():
        # A manifest may hold the whole benchmark, the store one split of it.
        if record.split != split:
            continue
        if video_id not in known.index:
            problems.append(f"{video_id}: not in the store")
        elif (
            record.num_frames is not None
            and known.loc[video_id, "status"] == DONE
            and record.num_frames != known.loc[video_id, "num_frames"]
        ):
            problems.append(
                f"{video_id}: has {record.num_frames} frames here, "
                f"{known.loc[video_id, 'num_frames']} in the store"
            )
    if problems:
        raise ManifestError(
            f"{manifest}: {len(problems)} {split} video(s) do not fit {store.path}:\n"
            f"{listing(problems)}\nExtract these videos, or correct the manifest."
        )
