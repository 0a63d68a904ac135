"""The test set: which videos, their segments, and their frames' ground truth; no scores yet.

Everybody who needs labels of test frames asks here: `evaluate` (with a store or with scores of
other methods), `sweep`, notebooks and benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from hiprobe.evaluate.convention import DEFAULT_CONVENTION, ENDS, LENGTHS, Convention
from hiprobe.evaluate.measure import measure
from hiprobe.evaluate.scored import ScoredSegments, Segments
from hiprobe.evaluate.test_videos import is_annotated, listed_videos
from hiprobe.store import FeatureStore, HiProbeError, ManifestError, StoreError
from hiprobe.store.ground_truth import anomalous_frame_counts
from hiprobe.store.labels import labelled_videos
from hiprobe.store.localization import DEFAULT_SIGMA, smooth
from hiprobe.store.probe_inputs import MAX_ROWS
from hiprobe.store.taps import HIDDEN_STATES
from hiprobe.store.windows import COLUMNS

__all__ = ["DEFAULT_CONVENTION", "ENDS", "LENGTHS", "Convention", "TestSet"]

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class TestSet:
    """Videos to test on, in segments, with the ground truth of their frames.

    Attributes
    ----------
    videos : DataFrame
        One row a video, indexed by ``video_id``, as `FeatureStore.videos`; ``num_frames`` and
        ``annotations`` follow the convention.
    segments : Segments
        What is evaluated of the videos; empty until `with_segments` where there is no store.
    is_evaluated : (row,) bool
        Of the segments that there are scores of, those that the convention keeps: it may cut a
        video's last one off.
    convention : Convention
    warnings : tuple of str
        Videos that take no part, annotations that were clipped.
    store : FeatureStore or None
        Where the states are.
    has_frame_labels : bool
        Whether annotations say which frames are anomalous. Where only the videos' labels are
        known, the frames of anomalous videos count as neither class.

    Examples
    --------
    >>> test = TestSet.of_store(store)  # doctest: +SKIP
    >>> states = np.concatenate(list(test.states(20)))  # doctest: +SKIP
    >>> scores = model.predict_proba(states)[:, 1]  # doctest: +SKIP
    >>> test.evaluate(scores)["smoothed"]["auc"]  # doctest: +SKIP
    """

    __test__ = False  # pytest takes a class of this name for tests

    videos: pd.DataFrame
    segments: Segments
    is_evaluated: np.ndarray
    convention: Convention
    warnings: tuple[str, ...] = ()
    store: FeatureStore | None = None
    has_frame_labels: bool = True

    @classmethod
    def of_store(
        cls,
        store: FeatureStore,
        split: str = "test",
        manifest: Path | None = None,
        convention: Convention = DEFAULT_CONVENTION,
    ) -> Self:
        """Take the finished videos of a split of a store.

        Parameters
        ----------
        store : FeatureStore
        split : {'train', 'test'}
        manifest : Path, optional
            Labels, splits and annotations from here instead of the store's.
        convention : Convention

        Raises
        ------
        HiProbeError
            There are none, or the ground truth does not fit the videos.
        """
        videos, warnings = labelled_videos(store, split, manifest)
        if videos.empty:
            raise StoreError(
                f"{store.path}: no finished videos in split {split!r}. Extract them, choose "
                "another --split, or give other splits with --manifest."
            )
        return cls.of_videos(
            videos, manifest or store.path, store=store, convention=convention, warnings=warnings
        )

    @classmethod
    def of_manifest(
        cls, manifest: Path, split: str = "test", convention: Convention = DEFAULT_CONVENTION
    ) -> Self:
        """Take the videos of a split of a manifest, for scores that come from elsewhere.

        Which segments there are, `with_segments` has to tell.

        Raises
        ------
        ManifestError
            There are none, lengths are missing, or annotations do not fit the videos.
        """
        return cls.of_videos(listed_videos(manifest, split), manifest, convention=convention)

    @classmethod
    def of_videos(
        cls,
        videos: pd.DataFrame,
        source: Path,
        *,
        store: FeatureStore | None = None,
        convention: Convention = DEFAULT_CONVENTION,
        warnings: Sequence[str] = (),
    ) -> Self:
        """Take some videos, whatever their split.

        Parameters
        ----------
        videos : DataFrame
            ``label, category, num_frames, fps, annotations``, by ``video_id``; of a store, in the
            store's order.
        source : Path
            Where the ground truth is from, for messages.
        store : FeatureStore, optional
            Where the segments and the states are.
        convention : Convention
        warnings : sequence of str
            What there was to say so far.

        Raises
        ------
        ManifestError
            As of `Convention.apply`.
        """
        truth, clipped = convention.apply(videos, source)
        nothing = np.zeros(0, dtype=np.int32)
        test = cls(
            videos=truth,
            segments=Segments(truth, *[nothing] * 5),
            is_evaluated=np.zeros(0, dtype=bool),
            convention=convention,
            warnings=(*warnings, *clipped),
            store=store,
            has_frame_labels=is_annotated(videos),
        )
        if store is None:
            return test
        return test.with_segments(store.segments[store.segments["video_id"].isin(videos.index)])

    def with_segments(self, table: pd.DataFrame) -> Self:
        """Lay the videos out in segments, and count each one's frames by class.

        Parameters
        ----------
        table : DataFrame
            ``video_id, start_frame, stop_frame``, half-open; a video's lie together, in the order
            of `videos`, and cover it. They are cut at the evaluated length, or the last one
            reaches it.
        """
        video = _videos_of(table["video_id"], self.videos.index)
        length = self.videos["num_frames"].to_numpy(dtype=np.int32)
        inside = table["start_frame"].to_numpy() < length[video]
        start, stop = (
            table[name].to_numpy(dtype=np.int32)[inside] for name in ("start_frame", "stop_frame")
        )
        video = video[inside]
        stop = np.minimum(stop, length[video])
        # Padding adds frames to a video's last segment.
        lasts = np.flatnonzero(np.diff(video, append=-1))
        stop[lasts] = np.maximum(stop[lasts], length[video[lasts]])
        num_anomalous = np.zeros(len(video), dtype=np.int32)
        all_normal = Segments(self.videos, video, start, stop, num_anomalous, stop - start)
        for (_, own), ranges in zip(
            all_normal.of_each_video(), self.videos["annotations"], strict=True
        ):
            if ranges:
                num_anomalous[own] = anomalous_frame_counts(start[own], stop[own], ranges)
        num_normal = stop - start - num_anomalous
        if not self.has_frame_labels:
            num_normal[all_normal.of_anomalous_video] = 0
        segments = replace(all_normal, num_normal=num_normal)
        return replace(self, segments=segments, is_evaluated=inside)

    def windows(self) -> dict[str, np.ndarray]:
        """What the model saw of each evaluated segment, where these are not its own frames."""
        if self.store is None or not self.store.has_windows:
            return {}
        table = self.store.segments
        own = table[table["video_id"].isin(self.videos.index)][self.is_evaluated]
        return {name: own[name].to_numpy() for name in COLUMNS}

    def require_frame_labels(self) -> None:
        """Refuse a test set of which only the videos' labels are known, with a `ManifestError`."""
        if not self.has_frame_labels:
            anomalous = self.videos.index[self.videos["label"] == "anomalous"]
            raise ManifestError(
                f"no annotation says where in the {len(anomalous)} anomalous test videos something "
                f"happens, for example in {anomalous[0]!r}: frames cannot be evaluated. Annotate "
                "the videos, or use `hiprobe evaluate`, which measures whole videos too."
            )

    def states(
        self, layer: int, *, tap: str = HIDDEN_STATES, prompt: str = "", max_rows: int = MAX_ROWS
    ) -> Iterator[np.ndarray]:
        """Read one layer of the store, of a tap and a prompt, some videos at a time.

        Yields
        ------
        (segment, feature) float32
            One after the other, they are the segments that `score` takes scores of.
        """
        assert self.store is not None, "a test set of a manifest has no states"
        ids = self.videos.index
        for _, states in self.store.iter_layer(layer, ids, max_rows, tap=tap, prompt=prompt):
            yield states

    def score(
        self,
        raw: np.ndarray,
        sigma: float = DEFAULT_SIGMA,
        threshold: float = DEFAULT_THRESHOLD,
    ) -> ScoredSegments:
        """Smooth each video's scores, and put them beside the ground truth.

        Parameters
        ----------
        raw : (row,) float
            A score for each segment of the videos, in the order of `states`.
        sigma : float
            Width of the smoothing kernel in segments; 0 leaves the scores as they are.
        threshold : float
            A segment whose smoothed score is above it counts as anomalous.

        Raises
        ------
        HiProbeError
            There are more or fewer scores than segments, or one, or the threshold, is not finite.
        """
        raw = np.asarray(raw, dtype=np.float64)
        if not np.isfinite(threshold):
            raise HiProbeError(f"the threshold is {threshold}, expected a finite number.")
        if raw.shape != self.is_evaluated.shape:
            raise HiProbeError(
                f"got scores of shape {raw.shape}, expected one for each of the "
                f"{len(self.is_evaluated)} segments."
            )
        if not self.is_evaluated.all():
            raw = raw[self.is_evaluated]
        self._check_finite(raw)
        # Each video by itself: smoothing must not carry scores over to the next one.
        smoothed = raw
        if sigma != 0:
            smoothed = np.empty_like(raw)
            for _, own in self.segments.of_each_video():
                smoothed[own] = smooth(raw[own], sigma)
        return ScoredSegments(
            **vars(self.segments),
            raw=raw,
            smoothed=smoothed,
            threshold=threshold,
            has_frame_labels=self.has_frame_labels,
        )

    def evaluate(
        self,
        raw: np.ndarray,
        sigma: float = DEFAULT_SIGMA,
        threshold: float = DEFAULT_THRESHOLD,
        num_resamples: int = 1000,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Score and measure, as `hiprobe evaluate` does.

        Parameters
        ----------
        raw, sigma, threshold
            As of `score`.
        num_resamples, seed : int
            Of the bootstrap over videos; 0 resamples leave the confidence intervals out.

        Returns
        -------
        dict
            The measures of `metrics.json`.
        """
        return measure(self.score(raw, sigma, threshold), num_resamples, seed)

    def _check_finite(self, raw: np.ndarray) -> None:
        """Refuse scores that would sort anywhere, and say where the first one is."""
        is_wrong = ~np.isfinite(raw)
        if is_wrong.any():
            first = int(np.argmax(is_wrong))
            raise HiProbeError(
                f"{is_wrong.sum()} of {len(raw)} scores are not finite, the first in "
                f"{self.videos.index[self.segments.video[first]]!r} at frame "
                f"{self.segments.start_frame[first]}: look at what made them, the probe or the "
                "scores' file."
            )


def _videos_of(ids: pd.Series, videos: pd.Index) -> np.ndarray:
    """Position in `videos` of each segment's video; looked up once a run of equal ids."""
    firsts = np.flatnonzero((ids != ids.shift()).to_numpy())
    positions = videos.get_indexer(ids.iloc[firsts]).astype(np.int32)
    return np.repeat(positions, np.diff(np.append(firsts, len(ids))))
