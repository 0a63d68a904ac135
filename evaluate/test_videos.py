"""The videos to test on: those that a manifest lists, and whether their frames have labels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hiprobe.store import ManifestError, read_manifest
from hiprobe.store.errors import listing

COLUMNS = ("path", "label", "category", "num_frames", "fps", "annotations")


def listed_videos(manifest: Path, split: str) -> pd.DataFrame:
    """List the videos of a split, in the manifest's order.

    Returns
    -------
    DataFrame
        ``path, label, category, num_frames, fps, annotations``, by ``video_id``; true lengths.

    Raises
    ------
    ManifestError
        There are none, or lengths are missing.
    """
    records = [record for record in read_manifest(manifest) if record.split == split]
    if not records:
        raise ManifestError(f"{manifest}: no videos in split {split!r}.")
    unknown = [f"{one.video_id}: no num_frames" for one in records if not one.num_frames]
    if unknown:
        raise ManifestError(
            f"{manifest}: {len(unknown)} test video(s) lack their length:\n"
            f"{listing(unknown)}\nGive the column num_frames (`hiprobe manifest … --lengths CSV`)."
        )
    table = {name: [getattr(record, name) for record in records] for name in COLUMNS}
    videos = pd.DataFrame(table, index=pd.Index([r.video_id for r in records], name="video_id"))
    return videos.astype({"fps": float})


def is_annotated(videos: pd.DataFrame) -> bool:
    """Whether annotations say which frames are anomalous: not if no anomalous video has any.

    Parameters
    ----------
    videos : DataFrame
        ``label`` and ``annotations``.
    """
    annotations = videos["annotations"][videos["label"] == "anomalous"]
    return not len(annotations) or any(map(len, annotations))
