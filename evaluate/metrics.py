"""Frame-level metrics from per-segment frame counts: exact, and fast enough for a bootstrap.

Equal to scikit-learn's on the scores expanded to frames; a segment's score counts once for
each of its anomalous and normal frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metrics:
    """The three areas that the field reports.

    Attributes
    ----------
    auc : float
        Area under the ROC curve.
    ap : float
        Average precision, the step-wise sum (scikit-learn's).
    pr_auc_trapezoid : float
        Trapezoid area under the precision-recall curve, which much of the field calls AP and
        which flatters tied scores.
    """

    auc: float
    ap: float
    pr_auc_trapezoid: float


@dataclass(frozen=True)
class ConfidenceInterval:
    """A 95 % bootstrap interval of a metric."""

    low: float
    high: float


class Ranking:
    """Scored segments, sorted once, so that metrics under any video weights are a cumsum away.

    Parameters
    ----------
    scores : (segment,) float64
    num_anomalous, num_normal : (segment,) int
        Frames of each class in each segment.
    video : (segment,) int, optional
        Which video a segment belongs to, 0 … V-1; needed for `bootstrap`.

    Attributes
    ----------
    thresholds : (threshold,) float64
        The distinct scores, highest first.

    Raises
    ------
    ValueError
        A score is not finite.
    """

    def __init__(
        self,
        scores: np.ndarray,
        num_anomalous: np.ndarray,
        num_normal: np.ndarray,
        video: np.ndarray | None = None,
    ) -> None:
        if not np.isfinite(scores).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} scores are not finite")
        order = np.argsort(scores)[::-1]
        ranked = scores[order]
        self._anomalous, self._normal = num_anomalous[order], num_normal[order]
        self._video = None if video is None else video[order]
        is_last_of_tie = np.append(ranked[1:] != ranked[:-1], [True] * bool(len(scores)))
        self._ends = np.flatnonzero(is_last_of_tie).astype(np.int32)
        self.thresholds = ranked[self._ends]

    def counts(self, video_weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives (frames) at each distinct score, highest score first."""
        weight = 1 if video_weights is None else video_weights[self._video]
        true, false = (
            np.cumsum(frames * weight, dtype=np.float64)
            for frames in (self._anomalous, self._normal)
        )
        has_ties = len(self._ends) < len(true)
        return (true[self._ends], false[self._ends]) if has_ties else (true, false)

    def metrics(self, video_weights: np.ndarray | None = None) -> Metrics | None:
        """AUC and AP; None where one class is absent, for then they are undefined."""
        true, false = self.counts(video_weights)
        if not len(true) or not true[-1] or not false[-1]:
            return None
        # Scores above which no frame lies (empty segments, videos not drawn) are no threshold.
        first = int(np.argmax(true + false > 0))
        true, false = true[first:], false[first:]
        auc = _trapezoid(false, true, before=0.0) / (true[-1] * false[-1])
        false += true
        precision = np.divide(true, false, out=false)
        gained = np.diff(true, prepend=0.0)
        return Metrics(
            auc=float(auc),
            ap=float(gained @ precision / true[-1]),
            pr_auc_trapezoid=float(_trapezoid(true, precision, before=1.0) / true[-1]),
        )

    def bootstrap(self, num_resamples: int, seed: int) -> dict[str, ConfidenceInterval] | None:
        """95 % percentile intervals over videos drawn with replacement, by metric.

        Resamples that lack a class are drawn too and left out; None if all of them do.
        """
        assert self._video is not None, "bootstrap needs each segment's video"
        num_videos = int(self._video.max()) + 1
        rng = np.random.default_rng(seed)
        draws = []
        for _ in range(num_resamples):
            drawn = rng.integers(num_videos, size=num_videos)
            metrics = self.metrics(np.bincount(drawn, minlength=num_videos).astype(np.float64))
            if metrics is not None:
                draws.append((metrics.auc, metrics.ap, metrics.pr_auc_trapezoid))
        if not draws:
            return None
        low, high = np.percentile(np.array(draws), [2.5, 97.5], axis=0)
        names = ("auc", "ap", "pr_auc_trapezoid")
        return {
            name: ConfidenceInterval(float(a), float(b))
            for name, a, b in zip(names, low, high, strict=True)
        }


def _trapezoid(x: np.ndarray, y: np.ndarray, before: float) -> float:
    """Area under a curve that starts at (0, `before`)."""
    area = x[0] * (before + y[0])
    return float(area + np.diff(x) @ (y[1:] + y[:-1])) / 2


def equal_error_rate(ranking: Ranking) -> float | None:
    """Rate at which false positives equal false negatives, linear between ROC points."""
    true, false = ranking.counts()
    if not len(true) or not true[-1] or not false[-1]:
        return None
    miss_rate = 1.0 - np.concatenate([[0.0], true / true[-1]])
    false_rate = np.concatenate([[0.0], false / false[-1]])
    gap = false_rate - miss_rate
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(false_rate[after - 1] + share * (false_rate[after] - false_rate[after - 1]))


def f1_score(is_positive: np.ndarray, num_anomalous: np.ndarray, num_normal: np.ndarray) -> float:
    """F1 of frames flagged by whole segments; 0 where nothing is right."""
    true = int(num_anomalous[is_positive].sum())
    flagged = true + int(num_normal[is_positive].sum())
    return 2 * true / (flagged + int(num_anomalous.sum())) if true else 0.0


def pair_auc(
    scores: np.ndarray, num_anomalous: np.ndarray, num_normal: np.ndarray, video: np.ndarray
) -> dict[str, float | None]:
    """Split the AUC into pairs of frames of the same video and of different videos.

    Returns
    -------
    dict
        ``within_video_auc`` and ``cross_video_auc`` (share of rightly ordered pairs, ties half),
        ``within_video_share`` (of all pairs), ``macro_video_auc`` (unweighted mean of the AUC of
        each video that has both classes). None where there is no such pair.
    """
    total_pairs = float(num_anomalous.sum()) * float(num_normal.sum())
    whole = Ranking(scores, num_anomalous, num_normal).metrics()
    within_pairs = within_right = 0.0
    macro = []
    for index in np.unique(video[num_anomalous > 0]):
        own = video == index
        metrics = Ranking(scores[own], num_anomalous[own], num_normal[own]).metrics()
        if metrics is not None:
            pairs = float(num_anomalous[own].sum()) * float(num_normal[own].sum())
            within_pairs += pairs
            within_right += metrics.auc * pairs
            macro.append(metrics.auc)
    cross_pairs = total_pairs - within_pairs
    right = 0.0 if whole is None else whole.auc * total_pairs
    return {
        "within_video_auc": within_right / within_pairs if within_pairs else None,
        "cross_video_auc": (right - within_right) / cross_pairs if cross_pairs else None,
        "within_video_share": within_pairs / total_pairs if total_pairs else None,
        "macro_video_auc": float(np.mean(macro)) if macro else None,
    }
