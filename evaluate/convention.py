"""How annotations become labels of frames.

The field's public scripts disagree about the length of a video and about the ends of annotations.
Each choice moves AUC by some 0.0002, but scores of one length against labels of another are
misaligned from the first video on; so the convention is explicit, recorded, and lengths must fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from hiprobe.evaluate.test_videos import is_annotated
from hiprobe.store.errors import ManifestError, listing
from hiprobe.store.ground_truth import clip_annotations
from hiprobe.store.manifest import merge_ranges

LENGTHS = ("true", "cut-16", "cut-16-xd", "pad-16")
AS_SCORED = "as-scored"
ENDS = ("exclusive", "inclusive")


NO_FRAME_LABELS = (
    "no annotation says where in the {} anomalous videos something happens: what is measured at "
    "frame level is left out, what is measured of whole videos stays"
)


@dataclass(frozen=True)
class Convention:
    """How annotations become labels of frames; frames count from 0.

    Attributes
    ----------
    length : {'true', 'cut-16', 'cut-16-xd', 'pad-16', 'as-scored'}
        Frames of a video that are evaluated: all T; ⌊T/16⌋·16; ⌊(T-1)/16⌋·16, which drops a whole
        last clip; ⌈T/16⌉·16, the added frames being normal and having the last segment's score; as
        many as there are scores of, by `scored_lengths`.
    ends : {'exclusive', 'inclusive'}
        Whether the last frame of an annotation ``start:stop`` is ``stop - 1`` or ``stop``.
    scored_lengths : mapping of str to int
        By video id, the frames that there are scores of; for 'as-scored'.
    """

    length: str = "true"
    ends: str = "exclusive"
    scored_lengths: Mapping[str, int] = field(default_factory=dict, hash=False)

    def num_frames(self, true_length: int, video_id: str = "") -> int:
        """Frames of a video that are evaluated; `video_id` tells which, where lengths are given."""
        if self.length == AS_SCORED:
            # A video without scores is refused for that, with all others, when they are read.
            return self.scored_lengths.get(video_id, true_length)
        return {
            "true": true_length,
            "cut-16": true_length // 16 * 16,
            "cut-16-xd": (true_length - 1) // 16 * 16,
            "pad-16": -(-true_length // 16) * 16,
        }[self.length]

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
            What was clipped, and what cannot be measured.

        Raises
        ------
        ManifestError
            A video's annotations lie beyond it, or an anomalous one has none while others have
            some; all are listed.
        """
        problems, warnings, lengths, annotations = [], [], [], []
        needs_annotations = is_annotated(videos)
        for video_id, row in videos.iterrows():
            true_length = int(row["num_frames"])
            num_frames = self.num_frames(true_length, str(video_id))
            widened = merge_ranges(
                (start, stop + (self.ends == "inclusive")) for start, stop in row["annotations"]
            )
            # Frames that padding adds are normal ones, wherever an annotation may end.
            ranges, _ = clip_annotations(widened, min(num_frames, true_length))
            lengths.append(num_frames)
            annotations.append(ranges)
            # An end beyond the true length is worth a word; one that the convention cuts is not.
            _, num_beyond = clip_annotations(row["annotations"], true_length)
            if problem := _problem(row, num_frames, needs_annotations):
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
                "stays as it is. Where no anomalous video has an annotation, `hiprobe evaluate` "
                "and `evaluate-scores` measure at video level."
            )
        if not needs_annotations:
            warnings.insert(0, NO_FRAME_LABELS.format(sum(videos["label"] == "anomalous")))
        return videos.assign(num_frames=lengths, annotations=annotations), warnings


DEFAULT_CONVENTION = Convention()


def _problem(row: pd.Series, num_frames: int, needs_annotations: bool) -> str | None:
    """What is wrong with one video's ground truth, of which `num_frames` are evaluated."""
    if not num_frames:
        return f"no frame of its {row['num_frames']} is evaluated"
    beyond = [(start, stop) for start, stop in row["annotations"] if start >= row["num_frames"]]
    if beyond:
        start, stop = beyond[0]
        return f"annotation {start}:{stop} lies beyond its {row['num_frames']} frames"
    if needs_annotations and row["label"] == "anomalous" and not row["annotations"]:
        return "labelled anomalous, but no annotation says where"
    return None
