"""Fitting the lightweight anomaly scorers on one layer's hidden states (section 3.2, Table 4)."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from hiprobe.store.scorers import DistanceScorer, LinearScorer, Scorer

# What holds out best, or within 0.006 of it, with 30 and 120 generated clips and on real fights
# (`make bench-l2` on any store); `make bench-demo-model` shows the paper's setting, 0, beside it.
DEFAULT_L2 = 1.0
PAPER_L2 = 0.0
MAX_ITERATIONS = 1000
# The hinge loss is not smooth: liblinear needs more.
MAX_SVM_ITERATIONS = 100_000
SCORERS = ("logistic", "svm", "distance")


def fit_scorer(
    kind: str, states: np.ndarray, is_anomalous: np.ndarray, l2: float = DEFAULT_L2
) -> Scorer:
    """Fit a scorer.

    Parameters
    ----------
    kind : {'logistic', 'svm', 'distance'}
    states : (sample, feature) float
    is_anomalous : (sample,) bool
    l2 : float
        The penalty; 'distance' has none.

    Raises
    ------
    ValueError
        Unknown kind, or 'svm' without a penalty.
    """
    if kind == "logistic":
        return fit_logistic(states, is_anomalous, l2)
    if kind == "svm":
        return fit_svm(states, is_anomalous, l2)
    if kind == "distance":
        return fit_distance(states, is_anomalous)
    raise ValueError(f"scorer {kind!r}: expected {', '.join(SCORERS)}")


def fit_logistic(
    states: np.ndarray, is_anomalous: np.ndarray, l2: float = DEFAULT_L2
) -> LinearScorer:
    r"""Minimise the mean binary cross-entropy of eq. 8 with L-BFGS.

    Parameters
    ----------
    states : (sample, feature) float
    is_anomalous : (sample,) bool
    l2 : float
        Adds :math:`\tfrac{\lambda}{2}\lVert w\rVert^2` on *standardised* features. 0 is the
        paper's setting: no penalty; on separable data the optimum is then at infinity and the
        cap of 1000 iterations decides.

    Notes
    -----
    Features are standardised as a preconditioner and the scaling is folded back into weight and
    bias. A dimension that does not vary gets weight 0.
    """
    # scikit-learn sums the cross-entropy over samples; ours is the mean.
    strength = 1.0 / (l2 * len(states)) if l2 else np.inf
    model = LogisticRegression(C=strength, solver="lbfgs", max_iter=MAX_ITERATIONS, tol=1e-6)
    return _fit_linear("logistic", model, states, is_anomalous, l2)


def fit_svm(states: np.ndarray, is_anomalous: np.ndarray, l2: float = DEFAULT_L2) -> LinearScorer:
    r"""Minimise the mean hinge loss and :math:`\tfrac{\lambda}{2}\lVert w\rVert^2`.

    On standardised features, the bias included in the penalty (liblinear's way); the log odds are
    the margin.

    Raises
    ------
    ValueError
        `l2` is 0: a margin needs a penalty.
    """
    if not l2:
        raise ValueError("a support vector machine needs a penalty: give l2 > 0")
    model = LinearSVC(
        C=1.0 / (l2 * len(states)),
        loss="hinge",
        max_iter=MAX_SVM_ITERATIONS,
        random_state=0,
    )
    return _fit_linear("svm", model, states, is_anomalous, l2)


def fit_distance(states: np.ndarray, is_anomalous: np.ndarray) -> DistanceScorer:
    """Measure the normal class; see `hiprobe.store.scorers.DistanceScorer`."""
    states = np.asarray(states, dtype=np.float64)
    normal = states[~is_anomalous]
    mean, scale = normal.mean(axis=0), normal.std(axis=0)
    scale = np.where(scale > 1e-9 * np.abs(mean), scale, np.inf)
    unscaled = DistanceScorer(mean, scale, 0.0, 1.0).distances(states)
    return DistanceScorer(mean, scale, float(unscaled.mean()), float(unscaled.std() or 1.0))


def _fit_linear(
    kind: str,
    model: LogisticRegression | LinearSVC,
    states: np.ndarray,
    is_anomalous: np.ndarray,
    l2: float,
) -> LinearScorer:
    """Fit on standardised features, and fold the scaling into weight and bias."""
    states = np.asarray(states, dtype=np.float64)
    mean, scale = states.mean(axis=0), states.std(axis=0)
    varies = scale > 1e-9 * np.abs(mean)
    scale = np.where(varies, scale, 1.0)
    standardised = np.where(varies, (states - mean) / scale, 0.0)
    with warnings.catch_warnings():
        # Reaching the cap is part of the definition; `num_iterations` tells.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(standardised, is_anomalous)
    weight = model.coef_[0] / scale
    return LinearScorer(
        kind=kind,
        weight=weight,
        bias=float(model.intercept_[0] - weight @ mean),
        l2=l2,
        num_iterations=int(np.max(model.n_iter_)),
    )
