"""The paper's tables of experiments, from stores: cross-dataset (3), ablation (4), keyframes (5).

Run by ``hiprobe table``. Each is a sweep, and a choice of its rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from hiprobe.evaluate.test_set import TestSet
from hiprobe.store import FeatureStore, HiProbeError
from hiprobe.store.official import OFFICIAL_TOTALS
from hiprobe.store.provenance import Purpose
from hiprobe.store.single_files import make_folder
from hiprobe.sweep import paper
from hiprobe.sweep.layout import METRICS, Table
from hiprobe.sweep.method_table import methods
from hiprobe.sweep.pipeline import run_sweep
from hiprobe.sweep.table_rows import TableConfig, averaged_row, finished

__all__ = ["METRICS", "TABLES", "Table", "TableConfig"]


class _Sweeps:
    """The sweeps that make one table, and what there is to warn of in them."""

    def __init__(self, config: TableConfig) -> None:
        self._config = config
        self.warnings: list[str] = []

    def run(self, name: str, **options: Any) -> pd.DataFrame:
        """Run the configured sweep with some options changed."""
        make_folder(self._config.out)
        return run_sweep(
            replace(self._config.sweep, **options),
            self._config.out / f"{name}-experiments.csv",
            num_workers=self._config.num_workers,
            on_task=self._config.on_task,
            existing="replace",  # the whole table is made again
            on_warning=self.warnings.append,
        )


def cross_dataset(stores: Sequence[Path], config: TableConfig) -> Table:
    """Table 3: train on one data set and test on another, for all pairs of the same model.

    Raises
    ------
    HiProbeError
        No two stores are of one model, or a pair does not fit together.
    """
    opened = {path: FeatureStore.open(path) for path in stores}
    pairs = [
        (train, test)
        for train, test in itertools.permutations(stores, 2)
        if not opened[train].origin.compare(opened[test].origin, Purpose.SCORE).refused
    ]
    if not pairs:
        raise HiProbeError(
            f"{', '.join(map(str, stores))}: no two of these stores are of the same model, "
            "expected at least one pair. Extract both data sets with one model."
        )
    sweeps, rows = _Sweeps(config), []
    for number, (train, test) in enumerate(pairs):
        table = sweeps.run(
            f"cross-dataset-{number}", stores=(train,), test_store=test, scorers=("logistic",)
        )
        model = _paper_model(opened[test])
        benchmarks = (_benchmark(opened[one], config) for one in (train, test))
        figure = paper.cross_dataset_figure(model, *benchmarks)
        rows.append(averaged_row(_title(opened[test]), train, test, _at_choice(table), figure))
        rows += [
            averaged_row(name, train, test, own) for name, own in _of_rules(table, config).items()
        ]
    return finished("cross-dataset", rows, list(opened.values()), config, sweeps.warnings)


def ablation(stores: Sequence[Path], config: TableConfig) -> Table:
    """Table 4: without DLSP, with other scorers, and with fixed thresholds."""
    opened = [FeatureStore.open(path) for path in stores]
    sweeps, rows = _Sweeps(config), []
    l2 = config.sweep.l2s[0]
    for number, store in enumerate(opened):
        table = sweeps.run(
            f"ablation-{number}",
            stores=(store.path,),
            scorers=("logistic", "svm", "distance"),
            l2s=tuple(dict.fromkeys((l2, l2 or 1.0))),  # a support vector machine needs one
            thresholds=paper.FIXED_THRESHOLDS,
        )
        model, benchmark = _paper_model(store), _benchmark(store, config)
        for setting, chosen in _ablated(table, store, l2).items():
            figure = paper.ablation_figure(setting, model, benchmark)
            rows.append(averaged_row(setting, store.path, store.path, chosen, figure))
        for setting, chosen in _of_rules(table, config).items():
            rows.append(averaged_row(setting, store.path, store.path, chosen))
    notes = [
        "AUC and AP of a continuous score do not depend on the threshold: what a threshold changes "
        "is the localized (the lowest score below it) and the binary score. The paper does not say "
        "which of them its threshold rows measure.",
        "Last and middle layer are those of what the store holds: a store of fewer layers than the "
        "model has a lower last one.",
    ]
    return finished("ablation", rows, opened, config, [*notes, *sweeps.warnings])


def _ablated(table: pd.DataFrame, store: FeatureStore, l2: float) -> dict[str, pd.DataFrame]:
    """The experiments of each row of the ablation, one a draw."""
    # Rows of a fixed threshold have no κ.
    full = table[(table["scorer"] == "logistic") & (table["l2"] == l2)]
    at_fixed = _at_choice(full[full["kappa"].isna() & full["target_far"].isna()])
    adaptive = table[table["kappa"].notna()]
    full = full[full["kappa"].notna()]
    last = max(store.layers)
    middle = min((la for la in store.layers if la >= 1), key=lambda la: abs(2 * la - last))
    return {
        "full": _at_choice(full),
        "last layer": full[full["layer"] == last],
        "middle layer": full[full["layer"] == middle],
        "SVM": _at_choice(adaptive[(adaptive["scorer"] == "svm") & (adaptive["l2"] != 0)]),
        "distance": _at_choice(adaptive[adaptive["scorer"] == "distance"]),
        **{
            f"threshold {fixed:g}": at_fixed[at_fixed["threshold"] == fixed]
            for fixed in paper.FIXED_THRESHOLDS
        },
    }


def keyframes(stores: Sequence[Path], config: TableConfig) -> Table:
    """Table 5: stores that differ in the number of keyframes only.

    Raises
    ------
    HiProbeError
        A store does not tell its number, two have the same, or they differ in more.
    """
    of_store = {store: _keyframes(store) for store in map(FeatureStore.open, stores)}
    opened = sorted(of_store, key=lambda store: of_store[store])
    sweeps, rows = _Sweeps(config), []
    # Neighbours suffice: what all are alike in, each two are.
    for one, other in itertools.pairwise(opened):
        if of_store[one] == of_store[other]:
            raise HiProbeError(
                f"{one.path} and {other.path}: both have {of_store[one]} keyframes a "
                "segment, expected a store for each number. Leave one of them out."
            )
        sweeps.warnings += _check_ablated(one, other)
    paths = tuple(store.path for store in opened)
    table = sweeps.run("keyframes", stores=paths, scorers=("logistic",))
    for store in opened:
        number = of_store[store]
        figure = paper.keyframes_figure(number, _paper_model(store), _benchmark(store, config))
        own = table[table["store"] == str(store.path)]
        rows.append(averaged_row(f"K = {number}", store.path, store.path, _at_choice(own), figure))
        for rule, chosen in _of_rules(own, config).items():
            rows.append(averaged_row(f"K = {number}, {rule}", store.path, store.path, chosen))
    return finished("keyframes", rows, opened, config, sweeps.warnings)


def _keyframes(store: FeatureStore) -> int:
    """Keyframes a segment; not every store has to tell."""
    number = store.origin.keyframes
    if number is None:
        raise HiProbeError(
            f"{store.path}: it does not say how many keyframes a segment has, expected the "
            "attribute `keyframes`. Leave it out, or extract it with hiprobe."
        )
    return number


def _check_ablated(one: FeatureStore, other: FeatureStore) -> list[str]:
    """Refuse two stores that differ in more than their keyframes; name what may differ."""
    found = one.origin.compare(other.origin, Purpose.ABLATE)
    for difference in found.refused:
        if difference.name.startswith("model."):
            models = one.origin.model.id, other.origin.model.id
            raise HiProbeError(
                f"{one.path} is of {models[0]}, {other.path} of {models[1]}: expected one model. "
                "Extract all with it."
            )
        raise HiProbeError(
            f"{one.path} and {other.path}: {difference.name} is {difference.first!r} and "
            f"{difference.second!r}, expected stores that differ in their keyframes only. Extract "
            "them alike."
        )
    return [
        f"{one.path} and {other.path}: {difference.name} is {difference.first!r} and "
        f"{difference.second!r}."
        for difference in found.warned
    ]


TABLES = {
    "cross-dataset": cross_dataset,
    "ablation": ablation,
    "keyframes": keyframes,
    "methods": methods,
}


def _at_choice(table: pd.DataFrame) -> pd.DataFrame:
    """The experiments on the layer that DLSP chooses."""
    return table[table["is_dlsp_choice"]]


def _of_rules(table: pd.DataFrame, config: TableConfig) -> dict[str, pd.DataFrame]:
    """The experiments of the rules that were asked for, each under its name in the table."""
    adaptive = table[(table["scorer"] == "logistic") & table["kappa"].notna()]
    adaptive = adaptive[adaptive["l2"] == config.sweep.l2s[0]]
    return {f"rule {rule}": adaptive[adaptive["rule"] == rule] for rule in config.sweep.rules}


def _title(store: FeatureStore) -> str:
    """The model's name for the table's first column."""
    return _paper_model(store) or Path(store.origin.model.id).name


def _paper_model(store: FeatureStore) -> str | None:
    return paper.model_of(store.origin.model.id)


def _benchmark(store: FeatureStore, config: TableConfig) -> str | None:
    """Which benchmark the test split is, by its official totals; None: none of them."""
    test = TestSet.of_store(store, config.sweep.test_split, config.sweep.manifest)
    own = (
        len(test.videos),
        int(test.videos["num_frames"].sum()),
        int(test.segments.num_anomalous.sum()),
    )
    for name, totals in OFFICIAL_TOTALS.items():
        if own == (totals.num_test_videos, totals.num_frames, totals.num_anomalous_frames):
            return name
    return None
