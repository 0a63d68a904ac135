"""How far candidates lie apart: paired over draws of the training videos and over test videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.rules.trials import Trial
from hiprobe.evaluate.comparison import resample_videos

NUM_RESAMPLES = 200


@dataclass(frozen=True)
class Difference:
    """A candidate's AUC minus another's, the mean over draws.

    Attributes
    ----------
    mean : float
    draws_error : float
        Standard error over draws: the deviation of the draws' differences over √draws. Draws
        share videos, so it is the smaller part of the truth.
    videos_error : float
        Standard deviation of the mean difference over bootstrap resamples of the test videos.
    wins : float
        Share of draws in which it is ahead, ties half.
    """

    mean: float
    draws_error: float
    videos_error: float
    wins: float

    @property
    def error(self) -> float:
        """Both errors together."""
        return float(np.hypot(self.draws_error, self.videos_error))


def differences(
    trials: Mapping[str, Sequence[Trial]], reference: str, seed: int = 0
) -> dict[str, Difference]:
    """Compare all candidates with one, draw by draw.

    Parameters
    ----------
    trials : mapping of str to sequence of Trial
        By candidate; each with the same draws.
    reference : str
    seed : int
        Of the bootstrap.
    """
    videos = sorted({one for trial in trials[reference] for one in trial.video_ids})
    places = {one: index for index, one in enumerate(videos)}

    def mean_gaps(weights: np.ndarray) -> np.ndarray:
        # A draw's own training videos are not among those that it is tested on: they count for
        # nothing there.
        aucs = {name: _aucs(own, weights, places) for name, own in trials.items()}
        return np.array([np.nanmean(own - aucs[reference]) for own in aucs.values()])

    resampled = resample_videos(
        mean_gaps, len(videos), NUM_RESAMPLES, seed, lambda done, total: None
    )
    points = {name: np.array([trial.auc for trial in own]) for name, own in trials.items()}
    found = {}
    for (name, own), of_videos in zip(points.items(), resampled.T, strict=True):
        gaps = own - points[reference]
        found[name] = Difference(
            float(gaps.mean()),
            float(gaps.std(ddof=1) / np.sqrt(len(gaps))),
            float(np.nanstd(of_videos)),
            float(np.mean((gaps > 0) + 0.5 * (gaps == 0))),
        )
    return found


def _aucs(trials: Sequence[Trial], weights: np.ndarray, places: Mapping[str, int]) -> np.ndarray:
    """Each draw's AUC under weights of all videos; NaN where a class is absent."""
    aucs = []
    for trial in trials:
        own = weights[[places[one] for one in trial.video_ids]]
        metrics = trial.ranking.metrics(own)
        aucs.append(np.nan if metrics is None else metrics.auc)
    return np.array(aucs)
