"""Scores of the experiments of a sweep, kept on demand (``--keep-scores``) for paired tests.

Beside the table ``OUT`` lies the folder ``OUT.scores`` with one ``.npz`` for each layer of a store:
``scores`` (experiment, segment) float64, smoothed, and the test segments that they are of. The
table's columns ``scores`` and ``scores_row`` say where a row's scores are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from hiprobe.evaluate.metrics import Ranking
from hiprobe.evaluate.scored import Segments
from hiprobe.store import HiProbeError
from hiprobe.store.single_files import check_file, replaced


def folder_of(out: Path) -> Path:
    """Where the scores of a table's experiments lie."""
    return out.with_name(f"{out.name}.scores")


@dataclass(frozen=True)
class KeptScores:
    """Scores of some experiments on the same test segments.

    Attributes
    ----------
    scores : (experiment, segment) float64
        Smoothed.
    video_ids : (video,) str
    video : (segment,) int32
        Row of `video_ids` that a segment belongs to, ascending.
    num_anomalous, num_normal : (segment,) int32
        Frames of each class.
    """

    scores: np.ndarray
    video_ids: np.ndarray
    video: np.ndarray
    num_anomalous: np.ndarray
    num_normal: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, segments: Segments) -> Self:
        """Put scores beside the test segments."""
        return cls(
            scores,
            segments.videos.index.to_numpy().astype(str),
            segments.video.astype(np.int32),
            segments.num_anomalous.astype(np.int32),
            segments.num_normal.astype(np.int32),
        )

    def write(self, path: Path) -> None:
        """Write the file; it is whole or not there."""
        with replaced(path) as partial, partial.open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of scores.

        Raises
        ------
        HiProbeError
            There is none, or it is damaged.
        """
        try:
            check_file(path, 2**36)
            with np.load(path, allow_pickle=False) as content:
                kept = cls(**{name: content[name] for name in cls.__dataclass_fields__})
            length = len(kept.video)
            if not kept.scores.shape[1:] == kept.num_anomalous.shape == kept.num_normal.shape:
                raise ValueError(f"{length} segments, scores of shape {kept.scores.shape}")
            if length and not 0 <= kept.video.min() <= kept.video.max() < len(kept.video_ids):
                raise ValueError("a segment is of no video")
        except (OSError, ValueError, KeyError, EOFError, IndexError) as error:
            raise HiProbeError(
                f"{path}: not the kept scores of a sweep ({error}). Run the sweep with "
                "--keep-scores, and leave its folder of scores beside its table."
            ) from error
        return kept

    def same_segments(self, other: Self) -> bool:
        """Whether both are of the same test videos, segments and ground truth."""
        names = ("video_ids", "video", "num_anomalous", "num_normal")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    def ranking(self, row: int) -> Ranking:
        """Rank the segments by one experiment's scores."""
        return Ranking(self.scores[row], self.num_anomalous, self.num_normal, self.video)
