"""The left end of the ROC curve, where a detector that people have to answer to works."""

from __future__ import annotations

import numpy as np

from hiprobe.evaluate.metrics import Ranking

FALSE_POSITIVE_RATES = (0.01, 0.05)


def threshold_at(ranking: Ranking, rate: float) -> tuple[float, float | None] | None:
    """True positive rate at a false positive rate, and the threshold that has it.

    Parameters
    ----------
    ranking : Ranking
    rate : float
        Share of normal frames that may be flagged.

    Returns
    -------
    tuple of (float, float or None), or None
        The highest true positive rate of any threshold ("scores of at least this") whose false
        positive rate does not exceed `rate`, and that threshold, None where nothing may be
        flagged. No interpolation: what lies between two points of the curve, no threshold has.
        None where a class is absent.
    """
    true, false = ranking.counts()
    if not len(true) or not true[-1] or not false[-1]:
        return None
    index = int(np.searchsorted(false / false[-1], rate, side="right")) - 1
    if index < 0:
        return 0.0, None
    return float(true[index] / true[-1]), float(ranking.thresholds[index])


def partial_auc(ranking: Ranking, rate: float) -> float | None:
    """Area under the ROC curve up to a false positive rate, standardised.

    Notes
    -----
    McClish (1989), as scikit-learn's ``roc_auc_score(max_fpr=…)``: the area A left of the rate f,
    points joined by lines, becomes (1 + (A - f²/2) / (f - f²/2)) / 2, so that 0.5 is chance and 1
    perfect at every f. None where a class is absent.
    """
    true, false = ranking.counts()
    if not len(true) or not true[-1] or not false[-1]:
        return None
    fpr = np.concatenate([[0.0], false / false[-1]])
    tpr = np.concatenate([[0.0], true / true[-1]])
    stop = int(np.searchsorted(fpr, rate, side="right"))
    inside_fpr = np.append(fpr[:stop], rate)
    inside_tpr = np.append(tpr[:stop], _between(fpr, tpr, stop, rate))
    area = float(np.diff(inside_fpr) @ (inside_tpr[1:] + inside_tpr[:-1])) / 2
    chance = rate**2 / 2
    return (1 + (area - chance) / (rate - chance)) / 2


def _between(fpr: np.ndarray, tpr: np.ndarray, stop: int, rate: float) -> float:
    """Height of the curve at `rate`, which lies between the points ``stop - 1`` and `stop`."""
    if stop == len(fpr):
        return float(tpr[-1])
    share = (rate - fpr[stop - 1]) / (fpr[stop] - fpr[stop - 1])
    return float(tpr[stop - 1] + share * (tpr[stop] - tpr[stop - 1]))
