"""What all experiments on a store share: its draws of training videos, its test videos."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiprobe.evaluate.test_set import TestSet
from hiprobe.probe.pipeline import UNTRAINED
from hiprobe.probe.samples import Samples, samples_of, training_videos
from hiprobe.store import FeatureStore, StoreError
from hiprobe.store.provenance import Purpose
from hiprobe.store.train_test_overlap import check_overlap, files_of
from hiprobe.sweep.cuts import Cuts
from hiprobe.sweep.draws import distinct_draws, draw_digest
from hiprobe.sweep.grid import Draw, SweepConfig, Task
from hiprobe.sweep.methods_asked import check_tested, place_of


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
    few_shot : list of Samples
        Each draw's own, where thresholds need its videos' segments; else empty.
    warnings : tuple of str
        Settings that differ between training and test states, videos that take no part.
    """

    train: FeatureStore
    test: TestSet
    samples: Samples
    draws: list[tuple[Draw, np.ndarray]]
    few_shot: list[Samples]
    warnings: tuple[str, ...]

    def settings(self, config: SweepConfig, task: Task, number: int | None) -> dict[str, Any]:
        """The columns that tell what was trained on in one of the `draws`, and what is tested.

        Without a number, of what learns from no video.
        """
        if number is None:
            return _settings(config, self.train, task, Draw(), ())
        draw, drawn = self.draws[number]
        ids = list(dict.fromkeys(self.samples.owner[drawn]))
        return _settings(config, self.train, task, draw, ids)


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
    needed = config.needs_anomalies
    pool, left_out = training_videos(train, config.train_split, config.manifest, needed)
    test = TestSet.of_store(tested, config.test_split, config.manifest)
    test.require_frame_labels()
    check_tested(config, train, tested, list(test.videos.index))
    warnings += [f"{train.path}: {text}" for text in left_out]
    warnings += [f"{tested.path}: {text}" for text in test.warnings]
    warnings += check_overlap(
        files_of(train, pool.index),
        files_of(tested, test.videos.index),
        same_manifest=train.origin.same_manifest(tested.origin),
        allow=config.allow_overlap,
        where=train.path,
    )
    chosen, said = distinct_draws(config, pool["label"])
    warnings += [f"{train.path}: {text}" for text in said]
    # Draws overlap: what any of them holds is read once, and each takes its rows of that.
    of_any_draw = sorted(set(itertools.chain.from_iterable(chosen.values())))
    samples = samples_of(train, pool, of_any_draw, config.labels, config.samples_per_video, needed)
    draws = [(draw, samples.rows_of(video_ids)) for draw, video_ids in chosen.items()]
    few_shot = [
        samples_of(train, pool, ids, config.labels, config.samples_per_video)
        for ids in chosen.values()
        if _needs_rates(config)
    ]
    return Prepared(train, test, samples, draws, few_shot, tuple(warnings))


def _needs_rates(config: SweepConfig) -> bool:
    """Whether some threshold is set for a rate of false alarms."""
    return any(
        Cuts.of(config, method, kind).target_fars
        for method in config.methods
        for kind, _ in config.scorers_of(method)
    )


def planned_rows(config: SweepConfig) -> pd.DataFrame:
    """List the rows that a sweep will have, by what tells them apart, without any result."""
    rows = []
    tasks = config.tasks()
    for path in config.stores:
        store = FeatureStore.open(path)
        pool, _ = training_videos(
            store, config.train_split, config.manifest, config.needs_anomalies
        )
        drawn, _ = distinct_draws(config, pool["label"])
        rows += [
            _settings(config, store, task, draw, ids) | {"rule": rule, "scorer": kind, "l2": l2}
            | cut
            for task in tasks
            if task.store == path
            for rule in ([""] if task.is_other or task.layer is not None else config.rules)
            for draw, ids in ([(Draw(), [])] if task.method in UNTRAINED else drawn.items())
            for kind, l2 in config.scorers_of(task.method)
            for cut in Cuts.of(config, task.method, kind).planned()
        ]  # fmt: skip
    return pd.DataFrame(rows)


def _settings(
    config: SweepConfig, store: FeatureStore, task: Task, draw: Draw, video_ids: Sequence[str]
) -> dict[str, Any]:
    """The columns that tell what was trained on, and what is tested."""
    by_share = draw.num_videos is None and len(video_ids) > 0
    return {
        "store": str(task.store),
        "test_store": str(config.test_store or task.store),
        "method": task.method,
        **place_of(config, store, task.method),
        "layer": task.layer,
        "rule": "",
        "layers": "" if task.layer is None else str(task.layer),
        "mil": config.mil,
        "fraction": draw.fraction if by_share else np.nan,
        "num_videos": len(video_ids),
        "seed": draw.seed,
        "draw": draw_digest(video_ids),
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
