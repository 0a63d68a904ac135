"""Frame-level ground truth of the test videos, under a named convention.

The field's public scripts disagree about the length of a video and about the ends of annotations.
Each choice moves AUC by some 0.0002, but scores of one length against labels of another are
misaligned from the first video on; so the convention is explicit, recorded, and lengths must fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.store import (
    DONE,
    FeatureStore,
    HiProbeError,
    ManifestError,
    StoreError,
    VideoRecord,
    merge_ranges,
    read_manifest,
)
from hiprobe.store.ground_truth import anomalous_frame_counts, clip_annotations
from hiprobe.store.localization import smooth

LENGTHS = ("true", "cut-16", "pad-16")
ENDS = ("exclusive", "inclusive")
MAX_LISTED = 20


@dataclass(frozen=True)
class Convention:
    """How annotations become labels of frames; frames count from 0.

    Attributes
    ----------
    length : {'true', 'cut-16', 'pad-16'}
        Frames of a video that are evaluated: all; the greatest multiple of 16 not above their
        number; the least not below it, the added frames having the last segment's score.
    ends : {'exclusive', 'inclusive'}
        Whether the last frame of an annotation ``start:stop`` is ``stop - 1`` or ``stop``.
    """

    length: str = "true"
    ends: str = "exclusive"

    def num_frames(self, true_length: int) -> int:
        """Frames of a video that are evaluated."""
        if self.length == "cut-16":
            return true_length // 16 * 16
        return -(-true_length // 16) * 16 if self.length == "pad-16" else true_length


def choose_test_videos(
    store: FeatureStore,
    split: str,
    manifest: Path | None = None,
    convention: Convention = Convention(),
) -> tuple[pd.DataFrame, list[str]]:
    """Pick the finished videos of a split, with their ground truth.

    Parameters
    ----------
    store : FeatureStore
    split : str
    manifest : Path, optional
        Labels, splits and annotations from here instead of the store's.
    convention : Convention

    Returns
    -------
    videos : DataFrame
        As `FeatureStore.videos`; ``num_frames`` and ``annotations`` follow the convention.
    warnings : list of str
        Videos left out, ends clipped.

    Raises
    ------
    HiProbeError
        There are none, or the ground truth does not fit the videos.
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
        videos = videos.loc[[video_id for video_id in videos.index if video_id in records]]
        videos = videos.assign(
            **{
                name: [getattr(records[video_id], name) for video_id in videos.index]
                for name in ("split", "label", "category", "annotations")
            }
        )
    videos = videos[videos["split"] == split]
    unfinished = videos[videos["status"] != DONE]
    videos = videos[videos["status"] == DONE]
    if videos.empty:
        raise StoreError(
            f"{store.path}: no finished videos in split {split!r}. Extract them, choose "
            "another --split, or give other splits with --manifest."
        )
    warnings += [
        f"{video_id} is {row['status']} and takes no part"
        + (f": {row['error']}" * bool(row["error"]))
        for video_id, row in unfinished.iterrows()
    ]
    return with_ground_truth(videos, manifest or store.path, convention, warnings), warnings


def _check_manifest(
    store: FeatureStore, records: Mapping[str, VideoRecord], split: str, manifest: Path
) -> None:
    """Refuse a manifest that is of other videos, or of other versions of them."""
    known = store.videos
    problems = []
    for video_id, record in records.items():
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


def with_ground_truth(
    videos: pd.DataFrame, source: Path, convention: Convention, warnings: list[str]
) -> pd.DataFrame:
    """Bring lengths and annotations to the convention; what was clipped goes into `warnings`.

    Raises
    ------
    ManifestError
        A video's annotations lie beyond it, or an anomalous one has none; all are listed.
    """
    problems, lengths, annotations = [], [], []
    for video_id, row in videos.iterrows():
        num_frames = convention.num_frames(int(row["num_frames"]))
        widened = merge_ranges(
            (start, stop + (convention.ends == "inclusive")) for start, stop in row["annotations"]
        )
        # An end beyond the true length is worth a word; one that the convention cuts is not.
        _, num_beyond = clip_annotations(row["annotations"], int(row["num_frames"]))
        # Frames that padding adds are normal ones, wherever an annotation may end.
        ranges, _ = clip_annotations(widened, min(num_frames, int(row["num_frames"])))
        lengths.append(num_frames)
        annotations.append(ranges)
        beyond = [r for r in row["annotations"] if r[0] >= row["num_frames"]]
        if not num_frames:
            problems.append(f"{video_id}: no frame of its {row['num_frames']} is evaluated")
        elif beyond:
            problems.append(
                f"{video_id}: annotation {beyond[0][0]}:{beyond[0][1]} lies beyond its "
                f"{row['num_frames']} frames"
            )
        elif row["label"] == "anomalous" and not row["annotations"]:
            problems.append(f"{video_id}: labelled anomalous, but no annotation says where")
        elif num_beyond:
            end = row["annotations"][-1][1]
            warnings.append(
                f"{video_id}: annotation ended at {end}, clipped to its {row['num_frames']} frames"
            )
    if problems:
        raise ManifestError(
            f"{source}: {len(problems)} test video(s) have no usable ground truth:\n"
            f"{listing(problems)}\nGive a corrected manifest with --manifest FILE; the store stays "
            "as it is."
        )
    return videos.assign(num_frames=lengths, annotations=annotations)


def attach_ground_truth(
    segments: pd.DataFrame,
    videos: pd.DataFrame,
    raw: np.ndarray,
    *,
    sigma: float,
    threshold: float,
) -> ScoredSegments:
    """Smooth the scores of some videos' segments and put the ground truth beside them.

    Parameters
    ----------
    segments : DataFrame
        ``video_id, start_frame, stop_frame``; a video's lie together, in the order of `videos`.
    videos : DataFrame
        From `with_ground_truth`. Segments are cut at the videos' lengths, or the last one reaches
        it.
    raw : (segment,) float64
    sigma : float
        Width of the smoothing kernel in segments.
    threshold : float

    Raises
    ------
    HiProbeError
        A score, or the threshold, is not finite.
    """
    if not np.isfinite(threshold):
        raise HiProbeError(f"the threshold is {threshold}, expected a finite number.")
    if not np.isfinite(raw).all():
        where = segments[~np.isfinite(raw)]
        raise HiProbeError(
            f"{len(where)} of {len(raw)} scores are not finite, the first in "
            f"{where['video_id'].iloc[0]!r} at frame {where['start_frame'].iloc[0]}: look at what "
            "made them, the probe or the scores' file."
        )
    video, edges = _videos_of(segments["video_id"], videos.index)
    length = videos["num_frames"].to_numpy(dtype=np.int32)[video]
    inside = segments["start_frame"].to_numpy() < length
    if not inside.all():  # the convention cuts the last segment off
        segments, raw, video, length = segments[inside], raw[inside], video[inside], length[inside]
        edges = np.searchsorted(video, np.arange(len(videos) + 1))
    stop = np.minimum(segments["stop_frame"].to_numpy(dtype=np.int32), length)
    lasts = edges[1:] - 1
    stop[lasts] = np.maximum(stop[lasts], length[lasts])
    start = np.minimum(segments["start_frame"].to_numpy(dtype=np.int32), stop)
    smoothed = raw if sigma == 0 else np.empty_like(raw)
    annotations = videos["annotations"].tolist()
    num_anomalous = np.zeros(len(raw), dtype=np.int32)
    for first, last in itertools.pairwise(edges.tolist()):
        own = slice(first, last)
        if sigma != 0:
            smoothed[own] = smooth(raw[own], sigma)
        if ranges := annotations[video[first]]:
            num_anomalous[own] = anomalous_frame_counts(start[own], stop[own], ranges)
    return ScoredSegments(
        videos=videos,
        video=video,
        start_frame=start,
        stop_frame=stop,
        num_anomalous=num_anomalous,
        num_normal=stop - start - num_anomalous,
        raw=raw,
        smoothed=smoothed,
        threshold=threshold,
    )


def _videos_of(ids: pd.Series, videos: pd.Index) -> tuple[np.ndarray, np.ndarray]:
    """Position in `videos` of each segment's video, and the edges between videos' segments."""
    firsts = np.flatnonzero((ids != ids.shift()).to_numpy())
    edges = np.append(firsts, len(ids))
    positions = videos.get_indexer(ids.iloc[firsts]).astype(np.int32)
    return np.repeat(positions, np.diff(edges)), edges


def describe(convention: Convention) -> dict[str, Any]:
    """The convention, for `metrics.json`."""
    return {
        "first_frame": 0,
        "length": convention.length,
        "ends": convention.ends,
        "beyond_the_length": "clipped",
    }


def listing(problems: list[str]) -> str:
    """Up to twenty problems, a line each."""
    more = [f"… and {len(problems) - MAX_LISTED} more"] * (len(problems) > MAX_LISTED)
    return "\n".join(f"  {problem}" for problem in [*problems[:MAX_LISTED], *more])
