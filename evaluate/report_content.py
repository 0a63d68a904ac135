"""What the report shows, gathered: plain values, no HTML yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hiprobe.store.ground_truth import anomalous_frame_counts
from hiprobe.store.manifest import Annotations
from hiprobe.store.results import Interval


@dataclass(frozen=True)
class ReportVideo:
    """One video's curve and ground truth.

    Attributes
    ----------
    video_id, label, category : str
    fps : float
    num_frames : int
    start_frames, stop_frames : (segment,) int
    scores, smoothed : (segment,) float64
    intervals, annotations : tuple of (int, int)
        Detected and true anomalous frame ranges, half-open.
    descriptions : tuple of (Interval, str)
        What a model says of intervals, in the order of time.
    thumbnails : tuple of dict
        ``frame``, ``score`` and ``jpeg`` (base64) of the peaks.
    has_frame_labels : bool
        Whether `annotations` tell which frames are anomalous.
    windows : sequence of (int, int)
        What the model saw of each segment; empty where that is the segment.
    """

    video_id: str
    label: str
    category: str
    fps: float
    num_frames: int
    start_frames: np.ndarray
    stop_frames: np.ndarray
    scores: np.ndarray
    smoothed: np.ndarray
    intervals: Annotations
    annotations: Annotations
    descriptions: tuple[tuple[Interval, str], ...] = ()
    thumbnails: tuple[dict[str, Any], ...] = ()
    has_frame_labels: bool = True
    windows: Annotations = ()

    @property
    def group(self) -> str:
        """What the report filters by: the category, or the label where there is none."""
        return self.category or self.label

    @property
    def error(self) -> float:
        """Mean over frames of the distance between smoothed score and ground truth.

        Without labels of frames, the distance between the highest score and the video's label.
        """
        lengths = self.stop_frames - self.start_frames
        if not lengths.sum():
            return 0.0
        if not self.has_frame_labels:
            return float(abs((self.label == "anomalous") - self.smoothed.max()))
        anomalous = anomalous_frame_counts(self.start_frames, self.stop_frames, self.annotations)
        # A segment has one score for all its frames, normal (0) and anomalous (1).
        too_high, too_low = np.abs(self.smoothed), np.abs(1 - self.smoothed)
        return float((too_high @ (lengths - anomalous) + too_low @ anomalous) / lengths.sum())


@dataclass(frozen=True)
class ReportContent:
    """Everything that the report shows.

    Attributes
    ----------
    title : str
    metrics : dict
        The content of ``metrics.json``; a missing or undefined value shows as a dash.
    layers : dict of str to list of (float or None)
        `Probe.layers`: index = layer, None for layers that are not stored. Empty for scores
        that come from elsewhere: the report then says nothing about layers.
    chosen_layers : tuple of int
        Those that the scores are made of.
    threshold : float
    roc : pair of (point,) float64
        False and true positive rates of the smoothed scores.
    pr : pair of (point,) float64
        Recall and precision.
    videos : list of ReportVideo
    provenance : dict
    warnings : list of str
    analysis : dict or None
        What ``hiprobe layers`` found: ``table``, ``tsne`` (lists by column) and ``summary``.
    has_frame_labels : bool
        Whether annotations tell which frames are anomalous; else figures are of whole videos.
    """

    title: str
    metrics: dict[str, Any]
    layers: dict[str, list[float | None]]
    chosen_layers: tuple[int, ...]
    threshold: float
    roc: tuple[np.ndarray, np.ndarray]
    pr: tuple[np.ndarray, np.ndarray]
    videos: list[ReportVideo]
    provenance: dict[str, Any]
    warnings: list[str]
    analysis: dict[str, Any] | None = None
    has_frame_labels: bool = True
