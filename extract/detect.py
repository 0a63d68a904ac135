"""Anomalies of one video as it plays: the model up to the probe's layers, scores, intervals.

Run by ``hiprobe detect``, the paper's real-time mode. Scores equal those of `extract` and
`evaluate`; only a few segments are in memory at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.extract.backbone import Backbone, States
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.generation import MAX_NEW_TOKENS, Describer
from hiprobe.extract.overlap import read_ahead
from hiprobe.extract.prompts import with_probes_taps
from hiprobe.extract.recipe import Recipe, compare_with_model
from hiprobe.extract.video import SegmentReader, VideoInfo, inspect_video
from hiprobe.store import HiProbeError, Probe
from hiprobe.store.localization import DEFAULT_SIGMA, intervals, smooth
from hiprobe.store.probe_inputs import Input
from hiprobe.store.provenance import Difference, Purpose
from hiprobe.store.results import Interval
from hiprobe.store.single_files import write_json
from hiprobe.store.taps import HIDDEN_STATES, array_name
from hiprobe.store.windows import COLUMNS, window_record

SEGMENTS_AHEAD, BYTES_AHEAD = 4, 2**29
DESCRIBED_KEYFRAMES = 16


@dataclass(frozen=True)
class DetectConfig:
    """One detection.

    Attributes
    ----------
    video, probe : Path
    backbone : BackboneConfig
        Model, device, attention; prompt and layers are the probe's, and so is the dtype unless it
        is given.
    sigma : float
        Width of the smoothing kernel in segments.
    threshold : float or None
        None takes the probe's.
    """

    video: Path
    probe: Path
    backbone: BackboneConfig
    sigma: float = DEFAULT_SIGMA
    threshold: float | None = None


@dataclass(frozen=True)
class Detection:
    """What was found.

    Attributes
    ----------
    video : VideoInfo
    start_frames, stop_frames : (segment,) int64
        Half-open.
    raw, smoothed : (segment,) float64 in [0, 1]
    threshold : float
    provenance : dict
    notes : list of str
        What to keep in mind: packets that could not be decoded, frames that are missing.
    windows : (segment, 2) int64 or None
        Half-open ranges of the frames that the model saw, where these are not the segments.
    """

    video: VideoInfo
    start_frames: np.ndarray
    stop_frames: np.ndarray
    raw: np.ndarray
    smoothed: np.ndarray
    threshold: float
    provenance: dict[str, Any]
    notes: list[str]
    windows: np.ndarray | None = None

    @property
    def intervals(self) -> list[tuple[int, int]]:
        """Anomalous frame ranges, half-open."""
        return intervals(self.smoothed > self.threshold, self.start_frames, self.stop_frames)


# Called with the video, all segments' (start_frame, stop_frame) so far, and their raw scores.
OnSegment = Callable[[VideoInfo, list[tuple[int, int]], list[float]], None]


def detect(
    config: DetectConfig, on_segment: OnSegment = lambda video, ranges, scores: None
) -> Detection:
    """Score a video's segments one after the other, then smooth and localize.

    Parameters
    ----------
    config : DetectConfig
    on_segment : callable
        Called after each segment.

    Raises
    ------
    HiProbeError
        The video cannot be read, or the model is not the probe's.
    """
    probe, video = Probe.load(config.probe), inspect_video(config.video)
    recipe = Recipe.of(probe.origin, config.probe)
    backbone, warnings = load_probes_backbone(config, probe)
    reader = recipe.reader(config.video, video.num_frames, video.fps)
    windows: list[tuple[int, int]] = []
    ranges: list[tuple[int, int]] = []
    scores: list[float] = []
    segments = read_ahead(
        [reader], iter, num_threads=1, depth=SEGMENTS_AHEAD,
        num_bytes=lambda segment: segment.keyframes.nbytes, max_bytes=BYTES_AHEAD,
    )  # fmt: skip
    for segment in segments:
        states = backbone.all_states(backbone.prepare([segment], video.fps))
        ranges.append((segment.start_frame, segment.stop_frame))
        windows.append(segment.seen)
        scores.append(float(probe.score(_of_inputs(probe, backbone, states))[0]))
        on_segment(video, ranges, scores)
    raw = np.array(scores)
    if not np.isfinite(raw).all():
        raise HiProbeError(
            f"{config.video}: the score of segment {int(np.argmin(np.isfinite(raw)))} is not "
            "finite. Half precision may have overflowed: try --dtype bfloat16 or float32."
        )
    starts, stops = np.array(ranges, dtype=np.int64).reshape(-1, 2).T
    return Detection(
        video=video,
        start_frames=starts,
        stop_frames=stops,
        raw=raw,
        smoothed=smooth(raw, config.sigma) if len(raw) else raw,
        threshold=probe.threshold["value"] if config.threshold is None else config.threshold,
        provenance=_provenance(config, probe, backbone),
        notes=_notes(video, reader) + warnings,
        windows=None if recipe.window is None else np.array(windows, np.int64).reshape(-1, 2),
    )


def describe_intervals(config: DetectConfig, detection: Detection, prompt: str) -> list[str]:
    """Let the model describe each anomalous interval, in their order."""
    found = detection.intervals
    if not found:
        return []
    describer = Describer(config.backbone, MAX_NEW_TOKENS)
    # Contiguous from the first frame on, as a decoder meets them.
    edges = sorted({0, *(frame for interval in found for frame in interval)})
    ranges = list(itertools.pairwise(edges))
    texts = []
    for segment in SegmentReader(config.video, ranges, DESCRIBED_KEYFRAMES):
        if ranges[segment.index] in found:
            texts += describer.describe([segment], [prompt], detection.video.fps)
    return texts


def write_detection(path: Path, detection: Detection, descriptions: list[str]) -> None:
    """Write what was found as JSON: scores, intervals in frames and seconds, provenance."""
    fps = detection.video.fps
    found = [
        Interval.of_frames("", "anomalous", start, stop, fps).to_json()
        for start, stop in detection.intervals
    ]
    for interval, text in zip(found, descriptions, strict=False):
        interval["text"] = text
    content: dict[str, Any] = {
        "video": {"fps": fps, "num_frames": detection.video.num_frames},
        "threshold": detection.threshold,
        "intervals": found,
        "segments": [
            {"start_frame": int(a), "stop_frame": int(b), "score": float(r), "smoothed": float(s)}
            for a, b, r, s in zip(
                detection.start_frames,
                detection.stop_frames,
                detection.raw,
                detection.smoothed,
                strict=True,
            )
        ],
        "notes": detection.notes,
        "provenance": detection.provenance,
    }
    if detection.windows is not None:
        for segment, window in zip(content["segments"], detection.windows.tolist(), strict=True):
            segment |= dict(zip(COLUMNS, window, strict=True))
    write_json(path, content, end="\n")


def load_probes_backbone(config: DetectConfig, probe: Probe) -> tuple[Backbone, list[str]]:
    """Load the model up to the highest of the probe's layers, as the probe's store was extracted.

    Returns
    -------
    backbone : Backbone
    warnings : list of str
        In what it differs from the model that the probe was trained with.

    Raises
    ------
    HiProbeError
        It is another model: the scorer would say nothing about its states.
    """
    origin = probe.origin
    dtype, attention = config.backbone.dtype, config.backbone.attention
    if dtype == "auto" and origin.model.dtype is not None:
        dtype = origin.model.dtype
    # Others need libraries, or a GPU, that need not be here.
    if attention == "auto" and origin.model.attention in ("eager", "sdpa"):
        attention = origin.model.attention
    asked = Recipe.of(origin, config.probe).fill(config.backbone)
    backbone = Backbone(
        replace(
            with_probes_taps(asked, probe, probe.inputs),
            layers=probe.layers_read,
            dtype=dtype,
            attention=attention,
        )
    )
    comparison = compare_with_model(origin, backbone, Purpose.SCORE)
    for one in comparison.refused:
        raise HiProbeError(
            f"{config.probe}: was trained on states of another model: {_setting(one)} is "
            f"{one.first!r} ({origin.model.id}), that of {config.backbone.model} is "
            f"{one.second!r}. Give the probe's model."
        )
    return backbone, [
        f"the model runs with {_setting(one)} {one.second!r}, "
        + (
            "that of the probe's states is not recorded"
            if one.first is None
            else f"the probe's states were made with {one.first!r}"
        )
        for one in comparison.warned
    ]


def _of_inputs(probe: Probe, backbone: Backbone, states: States) -> dict[Input, np.ndarray]:
    """Find what the probe reads among what a pass has given."""
    layers = {tap.name: tap.layers for tap in backbone.taps} | {HIDDEN_STATES: backbone.layers}
    first = probe.origin.attributes.get("prompt_name")
    names = {
        one: array_name(one.tap, "" if one.prompt == first else one.prompt) for one in probe.inputs
    }
    return {one: states[name][layers[name].index(one.layer)] for one, name in names.items()}


def _setting(difference: Difference) -> str:
    return difference.name.removeprefix("model.")


def _notes(video: VideoInfo, reader: SegmentReader) -> list[str]:
    """Say in what the decoded video differs from what its container promised."""
    notes = []
    if reader.num_bad_packets:
        notes.append(f"{reader.num_bad_packets} packet(s) could not be decoded")
    if reader.num_decoded != video.num_frames:
        notes.append(f"decoded {reader.num_decoded} of the {video.num_frames} frames announced")
    return notes


def _provenance(config: DetectConfig, probe: Probe, backbone: Backbone) -> dict[str, Any]:
    libraries = ("hiprobe", "torch", "transformers", "av")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "video": str(config.video.absolute()),
        "probe": {
            "path": str(config.probe.absolute()),
            "layer": probe.layer,
            "layers": list(probe.layers_read),
        },
        "sigma_segments": config.sigma,
        "segment_frames": probe.origin.segment_frames,
        "keyframes": probe.origin.keyframes,
        "window": window_record(probe.origin.window),
        **backbone.describe().provenance,
        "libraries": {name: version(name) for name in libraries},
    }
