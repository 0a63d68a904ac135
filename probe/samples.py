"""From a store to training samples: which videos, and how a video's segments are averaged.

`draw_samples` does all of it in one call; the functions below it are its steps, for whoever draws
many times from the same videos.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, eye_array

from hiprobe.store import FeatureStore, HiProbeError, StoreError
from hiprobe.store.ground_truth import anomalous_frame_counts
from hiprobe.store.labels import labelled_videos
from hiprobe.store.taps import HIDDEN_STATES

LABELS = ("video", "segment")
# One video of a class has no spread, and the metrics of DLSP divide by it.
MIN_VIDEOS_PER_CLASS = 2


@dataclass(frozen=True)
class Samples:
    """The samples of a set of videos, the same for every layer.

    Attributes
    ----------
    labels : Series of {'normal', 'anomalous'}
        The videos' own, indexed by video id, in the store's order.
    owner : (sample,) object
        The video id of each sample.
    is_anomalous : (sample,) bool
        The label of each sample's video, or of the segment.
    averaging : (sample, segment) sparse float64
        Rows sum to 1; samples = averaging @ segment states.
    warnings : tuple of str
        Videos that take no part, and why.
    by_segment : bool
        Whether each segment is a sample with a label of its own.
    needs_anomalies : bool
        Whether both classes have to be there; a scorer may learn the normal one alone.
    """

    labels: pd.Series
    owner: np.ndarray
    is_anomalous: np.ndarray
    averaging: csr_array
    warnings: tuple[str, ...] = ()
    by_segment: bool = False
    needs_anomalies: bool = True

    @property
    def video_ids(self) -> list[str]:
        """The videos, in the store's order."""
        return list(self.labels.index)

    def states(
        self, store: FeatureStore, layer: int, *, tap: str = HIDDEN_STATES, prompt: str = ""
    ) -> np.ndarray:
        """Read one layer's samples, of a tap and a prompt: (sample, feature) float64.

        Segments are read and averaged some videos at a time, so that memory holds the samples and
        not the layer.
        """
        return self.averaged(store, layer, lambda states: states, tap=tap, prompt=prompt)

    def averaged(
        self,
        store: FeatureStore,
        layer: int,
        of: Callable[[np.ndarray], np.ndarray],
        *,
        tap: str = HIDDEN_STATES,
        prompt: str = "",
    ) -> np.ndarray:
        """Average what a function makes of segments' states: (sample, …) float64; see `states`."""
        # A sample's segments are of one video, and videos are read whole.
        first_columns = self.averaging.indices[self.averaging.indptr[:-1]]
        samples, column = np.empty((0, 0)), 0
        for _, read in store.iter_layer(layer, self.video_ids, tap=tap, prompt=prompt):
            states = of(read)
            columns = slice(column, column + len(states))
            rows = np.flatnonzero((columns.start <= first_columns) & (first_columns < columns.stop))
            if not samples.size:
                samples = np.empty((len(first_columns), states.shape[1]))
            samples[rows] = self.averaging[rows][:, columns] @ states
            column = columns.stop
        return samples

    def rows_of(self, video_ids: Sequence[str]) -> np.ndarray:
        """Which samples are of some videos: (sample,) bool.

        Raises
        ------
        StoreError
            They are of one class only.
        """
        rows = np.isin(self.owner, np.array(video_ids, object))
        _check_classes(self.is_anomalous[rows], len(video_ids), self.needs_anomalies)
        return rows


def _check_classes(is_anomalous: np.ndarray, num_videos: int, needs_anomalies: bool) -> None:
    """Refuse samples of one class; normal ones alone may be enough."""
    if is_anomalous.all() or (needs_anomalies and not is_anomalous.any()):
        raise StoreError(
            f"the {len(is_anomalous)} samples of the {num_videos} videos drawn are all "
            f"{'anomalous' if is_anomalous.any() else 'normal'}, expected both. Draw more videos, "
            "or use --labels video."
        )


def draw_samples(
    store: FeatureStore,
    split: str = "train",
    fraction: float = 1.0,
    num_videos: int | None = None,
    seed: int = 0,
    labels: str = "video",
    samples_per_video: int = 1,
    manifest: Path | None = None,
    needs_anomalies: bool = True,
) -> Samples:
    """Choose few-shot videos of a store, and make samples of their segments.

    Parameters
    ----------
    store : FeatureStore
    split : str
        Videos to draw from.
    fraction : float in (0, 1]
        Share of each class.
    num_videos : int, optional
        So many videos in all, instead of a share.
    seed : int
        Seeds the draw.
    labels : {'video', 'segment'}
        'video': each sample has its video's label. 'segment': each segment is a sample, with the
        label of most of its frames, from annotations.
    samples_per_video : int
        With ``labels='video'``: temporal bins that a video's segments are averaged in.
    manifest : Path, optional
        Labels, splits and annotations from here instead of the store's.
    needs_anomalies : bool
        False allows normal videos alone, for a scorer that learns them only.

    Returns
    -------
    Samples

    Raises
    ------
    HiProbeError
        Too few videos of a class, no annotation to label segments by, or a manifest of other
        videos.
    """
    videos, warnings = training_videos(store, split, manifest, needs_anomalies)
    chosen = choose_videos(videos["label"], fraction, seed, num_videos)
    warnings += other_size(videos["label"], len(chosen), fraction, num_videos)
    samples = samples_of(store, videos, chosen, labels, samples_per_video, needs_anomalies)
    return replace(samples, warnings=tuple(warnings))


def training_videos(
    store: FeatureStore,
    split: str = "train",
    manifest: Path | None = None,
    needs_anomalies: bool = True,
) -> tuple[pd.DataFrame, list[str]]:
    """List the videos that can be drawn from, as `labelled_videos` does; refuse too few."""
    videos, warnings = labelled_videos(store, split, manifest)
    counts = {label: int((videos["label"] == label).sum()) for label in ("normal", "anomalous")}
    wanted = ("normal", "anomalous") if needs_anomalies else ("normal",)
    if min(counts[label] for label in wanted) < MIN_VIDEOS_PER_CLASS:
        enough = counts["normal"] >= MIN_VIDEOS_PER_CLASS
        alone = " To learn from normal videos alone, take --scorer mahalanobis." if enough else ""
        raise StoreError(
            f"{store.path}: cannot train on split {split!r}: it has {counts['normal']} "
            f"normal and {counts['anomalous']} anomalous finished videos, expected at least "
            f"{MIN_VIDEOS_PER_CLASS} of {'each' if needs_anomalies else 'the normal'}. Extract "
            "more videos, choose another --split, or "
            f"give other labels with --manifest.{alone}"
        )
    return videos, warnings


def choose_videos(
    labels: pd.Series, fraction: float, seed: int, num_videos: int | None = None
) -> list[str]:
    """Draw a few-shot subset, stratified by label.

    Parameters
    ----------
    labels : Series of {'normal', 'anomalous'}
        Indexed by video id.
    fraction : float in (0, 1]
        Of each class, rounded; at least two videos of a class, where it has them: `other_size`
        says when that makes the draw another one than was asked for.
    seed : int
    num_videos : int, optional
        So many videos in all, instead of a fraction.

    Returns
    -------
    list of str
        Video ids in the order of `labels`. Small fractions may draw the very same videos.
    """
    counts = {label: int((labels == label).sum()) for label in ("normal", "anomalous")}
    if num_videos is None:
        # Each class is rounded by itself: the draw is stratified first, and of the asked size next.
        wanted = {label: round(fraction * count) for label, count in counts.items()}
    else:
        share = round(num_videos * counts["normal"] / len(labels))
        num_others = min(MIN_VIDEOS_PER_CLASS, counts["anomalous"])
        num_normal = max(MIN_VIDEOS_PER_CLASS, min(share, num_videos - num_others))
        wanted = {"normal": num_normal, "anomalous": num_videos - num_normal}
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for label, number in wanted.items():
        of_class = labels.index[labels == label].to_numpy()
        chosen.update(rng.permutation(of_class)[: max(number, MIN_VIDEOS_PER_CLASS)])
    return [video_id for video_id in labels.index if video_id in chosen]


def other_size(
    labels: pd.Series, num_drawn: int, fraction: float, num_videos: int | None = None
) -> list[str]:
    """Say, in at most one sentence, that a draw is larger or smaller than was asked for.

    Parameters
    ----------
    labels : Series of {'normal', 'anomalous'}
        Of all videos that can be drawn.
    num_drawn : int
        As `choose_videos` drew.
    fraction, num_videos
        As it was asked to.
    """
    counts = {label: int((labels == label).sum()) for label in ("normal", "anomalous")}
    if num_videos is None:
        if all(round(fraction * n) >= min(n, MIN_VIDEOS_PER_CLASS) for n in counts.values()):
            return []
        asked = f"a fraction of {fraction:g}"
    elif num_drawn == num_videos:
        return []
    else:
        asked = f"{num_videos} videos"
    return [
        f"{asked} of {counts['normal']} normal and {counts['anomalous']} anomalous videos: "
        f"{num_drawn} are drawn, at least {MIN_VIDEOS_PER_CLASS} of each class and at most all"
    ]


def samples_of(
    store: FeatureStore,
    videos: pd.DataFrame,
    video_ids: Sequence[str],
    labels: str = "video",
    samples_per_video: int = 1,
    needs_anomalies: bool = True,
) -> Samples:
    """Make samples of some of `videos`; the options are those of `draw_samples`."""
    if labels not in LABELS:
        raise HiProbeError(f"labels is {labels!r}, expected {' or '.join(LABELS)}.")
    if labels == "segment":
        return make_segment_samples(store, video_ids, videos, needs_anomalies)
    samples = make_samples(store, video_ids, videos["label"], samples_per_video)
    return replace(samples, needs_anomalies=needs_anomalies)


def make_samples(
    store: FeatureStore,
    video_ids: Sequence[str],
    labels: pd.Series,
    samples_per_video: int = 1,
) -> Samples:
    """Lay out the samples of some videos.

    Parameters
    ----------
    store : FeatureStore
    video_ids : sequence of str
    labels : Series of {'normal', 'anomalous'}
        Indexed by video id.
    samples_per_video : int
        1: the mean over the video's segments. N: the segments are resampled to N by equal
        temporal bins, averaged in each (with fewer segments than bins, some repeat).
    """
    return binned_samples(store, video_ids, labels, lambda num_segments: samples_per_video)


def binned_samples(
    store: FeatureStore,
    video_ids: Sequence[str],
    labels: pd.Series,
    num_bins: Callable[[int], int],
) -> Samples:
    """Average the segments of some videos in temporal bins; `num_bins` is called with theirs."""
    counts = store.videos.loc[list(video_ids), "num_segments"]
    columns, weights, lengths, numbers = [], [], [], []
    first = 0
    ordered = _in_store_order(store, video_ids)
    for video_id in ordered:
        num_segments = int(counts[video_id])
        numbers.append(num_bins(num_segments))
        for start, stop in temporal_bins(num_segments, numbers[-1]):
            columns.append(np.arange(first + start, first + stop))
            weights.append(np.full(stop - start, 1.0 / (stop - start)))
            lengths.append(stop - start)
        first += num_segments
    averaging = csr_array(
        (np.concatenate(weights), np.concatenate(columns), np.cumsum([0, *lengths])),
        shape=(len(lengths), first),
    )
    is_anomalous = (labels[ordered] == "anomalous").to_numpy()
    owner, flags = (
        np.repeat(values, numbers) for values in (np.array(ordered, object), is_anomalous)
    )
    return Samples(labels[ordered], owner, flags, averaging)


def make_segment_samples(
    store: FeatureStore,
    video_ids: Sequence[str],
    videos: pd.DataFrame,
    needs_anomalies: bool = True,
) -> Samples:
    """Make every segment a sample of its own, with its own label: that of most of its frames.

    Parameters
    ----------
    store : FeatureStore
    video_ids : sequence of str
    videos : DataFrame
        ``label`` and ``annotations``, indexed by video id.
    needs_anomalies : bool
        False allows normal segments alone.

    Raises
    ------
    StoreError
        No annotation says where an anomalous video is anomalous.
    """
    ordered = _in_store_order(store, video_ids)
    segments = store.segments[store.segments["video_id"].isin(ordered)]
    start, stop = segments["start_frame"].to_numpy(), segments["stop_frame"].to_numpy()
    counts = np.zeros(len(segments), dtype=np.int64)
    for video_id in (one for one in ordered if videos.loc[one, "label"] == "anomalous"):
        annotations = videos.loc[video_id, "annotations"]
        if not annotations:
            raise StoreError(
                f"{store.path}: --labels segment needs annotations of the training videos; "
                f"{video_id!r} is anomalous and has none. Give them with --manifest, or use "
                "--labels video."
            )
        own = (segments["video_id"] == video_id).to_numpy()
        counts[own] = anomalous_frame_counts(start[own], stop[own], annotations)
    identity = csr_array(eye_array(len(segments)))
    is_anomalous = 2 * counts > stop - start
    _check_classes(is_anomalous, len(ordered), needs_anomalies)
    owner = segments["video_id"].to_numpy(object)
    return Samples(
        videos.loc[ordered, "label"], owner, is_anomalous, identity,
        by_segment=True, needs_anomalies=needs_anomalies,
    )  # fmt: skip


def _in_store_order(store: FeatureStore, video_ids: Sequence[str]) -> list[str]:
    """Sort ids as `FeatureStore.layer` gives their rows, whatever the order asked for."""
    wanted = set(video_ids)
    return [video_id for video_id in store.videos.index if video_id in wanted]


def temporal_bins(num_segments: int, num_bins: int) -> list[tuple[int, int]]:
    """Equal temporal bins, half-open and never empty: with few segments, bins share them."""
    edges = [i * num_segments // num_bins for i in range(num_bins + 1)]
    return [(start, max(stop, start + 1)) for start, stop in itertools.pairwise(edges)]
