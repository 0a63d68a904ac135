"""Frame-level metrics from per-segment frame counts: exact, and fast enough for a bootstrap.

Equal to scikit-learn's on the scores expanded to frames; a segment's score counts once for
each of its anomalous and normal frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtrit

METRICS = ("auc", "ap", "pr_auc_trapezoid")


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
    """A 95 % interval of a metric."""

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
        # The one sort: a resample of the bootstrap only weighs the ranked segments anew.
        order = np.argsort(scores)[::-1]
        ranked = scores[order]
        self._anomalous, self._normal = num_anomalous[order], num_normal[order]
        self._video = None if video is None else video[order]
        # No threshold tells equal scores apart: a curve has one point for all of them.
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
        # In place, into arrays that are ours: a bootstrap calls this a thousand times.
        false += true
        precision = np.divide(true, false, out=false)
        gained = np.diff(true, prepend=0.0)
        return Metrics(
            auc=float(auc),
            ap=float(gained @ precision / true[-1]),
            pr_auc_trapezoid=float(_trapezoid(true, precision, before=1.0) / true[-1]),
        )

    def auc_standard_error(self) -> float | None:
        r"""Standard error of the AUC for other videos of the same kind; None where undefined.

        Videos are what is drawn, so what counts is how far each one pulls the AUC: its influence,
        the derivative by its weight (infinitesimal jackknife; for videos of one frame each this is
        the estimate of DeLong et al. 1988, for clusters that of Obuchowski 1997).

        .. math:: u_i = \sum_{s \in i} \frac{a_s (r_s - A)}{\sum a}
                  + \frac{n_s (q_s - A)}{\sum n}, \quad
                  SE^2 = \frac{V}{V - 1} \sum_i u_i^2

        with a segment's anomalous and normal frames a and n, the share r of normal frames ranked
        below it and q of anomalous ones above it, ties half.
        """
        influence = self._auc_influence()
        if influence is None or len(influence) < 2:
            return None
        num_videos = len(influence)
        return float(np.sqrt(num_videos / (num_videos - 1) * (influence @ influence)))

    def _auc_influence(self) -> np.ndarray | None:
        """How far each video pulls the AUC: (video,) float64, of sum 0."""
        assert self._video is not None, "an error over videos needs each segment's video"
        metrics, (true, false) = self.metrics(), self.counts()
        if metrics is None:
            return None
        # Frames in front of each threshold, halfway through those that are tied with it.
        ahead, behind = (
            np.append(0.0, counts[:-1]) + np.diff(counts, prepend=0.0) / 2
            for counts in (true, false)
        )
        at = np.searchsorted(self._ends, np.arange(len(self._video)))
        pulls = self._anomalous * (1 - behind[at] / false[-1] - metrics.auc) / true[-1]
        pulls += self._normal * (ahead[at] / true[-1] - metrics.auc) / false[-1]
        return np.bincount(self._video, weights=pulls)

    def auc_interval(self) -> ConfidenceInterval | None:
        r"""95 % interval of the AUC over videos, by Student's t on the logit.

        .. math:: \mathrm{logit} A \pm t_\nu \frac{SE}{A (1 - A)}, \quad
                  \nu = \frac{(\sum w_i)^2}{\sum w_i^2}, \quad
                  w_i = \frac{a_i^2}{(\sum a)^2} + \frac{n_i^2}{(\sum n)^2}

        with a video's anomalous and normal frames a and n. The degrees of freedom are those of the
        videos that count (Satterthwaite 1946): a few long ones may pull more than all others
        together. Covers 92 to 98 % of the time from 30 videos on, of frames and of whole videos,
        where the bootstrap's percentiles cover 90 % (`benchmarks/interval_coverage.py`). None
        where the AUC is undefined, 0 or 1: a ranking without a mistake does not tell how far it is
        from one.
        """
        assert self._video is not None, "an interval over videos needs each segment's video"
        metrics, error = self.metrics(), self.auc_standard_error()
        if metrics is None or not error or not 0 < metrics.auc < 1:
            return None
        sizes = np.zeros(int(self._video.max()) + 1)
        for frames in (self._anomalous, self._normal):
            sizes += (np.bincount(self._video, weights=frames) / frames.sum()) ** 2
        freedom = sizes.sum() ** 2 / (sizes @ sizes)
        half = stdtrit(freedom, 0.975) * error / (metrics.auc * (1 - metrics.auc))
        low, high = expit(logit(metrics.auc) + np.array([-half, half]))
        return ConfidenceInterval(float(low), float(high))

    def bootstrap(self, num_resamples: int, seed: int) -> dict[str, ConfidenceInterval] | None:
        """95 % percentile intervals over videos drawn with replacement, by metric.

        None if every resample lacks a class.
        """
        draws = self.resampled(num_resamples, seed)
        return percentile_intervals(draws) if len(draws) else None

    def resampled(self, num_resamples: int, seed: int) -> np.ndarray:
        """Metrics of videos drawn with replacement: (resample, `METRICS`) float64.

        Resamples that lack a class are drawn too and left out.
        """
        assert self._video is not None, "bootstrap needs each segment's video"
        num_videos = int(self._video.max()) + 1
        rng = np.random.default_rng(seed)
        draws = []
        for _ in range(num_resamples):
            drawn = rng.integers(num_videos, size=num_videos)
            # A video drawn twice counts twice: its frames' weight, rather than copies of them.
            metrics = self.metrics(np.bincount(drawn, minlength=num_videos).astype(np.float64))
            if metrics is not None:
                draws.append([getattr(metrics, name) for name in METRICS])
        return np.array(draws).reshape(-1, len(METRICS))


def percentile_intervals(draws: np.ndarray) -> dict[str, ConfidenceInterval]:
    """Intervals by metric that hold 95 % of the resamples of `Ranking.resampled`."""
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return {
        name: ConfidenceInterval(float(a), float(b))
        for name, a, b in zip(METRICS, low, high, strict=True)
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
    # The rates cross between two points of the curve, where the gap changes its sign.
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
    # Only videos with anomalous frames can have pairs within them.
    for index in np.unique(video[num_anomalous > 0]):
        own = video == index
        metrics = Ranking(scores[own], num_anomalous[own], num_normal[own]).metrics()
        if metrics is not None:
            pairs = float(num_anomalous[own].sum()) * float(num_normal[own].sum())
            within_pairs += pairs
            within_right += metrics.auc * pairs
            macro.append(metrics.auc)
    # AUC is the share of rightly ordered pairs; what is not within a video is across two.
    cross_pairs = total_pairs - within_pairs
    right = 0.0 if whole is None else whole.auc * total_pairs
    return {
        "within_video_auc": within_right / within_pairs if within_pairs else None,
        "cross_video_auc": (right - within_right) / cross_pairs if cross_pairs else None,
        "within_video_share": within_pairs / total_pairs if total_pairs else None,
        "macro_video_auc": float(np.mean(macro)) if macro else None,
    }
