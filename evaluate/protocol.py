"""Were results made alike? Only those of one protocol can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from hiprobe.store import HiProbeError, format_annotations
from hiprobe.store.errors import listing
from hiprobe.store.results import Results


def common_videos(results: Sequence[Results], scores: str, only_common: bool) -> list[str]:
    """List the videos to compare on, in the order of the first results.

    Parameters
    ----------
    results : sequence of Results
    scores : {'smoothed', 'raw'}
        Raw scores may have been smoothed differently.
    only_common : bool
        Leave out videos that not all have; otherwise they are an error.

    Raises
    ------
    HiProbeError
        The convention, the ground truth of a video, the smoothing or the videos differ.
    """
    first = results[0]
    for other in results[1:]:
        _check_convention(first, other)
        _check_ground_truth(first, other)
        if scores == "smoothed":
            _check_smoothing(first, other)
        _check_videos(first, other, only_common)
    common = [one for one in first.videos if all(one in other.videos for other in results)]
    if not common:
        raise HiProbeError(f"{first.folder}: no video is in all {len(results)} results.")
    return common


def ground_truth_digest(results: Results, video_ids: Sequence[str]) -> str:
    """Digest of some videos' ids, lengths and annotations: equal ones are equal ground truth."""
    lines = sorted(f"{video_id}\0{_truth(results, video_id)}\n" for video_id in video_ids)
    text = "".join(lines).encode("utf-8", "surrogatepass")
    return f"sha256:{hashlib.sha256(text).hexdigest()}"


def _check_convention(a: Results, b: Results) -> None:
    conventions = [one.metrics["ground_truth"] for one in (a, b)]
    if conventions[0] != conventions[1]:
        raise HiProbeError(
            f"{b.folder}: its ground truth is {conventions[1]}, that of {a.folder} is "
            f"{conventions[0]}. Evaluate both with the same --length and --ends."
        )


def _check_ground_truth(a: Results, b: Results) -> None:
    problems = [
        f"{video_id}: {_truth(b, video_id)}, expected {_truth(a, video_id)}"
        for video_id in a.videos
        if video_id in b.videos and _truth(a, video_id) != _truth(b, video_id)
    ]
    if problems:
        raise HiProbeError(
            f"{b.folder}: {len(problems)} video(s) have another ground truth than in {a.folder}:\n"
            f"{listing(problems)}\nEvaluate both with the same manifest."
        )


def _check_smoothing(a: Results, b: Results) -> None:
    """Smoothing moves AUC by more than many differences that are reported."""
    own, others = (smoothing_of(one) for one in (a, b))
    if own != others:
        raise HiProbeError(
            f"{b.folder}: its scores are smoothed with {_said(others)}, those of {a.folder} with "
            f"{_said(own)}. Evaluate both with the same --sigma, or compare --scores raw."
        )


def smoothing_of(results: Results) -> tuple[float | None, float | None]:
    """The kernel's σ in rows, and the frames of a row that it is measured in.

    Neither counts without smoothing. None: the results do not tell.
    """
    options: dict[str, Any] = results.metrics["provenance"].get("options") or {}
    sigma = options.get("sigma_segments", options.get("sigma_rows"))
    if not isinstance(sigma, int | float):
        return None, None
    lengths = results.segments["stop_frame"] - results.segments["start_frame"]
    return float(sigma), float(lengths.median()) if sigma else None


def _said(smoothing: tuple[float | None, float | None]) -> str:
    sigma, frames = smoothing
    if sigma is None:
        return "a σ that they do not tell"
    return f"σ = {sigma:g}" + (f" rows of {frames:g} frames" if frames else "")


def _check_videos(a: Results, b: Results, only_common: bool) -> None:
    only = [
        f"{video_id}: only in {one.folder}"
        for one, other in ((a, b), (b, a))
        for video_id in one.videos
        if video_id not in other.videos
    ]
    shared = a.videos.keys() & b.videos.keys()
    if not shared or (only and not only_common):
        raise HiProbeError(
            f"{a.folder} and {b.folder}: {len(only)} video(s) are in one of them only:\n"
            f"{listing(only)}\n"
            + ("--common-videos compares on the others." if shared else "They share no video.")
        )


def _truth(results: Results, video_id: str) -> str:
    """One video's ground truth in words: equal words are equal ground truth."""
    video = results.videos[video_id]
    ranges = format_annotations(video.annotations) or "none"
    return f"{video.num_frames} frames, annotations {ranges}"
