"""The totals of the benchmarks' official test files: what a test set is recognised by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OfficialTotals:
    """One benchmark's test split.

    Attributes
    ----------
    name : str
        As its authors write it.
    num_test_videos, num_frames, num_anomalous_frames : int
        Of true lengths; annotations end as the benchmark means it, clipped at the videos' ends.
    """

    name: str
    num_test_videos: int
    num_frames: int
    num_anomalous_frames: int


OFFICIAL_TOTALS = {
    "ucf-crime": OfficialTotals("UCF-Crime", 290, 1_111_808, 84_182),
    "xd-violence": OfficialTotals("XD-Violence", 800, 2_335_801, 538_324),
    # Its last anomalous frames belong to the intervals.
    "msad": OfficialTotals("MSAD", 240, 146_408, 33_671),
}
