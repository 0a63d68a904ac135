"""All experiments on one layer, from one read of the training states and one of the test states."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.evaluate.test_set import TestSet
from hiprobe.probe.pipeline import calibrate
from hiprobe.probe.saliency import layer_statistics
from hiprobe.probe.samples import Samples, samples_of, training_videos
from hiprobe.store import FeatureStore, HiProbeError, StoreError
from hiprobe.store.provenance import Purpose
from hiprobe.store.scorers import fit_scorer
from hiprobe.store.scorers.base import Scorer
from hiprobe.sweep.draws import distinct_draws
from hiprobe.sweep.grid import Draw, SweepConfig, Task
from hiprobe.sweep.kept_scores import KeptScores


@dataclass(frozen=True)
class Prepared:
    """What all layers of a store share.

    Attributes
    ----------
    train : FeatureStore
    test : TestSet
    samples : Samples
        Of all videos that any draw holds.
    draws : list of (Draw, (sample,) bool)
        The few-shot draws, and which samples they hold.
    warnings : tuple of str
        Settings that differ between training and test states, videos that take no part.
    """

    train: FeatureStore
    test: TestSet
    samples: Samples
    draws: list[tuple[Draw, np.ndarray]]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Fit:
    """A fitted scorer: its settings, and its scores of the samples that it was fitted on."""

    settings: dict[str, Any]
    scorer: Scorer
    training_scores: np.ndarray


def prepare(config: SweepConfig, path: Path) -> Prepared:
    """Choose the videos, draw the samples, and lay out the ground truth.

    Raises
    ------
    HiProbeError
        Nothing to train or test on, other models, or training and test videos overlap.
    """
    train = FeatureStore.open(path)
    tested = train if config.test_store is None else FeatureStore.open(config.test_store)
    warnings = _compare(train, tested)
    pool, left_out = training_videos(train, config.train_split, config.manifest)
    test = TestSet.of_store(tested, config.test_split, config.manifest)
    test.require_frame_labels()
    warnings += [f"{train.path}: {text}" for text in left_out]
    warnings += [f"{tested.path}: {text}" for text in test.warnings]
    warnings += _check_no_overlap(train, tested, pool.index, test.videos.index)
    chosen, said = distinct_draws(config, pool["label"])
    warnings += [f"{train.path}: {text}" for text in said]
    # Draws overlap: what any of them holds is read once, and each takes its rows of that.
    of_any_draw = sorted(set(itertools.chain.from_iterable(chosen.values())))
    samples = samples_of(train, pool, of_any_draw, config.labels, config.samples_per_video)
    draws = [(draw, samples.rows_of(video_ids)) for draw, video_ids in chosen.items()]
    return Prepared(train, test, samples, draws, tuple(warnings))


def planned_rows(config: SweepConfig) -> pd.DataFrame:
    """List the rows that a sweep will have, by what tells them apart, without any result."""
    rows = []
    for path in config.stores:
        pool, _ = training_videos(FeatureStore.open(path), config.train_split, config.manifest)
        drawn, _ = distinct_draws(config, pool["label"])
        for task in (task for task in config.tasks() if task.store == path):
            for draw, ids in drawn.items():
                settings = _settings(config, task, draw, ids)
                for kind, l2 in config.penalised_scorers():
                    of_scorer = settings | {"scorer": kind, "l2": l2}
                    rows += [of_scorer | {"kappa": k, "threshold": np.nan} for k in config.kappas]
                    rows += [
                        of_scorer | {"kappa": np.nan, "threshold": t} for t in config.thresholds
                    ]
    return pd.DataFrame(rows)


def _settings(
    config: SweepConfig, task: Task, draw: Draw, video_ids: Sequence[str]
) -> dict[str, Any]:
    """The columns that tell what was trained on, and what is tested."""
    digest = hashlib.sha256("\0".join(sorted(video_ids)).encode("utf-8", "surrogatepass"))
    return {
        "store": str(task.store),
        "test_store": str(config.test_store or task.store),
        "layer": task.layer,
        "rule": "",
        "layers": str(task.layer),
        "fraction": draw.fraction if draw.num_videos is None else np.nan,
        "num_videos": len(video_ids),
        "seed": draw.seed,
        "draw": digest.hexdigest()[:12],
    }


def _compare(train: FeatureStore, test: FeatureStore) -> list[str]:
    """Refuse states that a scorer of the training states cannot read; name what else differs."""
    found = train.origin.compare(test.origin, Purpose.SCORE)
    texts = [
        f"{test.path}: {one.name} is {one.second!r}, that of {train.path} is {one.first!r}"
        for one in (*found.refused, *found.warned)
    ]
    if found.refused:
        raise StoreError(
            f"{texts[0]}: a scorer of one says nothing about the other. Extract both alike."
        )
    return texts


def _check_no_overlap(
    train: FeatureStore, test: FeatureStore, training: pd.Index, tested: pd.Index
) -> list[str]:
    """Refuse to test on training videos; warn where ids coincide and nobody can tell."""
    overlap = sorted(set(training) & set(tested))
    if not overlap:
        return []
    if not train.origin.same_manifest(test.origin):
        return [
            f"{test.path}: {len(overlap)} of the videos have ids of training videos of "
            f"{train.path}, for example {overlap[0]}, by another manifest: if they are the same "
            "videos, these figures say nothing"
        ]
    raise HiProbeError(
        f"{train.path}: {len(overlap)} videos are both to train and to test on, for example "
        f"{overlap[0]!r}. Choose other splits."
    )


@dataclass(frozen=True)
class Found:
    """What a task has found.

    Attributes
    ----------
    table : DataFrame
        One row an experiment and threshold.
    kept : KeptScores or None
        The experiments' scores, where they are kept; ``scores_row`` of the table says which.
    """

    table: pd.DataFrame
    kept: KeptScores | None = None


def run_task(config: SweepConfig, task: Task, prepared: Prepared) -> Found:
    """Run all experiments on one layer."""
    states = prepared.samples.states(prepared.train, task.layer)
    fits = [
        fit
        for draw, drawn in prepared.draws
        for fit in _fit_draw(config, task, draw, prepared.samples, drawn, states)
    ]
    scores = _score_all([fit.scorer for fit in fits], prepared.test, task.layer)
    rows, smoothed = [], []
    for number, (fit, raw) in enumerate(zip(fits, scores, strict=True)):
        scored = prepared.test.score(raw, config.sigma)
        where = {"scores_row": number} if config.keep_scores else {}
        rows += [
            fit.settings | row | where for row in _measure(scored, fit.training_scores, config)
        ]
        smoothed += [scored.smoothed] if config.keep_scores else []
    kept = KeptScores.of(np.stack(smoothed), prepared.test.segments) if smoothed else None
    return Found(pd.DataFrame(rows), kept)


def _fit_draw(
    config: SweepConfig,
    task: Task,
    draw: Draw,
    samples: Samples,
    drawn: np.ndarray,
    states: np.ndarray,
) -> Iterator[_Fit]:
    """Fit all scorers on one draw's samples."""
    own, is_anomalous = states[drawn], samples.is_anomalous[drawn]
    settings = _settings(config, task, draw, list(dict.fromkeys(samples.owner[drawn])))
    settings |= asdict(layer_statistics(own, is_anomalous))
    for kind, l2 in config.penalised_scorers():
        scorer = fit_scorer(kind, own, is_anomalous, l2)
        yield _Fit(settings | {"scorer": kind, "l2": l2}, scorer, expit(scorer.logits(own)))


def _score_all(scorers: Sequence[Scorer], test: TestSet, layer: int) -> np.ndarray:
    """Score the test segments with all scorers in one read: (scorer, segment)."""
    logits = []
    for states in test.states(layer):
        wide = states.astype(np.float64)  # once, not by each scorer
        logits.append([scorer.logits(wide) for scorer in scorers])
    return expit(np.concatenate(logits, axis=1))


def _measure(
    scored: ScoredSegments, training_scores: np.ndarray, config: SweepConfig
) -> Iterator[dict[str, float | None]]:
    """Measure the scores once, and for each threshold what depends on it; fixed ones have no κ."""
    # Areas of a continuous score know no threshold; they cost most, and are measured once.
    of_any_threshold = _areas(scored, "smoothed", "") | _areas(scored, "raw", "raw_")
    adaptive = [(kappa, calibrate(training_scores, kappa)["value"]) for kappa in config.kappas]
    for kappa, threshold in [*adaptive, *((np.nan, fixed) for fixed in config.thresholds)]:
        cut = replace(scored, threshold=threshold)
        yield {
            "kappa": kappa,
            **of_any_threshold,
            "threshold": threshold,
            **_areas(cut, "localized", "localized_"),
            **_areas(cut, "binary", "binary_"),
            "f1": cut.f1,
            "false_alarm_rate": cut.false_alarm_rate,
        }


def _areas(scored: ScoredSegments, variant: str, prefix: str) -> dict[str, float | None]:
    """AUC and AP of one variant of the scores, as columns of the table."""
    areas = scored.areas(scored.variants[variant])
    return {f"{prefix}{name}": areas[name] for name in ("auc", "ap")}
