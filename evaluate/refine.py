"""Scores refined over segments of the same video that look alike: ``evaluate --refine``.

As VERA (CVPR 2025), VADTree and CoReVAD do: each segment's score becomes the softmax-weighted mean
of those of the segments that are most similar to it, itself among them. A declared step. It looks
at the whole video, later segments too, so it is *within video*: neither causal, as `hiprobe detect`
would need, nor transductive: no other video takes part. In what it differs from theirs: no second
vision model, but the store's ``frames_mean``; similarity is the cosine around the video's own mean,
for states of one layer all point the same way.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from hiprobe.evaluate.test_set import TestSet
from hiprobe.store import FeatureStore
from hiprobe.store.taps import FRAMES_MEAN

REFINEMENTS = ("within-video",)
NUM_SIMILAR, TEMPERATURE = 10, 0.1
# Rows of similarities at once: a long video has thousands of segments.
ROWS = 512


@dataclass(frozen=True)
class Refinement:
    """How scores are refined.

    Attributes
    ----------
    kind : {'within-video'}
    layer : int
        Of ``frames_mean``: the lowest that is kept. Layer 0 is what the vision tower sees.
    tap : str
    num_similar : int
        Segments that a score is the mean of, itself among them; a shorter video's are all.
    temperature : float
        Of the softmax over cosines.
    """

    kind: str
    layer: int
    tap: str = FRAMES_MEAN
    num_similar: int = NUM_SIMILAR
    temperature: float = TEMPERATURE

    @classmethod
    def of(cls, kind: str, store: FeatureStore) -> Refinement:
        """Choose the layer.

        Raises
        ------
        StoreError
            The store has no ``frames_mean``; it says which command adds it.
        """
        return cls(kind, min(store.tap(FRAMES_MEAN).layers))

    def to_json(self) -> dict[str, Any]:
        """Its object in ``metrics.json``."""
        return asdict(self)

    def weights(self, test: TestSet) -> csr_array:
        """Weigh the segments of a test set: (segment, segment), rows sum to 1.

        Refined scores are ``weights @ scores``, of all segments that `TestSet.states` gives.
        """
        assert test.store is not None, "a test set of a manifest has no states"
        counts = test.store.videos.loc[test.videos.index, "num_segments"].tolist()
        columns, values, lengths, first = [], [], [0], 0
        for states in test.states(self.layer, tap=self.tap):
            row = 0
            while row < len(states):
                count = counts.pop(0)
                nearest, weight = self.of_video(states[row : row + count])
                columns.append(first + nearest.ravel())
                values.append(weight.ravel())
                lengths += [nearest.shape[1]] * count
                row, first = row + count, first + count
        parts = (np.concatenate(values), np.concatenate(columns), np.cumsum(lengths))
        return csr_array(parts, shape=(first, first))

    def of_video(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find each segment's most similar ones, and weigh them.

        Parameters
        ----------
        states : (segment, feature) float32
            Of one video.

        Returns
        -------
        nearest : (segment, similar) int
        weights : (segment, similar) float64
            Rows sum to 1.
        """
        centred = states - states.mean(axis=0, dtype=np.float64)
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        unit = centred / np.where(lengths > 0, lengths, 1.0)
        number = min(self.num_similar, len(states))
        nearest, weights = [], []
        for start in range(0, len(states), ROWS):
            cosines = unit[start : start + ROWS] @ unit.T
            own = np.argpartition(-cosines, number - 1, axis=1)[:, :number]
            exponents = np.take_along_axis(cosines, own, axis=1) / self.temperature
            parts = np.exp(exponents - exponents.max(axis=1, keepdims=True))
            nearest.append(own)
            weights.append(parts / parts.sum(axis=1, keepdims=True))
        return np.concatenate(nearest), np.concatenate(weights)
