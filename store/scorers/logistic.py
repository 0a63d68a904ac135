"""The paper's scorer: logistic regression (section 3.2)."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from hiprobe.store.scorers.linear import LinearScorer

MAX_ITERATIONS = 1000


class LogisticScorer(LinearScorer):
    r"""Minimises the mean binary cross-entropy of eq. 8 with L-BFGS.

    The penalty adds :math:`\tfrac{\lambda}{2}\lVert w\rVert^2` on *standardised* features. 0 is
    the paper's setting: no penalty; on separable data the optimum is then at infinity and the cap
    of 1000 iterations decides.
    """

    kind: ClassVar[str] = "logistic"

    @classmethod
    def fit(cls, states: np.ndarray, is_anomalous: np.ndarray, l2: float) -> Self:
        """Fit on (sample, feature) states and (sample,) bool labels."""
        from sklearn.linear_model import LogisticRegression

        # scikit-learn sums the cross-entropy over samples; ours is the mean.
        strength = 1.0 / (l2 * len(states)) if l2 else np.inf
        model = LogisticRegression(C=strength, solver="lbfgs", max_iter=MAX_ITERATIONS, tol=1e-6)
        return cls.of_standardised(model, states, is_anomalous, l2)
