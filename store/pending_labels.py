"""Labels that are being written: one attribute says all of them until the arrays say them too.

A change of labels touches several arrays, which cannot change at once. So the attribute comes
first, in one write: from then on the change counts, whatever of the arrays a killed writer reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hiprobe.store import fields
from hiprobe.store.manifest import LABEL_COLUMNS, parse_annotations

PENDING_LABELS = "relabelling"


def apply_pending(videos: Mapping[str, np.ndarray], pending: Any) -> None:
    """Put labels that are being written over those of the arrays.

    Parameters
    ----------
    videos : mapping of str to (video,) object array
        The arrays along ``video``, by name; those of `LABEL_COLUMNS` are changed.
    pending : Any
        The attribute `PENDING_LABELS`: ``video``, a list of positions, and a list of texts for
        each of `LABEL_COLUMNS`; None where there is none.

    Raises
    ------
    ValueError
        It is nothing that we write.
    """
    if pending is None:
        return
    content = fields.mapping(pending, PENDING_LABELS)
    num_videos = len(videos["video_id"])
    positions = [
        fields.whole(one, "a relabelled video", num_videos - 1)
        for one in fields.items(fields.member(content, "video"), "video")
    ]
    for name in LABEL_COLUMNS:
        values = [
            fields.text(value, name) for value in fields.items(fields.member(content, name), name)
        ]
        if len(values) != len(positions):
            raise ValueError(f"{len(values)} values of {name} for {len(positions)} videos")
        if name == "annotations":
            for text in values:
                parse_annotations(text)
        videos[name][positions] = np.array(values, dtype=object)
