"""The sweep: layers × scorers × fractions × seeds × thresholds, each layer read once.

Run by ``hiprobe sweep``. One task is one layer of one store: its states are read once, and all
experiments on it follow (`hiprobe.sweep.experiments`); what rules choose among all layers is one
task more (`hiprobe.sweep.rule_experiments`), and so is each other method
(`hiprobe.sweep.method_experiments`). What a task has found is kept, so an interrupted sweep goes
on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from hiprobe.probe.saliency import METRICS, LayerStatistics, dlsp
from hiprobe.store import HiProbeError
from hiprobe.store.single_files import check_target, only_writer
from hiprobe.sweep.experiments import run_task
from hiprobe.sweep.grid import SweepConfig, Task
from hiprobe.sweep.measured import Found, RuleFigures
from hiprobe.sweep.method_experiments import run_method
from hiprobe.sweep.methods_asked import check_methods
from hiprobe.sweep.parts import Parts
from hiprobe.sweep.prepared import planned_rows, prepare
from hiprobe.sweep.rule_experiments import run_rules
from hiprobe.sweep.table_file import (
    DRAW,
    SUFFIXES,
    appended,
    read_table,
    refuse_columns,
    refuse_doubled,
    write_table,
)

__all__ = ["SweepConfig", "run_sweep"]

Existing = Literal["refuse", "append", "replace"]


def run_sweep(
    config: SweepConfig,
    out: Path,
    *,
    num_workers: int = 0,
    scheduler: str | None = None,
    existing: Existing = "refuse",
    on_task: Callable[[int, int], None] = lambda done, total: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """Run all experiments and write their table.

    Parameters
    ----------
    config : SweepConfig
    out : Path
        ``.parquet`` or ``.csv``; results of finished layers are kept beside it, in
        ``OUT.parts-…``, until all are done.
    num_workers : int
        Processes; 0 works in this one.
    scheduler : str, optional
        Address of a running Dask scheduler.
    existing : {'refuse', 'append', 'replace'}
        What to do where `out` is there already: its rows may be hours of work.
    on_task : callable
        Called with (layers done, layers).
    on_warning : callable
        Called for each setting that differs between training and test states, for each video that
        takes no part, and for each draw of videos that another one has drawn already.

    Returns
    -------
    DataFrame
        The new rows, one an experiment and κ or fixed threshold: ``store, test_store, method, tap,
        prompt, layer, rule, layers, scorer, l2, fraction, num_videos, seed, draw, kappa``, the
        layer's ``kl_divergence, ldr, entropy, saliency``, ``is_dlsp_choice``, ``auc, ap`` (smoothed
        scores), ``raw_auc, raw_ap``, ``threshold``, ``localized_auc, localized_ap, binary_auc,
        binary_ap, f1, false_alarm_rate``; with kept scores ``scores, scores_row``.

    Raises
    ------
    HiProbeError
        Nothing to train or test on, no such layer, other models, training and test videos
        overlap, a method that a store does not allow, or `out` holds rows that would be lost or
        doubled.
    """
    check_methods(config)
    if out.suffix not in SUFFIXES:
        raise HiProbeError(f"{out}: expected a name that ends in .parquet or .csv.")
    check_target(out)  # not after hours
    with only_writer(out):
        old = _earlier(config, out, existing)
        parts = Parts(config, out)
        table = _sweep(config, parts, num_workers, scheduler, on_task, on_warning)
        write_table(table if old is None else appended(old, table, out), out)
        parts.remove()
    return table


def _earlier(config: SweepConfig, out: Path, existing: Existing) -> pd.DataFrame | None:
    """The rows to append to; refuse what would lose or double rows, before the work."""
    if not out.exists() or existing == "replace":
        return None
    if existing == "refuse":
        raise HiProbeError(
            f"{out}: it is there already, and its rows would be lost. Write to another file, or "
            "add to it with --append."
        )
    old = read_table(out)
    refuse_columns(old, config.keep_scores, out)
    refuse_doubled(old, planned_rows(config), out)
    return old


def _sweep(
    config: SweepConfig,
    parts: Parts,
    num_workers: int,
    scheduler: str | None,
    on_task: Callable[[int, int], None],
    on_warning: Callable[[str], None],
) -> pd.DataFrame:
    """Run what is left to do, and join the table."""
    tasks = config.tasks()
    todo = [task for task in tasks if not parts.has(task)]
    on_task(len(tasks) - len(todo), len(tasks))
    work = _Work(config, tasks, parts, on_warning)
    if num_workers or scheduler is not None:
        results = work.on_cluster(todo, num_workers, scheduler)
    else:
        results = work.here(todo)
    for done, (task, found) in enumerate(results, start=1):
        parts.keep(task, found)
        on_task(len(tasks) - len(todo) + done, len(tasks))
    table = pd.concat(map(parts.read, tasks), ignore_index=True)
    if config.test_store is not None:  # workers run in other folders, by its absolute path
        table["test_store"] = str(config.test_store)
    return _with_saliency(table)


@dataclass(frozen=True)
class _Work:
    """How tasks are run: those of layers first, whose figures those of rules choose by."""

    config: SweepConfig
    tasks: list[Task]
    parts: Parts
    on_warning: Callable[[str], None]

    def here(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Found]]:
        """Run tasks in this process, one store after the other."""
        ordered = sorted(tasks, key=lambda task: self.config.stores.index(task.store))
        for path, own in itertools.groupby(ordered, key=lambda task: task.store):
            prepared = prepare(self.config, path)
            for text in prepared.warnings:
                self.on_warning(text)
            for task in own:
                function, *arguments = self.call_of(task, self.config)
                yield task, function(*arguments, prepared)

    def on_cluster(
        self, tasks: Sequence[Task], num_workers: int, scheduler: str | None
    ) -> Iterator[tuple[Task, Found]]:
        """Run tasks on a Dask cluster; in the order in which they end."""
        from hiprobe.store.dask_cluster import (
            as_they_end,
            open_cluster,
            result_of,
            submit,
            wait_for,
        )

        with open_cluster(scheduler, num_workers) as client:
            config = _absolute(self.config)
            # Prepared by a worker, and fetched by the others: it need not pass through here.
            of_store = {
                path: submit(client, prepare, config, path.absolute())
                for path in dict.fromkeys(task.store for task in tasks)
            }
            for by_figures in (False, True):
                futures = {
                    submit(client, *self.call_of(task, config), needs=[of_store[task.store]]): task
                    for task in tasks
                    if task.goes_by_figures == by_figures
                }
                if not by_figures:
                    for prepared in of_store.values():
                        texts = submit(client, attrgetter("warnings"), needs=[prepared])
                        for text in wait_for(client, texts):
                            self.on_warning(text)
                for future in as_they_end(client, futures):
                    yield futures[future], result_of(client, future)

    def call_of(self, task: Task, config: SweepConfig) -> tuple[Any, ...]:
        """What runs a task: a function, and its arguments but for what is prepared."""
        if task.layer is not None:
            return run_task, config, task
        figures = self.figures(task.store) if task.goes_by_figures else {}
        if task.is_other:
            return run_method, config, task, figures
        return run_rules, config, task.store, figures

    def figures(self, store: Path) -> dict[int, RuleFigures]:
        """What rules choose by, of all layers that they may choose: none is the embedding."""
        return {
            task.layer: self.parts.figures(task)
            for task in self.tasks
            if task.store == store and task.layer
        }


def _absolute(config: SweepConfig) -> SweepConfig:
    """Workers run in other folders."""
    test_store, manifest = (
        path.absolute() if path else None for path in (config.test_store, config.manifest)
    )
    return replace(config, test_store=test_store, manifest=manifest)


def _with_saliency(table: pd.DataFrame) -> pd.DataFrame:
    """Add each draw's saliency over layers, and which layer DLSP chooses."""
    table = table.reindex(columns=list(dict.fromkeys((*table, *METRICS))))  # methods have none
    table["saliency"], table["is_dlsp_choice"] = np.nan, False
    of_one_layer = table[table["layer"].notna()]
    for _, group in of_one_layer.groupby(list(DRAW), dropna=False):
        of_layer = group.drop_duplicates("layer").set_index("layer")[list(METRICS)]
        if not (of_layer.index >= 1).any() or of_layer.isna().all(axis=None):
            continue  # layer 0 alone, which DLSP never chooses, or normal videos alone
        saliency = dlsp({layer: LayerStatistics(*row) for layer, row in of_layer.iterrows()})
        table.loc[group.index, "saliency"] = group["layer"].map(saliency.saliency)
        table.loc[group.index, "is_dlsp_choice"] = group["layer"] == saliency.layer
    return table
