"""One few-shot draw: every candidate's scores of the same test videos, by the same samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scipy.special import expit

from benchmarks.rules.footage import Setting
from hiprobe.evaluate.metrics import Ranking
from hiprobe.evaluate.test_set import TestSet
from hiprobe.probe.layer_rules import LAYER_RULES, RuleSamples
from hiprobe.probe.multiple_instance import fit_samples
from hiprobe.probe.saliency import layer_statistics
from hiprobe.probe.samples import make_samples
from hiprobe.store import FeatureStore
from hiprobe.store.probe_members import read_logits
from hiprobe.store.scorers import DEFAULT_L2, PAPER_L2

PAPERS_RULE = "dlsp"
NUM_RELABELLINGS = 3


@dataclass(frozen=True)
class Candidate:
    """A way to make a probe.

    Attributes
    ----------
    name : str
    rule : str
        Of `LAYER_RULES`.
    l2 : float
        The scorer's penalty.
    mil : int
        Times to fit again on the top segments of anomalous videos.
    """

    name: str
    rule: str
    l2: float = DEFAULT_L2
    mil: int = 0


CANDIDATES = (
    *(Candidate(rule, rule) for rule in LAYER_RULES),
    Candidate("dlsp, no penalty", "dlsp", l2=PAPER_L2),
    Candidate("last, no penalty", "last", l2=PAPER_L2),
    Candidate("upper-half, no penalty", "upper-half", l2=PAPER_L2),
    Candidate("dlsp, mil", "dlsp", mil=NUM_RELABELLINGS),
    Candidate("upper-half, mil", "upper-half", mil=NUM_RELABELLINGS),
)


@dataclass(frozen=True)
class Trial:
    """What one candidate scored, after one draw.

    Attributes
    ----------
    candidate : str
    seed : int
    layers : tuple of int
        Those that the rule chose.
    ranking : Ranking
        The smoothed scores of the test videos' segments.
    video_ids : tuple of str
        The test videos, as the ranking numbers them.
    auc, ap : float
        Frame level.
    """

    candidate: str
    seed: int
    layers: tuple[int, ...]
    ranking: Ranking
    video_ids: tuple[str, ...]
    auc: float
    ap: float


def run_trials(
    setting: Setting, train: FeatureStore, test: FeatureStore, seed: int
) -> Iterator[Trial]:
    """Fit all candidates on one draw, and score the videos that are not in it."""
    drawn, tested = setting.draw(train, test, seed)
    videos = test.videos[test.videos.index.isin(tested)]
    truth = TestSet.of_videos(videos, test.path, store=test)
    samples = make_samples(train, drawn, train.videos["label"])
    layers = [layer for layer in train.layers if layer >= 1]
    states = {layer: samples.states(train, layer) for layer in layers}
    flags = samples.is_anomalous
    statistics = {layer: layer_statistics(states[layer], flags) for layer in layers}
    chosen: dict[tuple[str, float], tuple[int, ...]] = {}
    fits = []
    for candidate in CANDIDATES:
        rule = LAYER_RULES[candidate.rule]
        key = candidate.rule, candidate.l2
        if key not in chosen:
            known = RuleSamples(samples.owner, flags, l2=candidate.l2, seed=seed)
            measured = {
                layer: rule.measure(states[layer], known, statistics[layer]) for layer in layers
            }
            chosen[key] = rule.choose(measured)
        options = {"l2": candidate.l2, "mil": candidate.mil}
        (fit,) = fit_samples(train, samples, chosen[key], **options)
        fits.append(fit)
    logits = read_logits([fit.members for fit in fits], truth.states)
    for candidate, own in zip(CANDIDATES, logits, strict=True):
        scored = truth.score(expit(own))
        ranking = scored.ranking(scored.smoothed)
        metrics = ranking.metrics()
        assert metrics is not None, f"{setting.name}: the test videos are of one class"
        yield Trial(
            candidate.name,
            seed,
            chosen[candidate.rule, candidate.l2],
            ranking,
            tuple(map(str, videos.index)),
            metrics.auc,
            metrics.ap,
        )
