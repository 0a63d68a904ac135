"""A linear support vector machine (the paper's Table 4)."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from hiprobe.store.scorers.linear import LinearScorer

# The hinge loss is not smooth: liblinear needs more than L-BFGS.
MAX_ITERATIONS = 100_000


class SvmScorer(LinearScorer):
    r"""Minimises the mean hinge loss and :math:`\tfrac{\lambda}{2}\lVert w\rVert^2`.

    On standardised features, the bias included in the penalty (liblinear's way). The log odds are
    the margin in units of the support vectors' (the logistic of the margin, not Platt's
    calibration).
    """

    kind: ClassVar[str] = "svm"
    needs_penalty: ClassVar[bool] = True

    @classmethod
    def fit(cls, states: np.ndarray, is_anomalous: np.ndarray, l2: float) -> Self:
        """Fit on (sample, feature) states and (sample,) bool labels.

        Raises
        ------
        ValueError
            `l2` is 0: a margin needs a penalty.
        """
        from sklearn.svm import LinearSVC

        if not l2:
            raise ValueError("a support vector machine needs a penalty: give l2 > 0")
        model = LinearSVC(
            C=1.0 / (l2 * len(states)), loss="hinge", max_iter=MAX_ITERATIONS, random_state=0
        )
        return cls.of_standardised(model, states, is_anomalous, l2)
