"""How annotations become labels of frames.

The field's public scripts disagree about the length of a video and about the ends of annotations.
Each choice moves AUC by some 0.0002, but scores of one length against labels of another are
misaligned from the first video on; so the convention is explicit, recorded, and lengths must fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hiprobe.store.errors import ManifestError, listing
from hiprobe.store.ground_truth import clip_annotations
from hiprobe.store.manifest import merge_ranges

LENGTHS = ("true", "cut-16", "pad-16")
ENDS = ("exclusive", "inclusive")


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

    def to_json(self) -> dict[str, Any]:
        """The object `ground_truth` of `metrics.json`."""
        return {
            "first_frame": 0,
            "length": self.length,
            "ends": self.ends,
            "beyond_the_length": "clipped",
        }

    def apply(self, videos: pd.DataFrame, source: Path) -> tuple[pd.DataFrame, list[str]]:
        """Bring lengths and annotations of some videos to the convention.

        Parameters
        ----------
        videos : DataFrame
            ``label``, ``num_frames`` and ``annotations``, by video id.
        source : Path
            Where they are from, for messages.

        Returns
        -------
        videos : DataFrame
        warnings : list of str
            What was clipped.

        Raises
        ------
        ManifestError
            A video's annotations lie beyond it, or an anomalous one has none; all are listed.
        """
        problems, warnings, lengths, annotations = [], [], [], []
        for video_id, row in videos.iterrows():
            true_length = int(row["num_frames"])
            num_frames = self.num_frames(true_length)
            widened = merge_ranges(
                (start, stop + (self.ends == "inclusive")) for start, stop in row["annotations"]
            )
            # Frames that padding adds are normal ones, wherever an annotation may end.
            ranges, _ = clip_annotations(widened, min(num_frames, true_length))
            lengths.append(num_frames)
            annotations.append(ranges)
            # An end beyond the true length is worth a word; one that the convention cuts is not.
            _, num_beyond = clip_annotations(row["annotations"], true_length)
            if problem := _problem(row, num_frames):
                problems.append(f"{video_id}: {problem}")
            elif num_beyond:
                end = row["annotations"][-1][1]
                warnings.append(
                    f"{video_id}: annotation ended at {end}, clipped to its {true_length} frames"
                )
        if problems:
            raise ManifestError(
                f"{source}: {len(problems)} test video(s) have no usable ground truth:\n"
                f"{listing(problems)}\nGive a corrected manifest with --manifest FILE; the store "
                "stays as it is."
            )
        return videos.assign(num_frames=lengths, annotations=annotations), warnings


DEFAULT_CONVENTION = Convention()


def _problem(row: pd.Series, num_frames: int) -> str | None:
    """What is wrong with one video's ground truth, of which `num_frames` are evaluated."""
    if not num_frames:
        return f"no frame of its {row['num_frames']} is evaluated"
    beyond = [(start, stop) for start, stop in row["annotations"] if start >= row["num_frames"]]
    if beyond:
        start, stop = beyond[0]
        return f"annotation {start}:{stop} lies beyond its {row['num_frames']} frames"
    if row["label"] == "anomalous" and not row["annotations"]:
        return "labelled anomalous, but no annotation says where"
    return None
