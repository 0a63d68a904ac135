"""The sweep: layers × scorers × fractions × seeds × thresholds, each layer read once.

Run by ``hiprobe sweep``. One task is one layer of one store: its states are read once, and all
experiments on it follow (`hiprobe.sweep.experiments`). What a task has found is kept, so an
interrupted sweep goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from operator import attrgetter
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from hiprobe.probe.saliency import METRICS, LayerStatistics, dlsp
from hiprobe.store import FeatureStore, HiProbeError, file_digest, write_errors
from hiprobe.store.single_files import check_target, only_writer
from hiprobe.sweep.experiments import Found, planned_rows, prepare, run_task
from hiprobe.sweep.grid import SweepConfig, Task
from hiprobe.sweep.kept_scores import folder_of
from hiprobe.sweep.table_file import (
    DRAW,
    SUFFIXES,
    appended,
    read_table,
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
        The new rows, one an experiment and κ or fixed threshold: ``store, test_store, layer,
        rule, layers, scorer, l2, fraction, num_videos, seed, draw, kappa``, the layer's
        ``kl_divergence, ldr, entropy, saliency``, ``is_dlsp_choice``, ``auc, ap`` (smoothed
        scores), ``raw_auc, raw_ap``, ``threshold``, ``localized_auc, localized_ap, binary_auc,
        binary_ap, f1, false_alarm_rate``; with kept scores ``scores, scores_row``.

    Raises
    ------
    HiProbeError
        Nothing to train or test on, no such layer, other models, training and test videos
        overlap, or `out` holds rows that would be lost or doubled.
    """
    if out.suffix not in SUFFIXES:
        raise HiProbeError(f"{out}: expected a name that ends in .parquet or .csv.")
    check_target(out)  # not after hours
    with only_writer(out):
        old = _earlier(out, existing)
        if old is not None:
            refuse_doubled(old, planned_rows(config), out)
        table = _sweep(config, out, num_workers, scheduler, on_task, on_warning)
        write_table(table if old is None else appended(old, table, out), out)
        _remove(_folder_of_finished(config, out))
    return table


def _sweep(
    config: SweepConfig,
    out: Path,
    num_workers: int,
    scheduler: str | None,
    on_task: Callable[[int, int], None],
    on_warning: Callable[[str], None],
) -> pd.DataFrame:
    """Run what is left to do, and join the table."""
    tasks = config.tasks()
    folder = _folder_of_finished(config, out)
    files = {task: _file_of(folder, task) for task in tasks}
    todo = [task for task in tasks if not files[task].exists()]
    on_task(len(tasks) - len(todo), len(tasks))
    results = _results(config, todo, num_workers, scheduler, on_warning)
    for done, (task, found) in enumerate(results, start=1):
        _keep(found, files[task], out)
        on_task(len(tasks) - len(todo) + done, len(tasks))
    return _with_saliency(pd.concat(map(_read_finished, files.values()), ignore_index=True))


def _keep(found: Found, file: Path, out: Path) -> None:
    """Write what a task has found; its table comes last and says that all of it is there."""
    table = found.table
    if found.kept is not None:
        # The grid's own name: an appended sweep of the same layers has other files.
        scores = folder_of(out) / f"{file.parent.suffix[1:]}-{file.stem}.npz"
        found.kept.write(scores)
        table = table.assign(scores=scores.name)
    write_table(table, file)


def _read_finished(file: Path) -> pd.DataFrame:
    """Read a finished layer's results, which an earlier run may have left."""
    try:
        return read_table(file)
    except HiProbeError as error:
        raise HiProbeError(f"{error} Remove the file, and run again.") from error


def _earlier(out: Path, existing: Existing) -> pd.DataFrame | None:
    """The rows to append to; refuse to write over an earlier table."""
    if not out.exists() or existing == "replace":
        return None
    if existing == "append":
        return read_table(out)
    raise HiProbeError(
        f"{out}: it is there already, and its rows would be lost. Write to another file, or add "
        "to it with --append."
    )


def _remove(folder: Path) -> None:
    """Remove the results of single layers: the table has them now."""
    if folder.exists():
        with write_errors(folder):
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


def _folder_of_finished(config: SweepConfig, out: Path) -> Path:
    """Where finished layers' results lie, of this very grid on these very stores."""
    paths = [*config.stores, *([config.test_store] if config.test_store else [])]
    opened = [FeatureStore.open(path) for path in paths]
    # A store that was extracted again, or further, has other results.
    contents = [(store.provenance, len(store.segments)) for store in opened]
    labels = file_digest(config.manifest) if config.manifest else None
    identity = json.dumps([asdict(config), contents, labels], default=str, sort_keys=True)
    name = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return out.with_name(f"{out.name}.parts-{name}")


def _file_of(folder: Path, task: Task) -> Path:
    """The table of a finished layer; stores may share their name, so their paths are told apart."""
    store = hashlib.sha256(str(task.store).encode()).hexdigest()[:8]
    return folder / f"{store}-layer-{task.layer}.csv"


def _results(
    config: SweepConfig,
    tasks: Sequence[Task],
    num_workers: int,
    scheduler: str | None,
    on_warning: Callable[[str], None],
) -> Iterator[tuple[Task, pd.DataFrame]]:
    """Run tasks here, or on a Dask cluster; in the order in which they end."""
    if num_workers or scheduler is not None:
        yield from _results_of_cluster(config, tasks, num_workers, scheduler, on_warning)
        return
    for path, own in itertools.groupby(tasks, key=lambda task: task.store):
        prepared = prepare(config, path)
        for text in prepared.warnings:
            on_warning(text)
        yield from ((task, run_task(config, task, prepared)) for task in own)


def _results_of_cluster(
    config: SweepConfig,
    tasks: Sequence[Task],
    num_workers: int,
    scheduler: str | None,
    on_warning: Callable[[str], None],
) -> Iterator[tuple[Task, pd.DataFrame]]:
    from hiprobe.store.dask_cluster import as_they_end, open_cluster, result_of, submit, wait_for

    with open_cluster(scheduler, num_workers) as client:
        config = _absolute(config)
        # Prepared by a worker, and fetched by the others: it need not pass through this process.
        of_store = {
            path: submit(client, prepare, config, path.absolute())
            for path in dict.fromkeys(task.store for task in tasks)
        }
        futures = {
            submit(client, run_task, config, task, needs=[of_store[task.store]]): task
            for task in tasks
        }
        for prepared in of_store.values():
            for text in wait_for(client, submit(client, attrgetter("warnings"), needs=[prepared])):
                on_warning(text)
        for future in as_they_end(client, futures):
            yield futures[future], result_of(client, future)


def _absolute(config: SweepConfig) -> SweepConfig:
    """Workers run in other folders."""
    test_store, manifest = (
        path.absolute() if path else None for path in (config.test_store, config.manifest)
    )
    return replace(config, test_store=test_store, manifest=manifest)


def _with_saliency(table: pd.DataFrame) -> pd.DataFrame:
    """Add each draw's saliency over layers, and which layer DLSP chooses."""
    table["saliency"], table["is_dlsp_choice"] = np.nan, False
    for _, group in table.groupby(list(DRAW), dropna=False):
        of_layer = group.drop_duplicates("layer").set_index("layer")[list(METRICS)]
        if not (of_layer.index >= 1).any():
            continue  # layer 0 alone was asked for, which DLSP never chooses
        saliency = dlsp({layer: LayerStatistics(*row) for layer, row in of_layer.iterrows()})
        table.loc[group.index, "saliency"] = group["layer"].map(saliency.saliency)
        table.loc[group.index, "is_dlsp_choice"] = group["layer"] == saliency.layer
    return table
