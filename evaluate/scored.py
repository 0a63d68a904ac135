"""The test set's segments with their ground truth, and with scores: one row a segment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hiprobe.evaluate.metrics import Ranking, f1_score
from hiprobe.store.ground_truth import anomalous_frame_counts
from hiprobe.store.localization import intervals
from hiprobe.store.results import KINDS, Interval, Results, ResultVideo, known_fps


@dataclass(frozen=True)
class Segments:
    """The test videos' segments, beside their ground truth.

    Attributes
    ----------
    videos : DataFrame
        One row a video, indexed by ``video_id``: label, category, num_frames, fps,
        annotations (clipped at the true length).
    video : (segment,) int
        Row of `videos` that a segment belongs to, ascending.
    start_frame, stop_frame : (segment,) int
        Half-open.
    num_anomalous, num_normal : (segment,) int
        Frames of each class; a frame of which that is not known is in neither.
    """

    videos: pd.DataFrame
    video: np.ndarray
    start_frame: np.ndarray
    stop_frame: np.ndarray
    num_anomalous: np.ndarray
    num_normal: np.ndarray

    @property
    def of_anomalous_video(self) -> np.ndarray:
        """Is the segment's video labelled anomalous: (segment,) bool."""
        return (self.videos["label"] == "anomalous").to_numpy()[self.video]

    def of_each_video(self) -> Iterator[tuple[str, slice]]:
        """Go over the videos: id, and where its segments lie."""
        # `video` is ascending, so a video's segments lie together.
        edges = np.searchsorted(self.video, np.arange(len(self.videos) + 1)).tolist()
        for video_id, (first, last) in zip(
            self.videos.index, itertools.pairwise(edges), strict=True
        ):
            yield str(video_id), slice(first, last)


@dataclass(frozen=True)
class ScoredSegments(Segments):
    """Scores of the test videos' segments, beside their ground truth.

    Attributes
    ----------
    raw, smoothed : (segment,) float64
        In [0, 1] of a probe, any finite number of another method.
    threshold : float
        T.
    has_frame_labels : bool
        As of `TestSet`.
    """

    raw: np.ndarray
    smoothed: np.ndarray
    threshold: float
    has_frame_labels: bool = True

    @property
    def is_anomalous(self) -> np.ndarray:
        """Is the smoothed score above the threshold: (segment,) bool."""
        return self.smoothed > self.threshold

    @property
    def variants(self) -> dict[str, np.ndarray]:
        """The four scores that are reported side by side, each (segment,) float64."""
        # Of what is not above T only the order counts, below all that is: 0 is not, among logits.
        lowest = self.smoothed.min(initial=np.inf)
        return {
            "raw": self.raw,
            "smoothed": self.smoothed,
            "localized": np.where(self.is_anomalous, self.smoothed, lowest),
            "binary": self.is_anomalous.astype(np.float64),
        }

    def ranking(self, scores: np.ndarray, where: np.ndarray | None = None) -> Ranking:
        """Rank all segments, or some, by `scores`."""
        columns = (scores, self.num_anomalous, self.num_normal, self.video)
        return Ranking(*(columns if where is None else (values[where] for values in columns)))

    def areas(self, scores: np.ndarray, where: np.ndarray | None = None) -> dict[str, float | None]:
        """``auc`` and ``ap`` of all segments, or of some; None where a class is absent."""
        metrics = self.ranking(scores, where).metrics()
        return {name: None if metrics is None else getattr(metrics, name) for name in ("auc", "ap")}

    @property
    def f1(self) -> float | None:
        """F1 of the frames above the threshold; None where frames have no labels."""
        if not self.has_frame_labels:
            return None
        return f1_score(self.is_anomalous, self.num_anomalous, self.num_normal)

    @property
    def false_alarm_rate(self) -> float | None:
        """Share of normal videos' frames above the threshold; None without normal videos."""
        of_normal = ~self.of_anomalous_video
        frames = self.num_normal[of_normal]
        return (
            float(frames[self.is_anomalous[of_normal]].sum() / frames.sum())
            if frames.sum()
            else None
        )

    def table(self) -> pd.DataFrame:
        """One row a segment, as ``scores.csv`` has it."""
        firsts = np.searchsorted(self.video, np.arange(len(self.videos)))
        return pd.DataFrame(
            {
                "video_id": self.videos.index.to_numpy()[self.video],
                "segment": np.arange(len(self.video)) - firsts[self.video],
                "start_frame": self.start_frame,
                "stop_frame": self.stop_frame,
                "score": self.raw,
                "smoothed": self.smoothed,
                "anomalous": self.is_anomalous.astype(int),
            }
        )

    def result_videos(self) -> dict[str, ResultVideo]:
        """Each video with its anomalous and normal intervals, as ``intervals.json`` has it."""
        found = {}
        for (video_id, own), row in zip(
            self.of_each_video(), self.videos.to_dict("records"), strict=True
        ):
            fps = known_fps(row["fps"])
            found[video_id] = ResultVideo(
                label=row["label"],
                category=row["category"],
                fps=fps,
                num_frames=int(row["num_frames"]),
                annotations=row["annotations"],
                intervals=self._intervals(video_id, own, fps),
            )
        return found

    def _intervals(
        self, video_id: str, own: slice, fps: float | None
    ) -> dict[str, tuple[Interval, ...]]:
        """Join one video's segments of the same kind."""
        is_anomalous = self.smoothed[own] > self.threshold
        flags = dict(zip(KINDS, (is_anomalous, ~is_anomalous), strict=True))
        return {
            kind: tuple(
                Interval.of_frames(video_id, kind, start, stop, fps)
                for start, stop in intervals(
                    flags[kind], self.start_frame[own], self.stop_frame[own]
                )
            )
            for kind in KINDS
        }


def rank_results(results: Results, column: str, video_ids: list[str] | None = None) -> Ranking:
    """Rank the segments of a results' folder, from its files alone.

    Parameters
    ----------
    results : Results
    column : {'score', 'smoothed'}
    video_ids : list of str, optional
        Of these videos only, which are then numbered in this order. Default: all.
    """
    chosen = list(results.videos) if video_ids is None else video_ids
    position = {video_id: i for i, video_id in enumerate(chosen)}
    # Numbered in the order of `video_ids`: two results are then resampled by the same draws.
    segments = results.segments[results.segments["video_id"].isin(chosen)]
    video = segments["video_id"].map(position).to_numpy()
    start, stop = segments["start_frame"].to_numpy(), segments["stop_frame"].to_numpy()
    num_anomalous = np.zeros(len(segments), dtype=np.int64)
    for video_id in chosen:
        if ranges := results.videos[video_id].annotations:
            own = video == position[video_id]
            num_anomalous[own] = anomalous_frame_counts(start[own], stop[own], ranges)
    scores = segments[column].to_numpy(dtype=np.float64)
    return Ranking(scores, num_anomalous, stop - start - num_anomalous, video)
