"""The sweep: layers × scorers × fractions × seeds × thresholds, each layer read once.

Run by ``hiprobe sweep``. One task is one layer of one store: its states are read once, and all
experiments on it follow. What a task has found is kept, so an interrupted sweep goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from hiprobe.evaluate.test_set import attach_ground_truth, choose_test_videos
from hiprobe.evaluate.metrics import f1_score
from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.probe.pipeline import ProbeConfig, draw_videos, samples_of, training_videos
from hiprobe.probe.saliency import METRICS, LayerStatistics, dlsp, layer_statistics
from hiprobe.probe.samples import Samples
from hiprobe.store import FeatureStore, HiProbeError, check_same_features
from hiprobe.store.localization import DEFAULT_SIGMA, smooth
from hiprobe.store.scorers import DEFAULT_L2, SCORERS, fit_scorer, scorer_class
from hiprobe.store.scorers.base import Scorer

EXPERIMENT = ("store", "fraction", "num_videos", "seed")


@dataclass(frozen=True)
class SweepConfig:
    """A grid of experiments.

    Attributes
    ----------
    stores : tuple of Path
        To train on, one after the other; for example of several numbers of keyframes.
    test_store : Path or None
        To test on; None: the same one.
    layers : tuple of int or None
        None: all above 0.
    scorers : tuple of str
    l2s : tuple of float
        Penalties; for 'distance', which has none, the first stands.
    fractions : tuple of float
        Few-shot shares of the training videos.
    num_videos : tuple of int
        Or so many of them; if given, `fractions` do not count.
    seeds : tuple of int
        Of the few-shot draws.
    kappas : tuple of float
        κ of the threshold.
    thresholds : tuple of float
        Fixed thresholds, measured beside μ + κσ.
    labels : {'video', 'segment'}
    samples_per_video : int
    train_split, test_split : str
    sigma : float
        Smoothing, in segments.
    """

    stores: tuple[Path, ...]
    test_store: Path | None = None
    layers: tuple[int, ...] | None = None
    scorers: tuple[str, ...] = SCORERS
    l2s: tuple[float, ...] = (DEFAULT_L2,)
    fractions: tuple[float, ...] = (1.0,)
    num_videos: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    kappas: tuple[float, ...] = (0.2,)
    thresholds: tuple[float, ...] = ()
    labels: str = "video"
    samples_per_video: int = 1
    train_split: str = "train"
    test_split: str = "test"
    sigma: float = DEFAULT_SIGMA


@dataclass(frozen=True)
class Task:
    """One layer of one store."""

    store: Path
    layer: int


def run_sweep(
    config: SweepConfig,
    out: Path,
    *,
    num_workers: int = 0,
    scheduler: str | None = None,
    on_task: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Run all experiments and write their table.

    Parameters
    ----------
    config : SweepConfig
    out : Path
        ``.parquet`` or ``.csv``; results of finished layers are kept beside it, in
        ``OUT.parts``, until all are done.
    num_workers : int
        Processes; 0 works in this one.
    scheduler : str, optional
        Address of a running Dask scheduler.
    on_task : callable
        Called with (layers done, layers).

    Returns
    -------
    DataFrame
        One row an experiment and κ or fixed threshold: ``store, layer, scorer, l2, fraction,
        num_videos, seed, kappa``, the layer's ``kl_divergence, ldr, entropy, saliency``,
        ``is_dlsp_choice``, ``auc, ap`` (smoothed scores), ``raw_auc, raw_ap``, ``threshold``,
        ``localized_auc, localized_ap, binary_auc, binary_ap, f1, false_alarm_rate``.

    Raises
    ------
    HiProbeError
        Nothing to train or test on, other models, or training and test videos overlap.
    """
    if out.suffix not in (".parquet", ".csv"):
        raise HiProbeError(f"{out}: expected a name that ends in .parquet or .csv.")
    tasks = [task for store in config.stores for task in _tasks(config, store)]
    parts = _parts_folder(config, out)
    todo = [task for task in tasks if not _part(parts, task).exists()]
    on_task(len(tasks) - len(todo), len(tasks))
    for done, (task, table) in enumerate(_results(config, todo, num_workers, scheduler), start=1):
        partial = _part(parts, task).with_suffix(".partial")
        table.to_csv(partial, index=False)
        partial.replace(_part(parts, task))
        on_task(len(tasks) - len(todo) + done, len(tasks))
    tables = [pd.read_csv(_part(parts, task), float_precision="round_trip") for task in tasks]
    table = _with_saliency(pd.concat(tables, ignore_index=True))
    _write(table, out)
    for part in parts.iterdir():
        part.unlink()
    parts.rmdir()
    return table


@dataclass(frozen=True)
class Prepared:
    """What all layers of a store share.

    Attributes
    ----------
    train, test : FeatureStore
    test_videos : DataFrame
    samples : Samples
        Of all videos that any draw holds.
    draws : list of (ProbeConfig, (sample,) bool)
        The few-shot draws: their settings, and which samples they hold.
    blank : ScoredSegments
        The test segments' ground truth; the scores are still to come.
    """

    train: FeatureStore
    test: FeatureStore
    test_videos: pd.DataFrame
    samples: Samples
    draws: list[tuple[ProbeConfig, np.ndarray]]
    blank: ScoredSegments


def prepare(config: SweepConfig, store: Path) -> Prepared:
    """Choose the videos, draw the samples, and lay out the ground truth.

    Raises
    ------
    HiProbeError
        Nothing to train or test on, other models, or training and test videos overlap.
    """
    train = test = FeatureStore.open(store)
    if config.test_store is not None:
        test = FeatureStore.open(config.test_store)
        check_same_features(train, test)
    test_videos, _ = choose_test_videos(test, config.test_split)
    pool = training_videos(train, ProbeConfig(store, split=config.train_split))
    _check_no_overlap(train, test, pool, test_videos)
    chosen = [(draw, draw_videos(pool, draw)) for draw in _draws(config, store)]
    of_any_draw = sorted(set(itertools.chain.from_iterable(ids for _, ids in chosen)))
    samples = samples_of(train, pool, of_any_draw, chosen[0][0])
    draws = [(draw, samples.rows_of(video_ids)) for draw, video_ids in chosen]
    segments = test.segments[test.segments["video_id"].isin(test_videos.index)]
    blank = attach_ground_truth(
        segments, test_videos, np.zeros(len(segments)), sigma=config.sigma, threshold=0.0
    )
    return Prepared(train, test, test_videos, samples, draws, blank)


def run_task(config: SweepConfig, task: Task, prepared: Prepared) -> pd.DataFrame:
    """Run all experiments on one layer; its states are read once."""
    samples, blank = prepared.samples, prepared.blank
    states = samples.states(prepared.train, task.layer)
    experiments, training_scores = [], []
    for draw, drawn in prepared.draws:
        own, is_anomalous = states[drawn], samples.is_anomalous[drawn]
        about = _about_draw(task, draw, samples.owner[drawn], own, is_anomalous)
        for kind, l2 in _scorers(config):
            scorer = fit_scorer(kind, own, is_anomalous, l2)
            experiments.append((about | {"scorer": kind, "l2": l2}, scorer))
            training_scores.append(expit(scorer.logits(own)))
    scores = _score_all([scorer for _, scorer in experiments], prepared, task.layer)
    rows = []
    for (about, _), raw, of_training in zip(experiments, scores, training_scores, strict=True):
        scored = replace(blank, raw=raw, smoothed=_smooth_each(raw, blank.video, config.sigma))
        rows += [
            about | {"kappa": kappa} | measured
            for kappa, measured in _measure(scored, of_training, config)
        ]
    return pd.DataFrame(rows)


def _score_all(scorers: list[Scorer], prepared: Prepared, layer: int) -> np.ndarray:
    """Score the test segments with all scorers in one read: (scorer, segment)."""
    logits = []
    for _, states in prepared.test.iter_layer(layer, prepared.test_videos.index):
        wide = states.astype(np.float64)
        logits.append([scorer.logits(wide) for scorer in scorers])
    return expit(np.concatenate(logits, axis=1))


def _smooth_each(scores: np.ndarray, video: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth each video's scores; `video` is ascending."""
    cuts = np.flatnonzero(np.diff(video)) + 1
    return np.concatenate([smooth(part, sigma) for part in np.split(scores, cuts)])


def _about_draw(
    task: Task,
    draw: ProbeConfig,
    owner: np.ndarray,
    states: np.ndarray,
    is_anomalous: np.ndarray,
) -> dict[str, Any]:
    statistics = layer_statistics(states, is_anomalous)
    return {
        "store": str(task.store),
        "layer": task.layer,
        "fraction": draw.fraction if draw.num_videos is None else np.nan,
        "num_videos": len(set(owner)),
        "seed": draw.seed,
        **asdict(statistics),
    }


def _measure(
    scored: ScoredSegments, training_scores: np.ndarray, config: SweepConfig
) -> Iterator[tuple[float, dict[str, float | None]]]:
    """Measure the scores once, and for each threshold what depends on it; fixed ones have no κ."""
    mean, std = float(training_scores.mean()), float(training_scores.std())
    fixed = _areas(scored, "smoothed", "") | _areas(scored, "raw", "raw_")
    normal = (scored.videos["label"] == "normal").to_numpy()[scored.video]
    normal_frames = scored.num_normal[normal].sum()
    limits = [(kappa, mean + kappa * std) for kappa in config.kappas]
    for kappa, limit in [*limits, *((np.nan, fixed_at) for fixed_at in config.thresholds)]:
        cut = replace(scored, threshold=limit)
        flagged = cut.is_anomalous
        false_alarms = cut.num_normal[normal & flagged].sum()
        yield (
            kappa,
            {
                **fixed,
                "threshold": cut.threshold,
                **_areas(cut, "localized", "localized_"),
                **_areas(cut, "binary", "binary_"),
                "f1": f1_score(flagged, cut.num_anomalous, cut.num_normal),
                "false_alarm_rate": float(false_alarms / normal_frames) if normal_frames else None,
            },
        )


def _areas(scored: ScoredSegments, variant: str, prefix: str) -> dict[str, float | None]:
    metrics = scored.ranking(scored.variants[variant]).metrics()
    return {
        f"{prefix}{name}": None if metrics is None else getattr(metrics, name)
        for name in ("auc", "ap")
    }


def _draws(config: SweepConfig, store: Path) -> Iterator[ProbeConfig]:
    """All few-shot draws of the grid."""
    sizes: list[dict[str, Any]] = [{"num_videos": count} for count in config.num_videos]
    for size in sizes or [{"fraction": fraction} for fraction in config.fractions]:
        for seed in config.seeds:
            yield ProbeConfig(
                store,
                split=config.train_split,
                seed=seed,
                labels=config.labels,
                samples_per_video=config.samples_per_video,
                **size,
            )


def _scorers(config: SweepConfig) -> Iterator[tuple[str, float]]:
    for kind in config.scorers:
        scorer = scorer_class(kind)
        for l2 in config.l2s if scorer.takes_penalty else config.l2s[:1]:
            if l2 or not scorer.needs_penalty:
                yield kind, l2


def _tasks(config: SweepConfig, store: Path) -> list[Task]:
    layers = FeatureStore.open(store).layers
    wanted = [layer for layer in layers if layer >= 1] if config.layers is None else config.layers
    if missing := [layer for layer in wanted if layer not in layers]:
        raise HiProbeError(f"{store}: no layer {missing[0]}; it has {layers[0]} to {layers[-1]}.")
    return [Task(store, layer) for layer in wanted]


def _check_no_overlap(
    train: FeatureStore, test: FeatureStore, pool: pd.DataFrame, test_videos: pd.DataFrame
) -> None:
    manifests = [store.provenance.get("manifest", {}).get("digest") for store in (train, test)]
    if manifests[0] != manifests[1]:
        return  # another data set, whose ids may coincide
    if overlap := sorted(set(pool.index) & set(test_videos.index)):
        raise HiProbeError(
            f"{train.path}: {len(overlap)} videos are both to train and to test on, for example "
            f"{overlap[0]!r}. Choose other splits."
        )


def _parts_folder(config: SweepConfig, out: Path) -> Path:
    """Results so far, of this very grid on these very stores."""
    stores = [*config.stores, *([config.test_store] if config.test_store else [])]
    opened = [FeatureStore.open(store) for store in stores]
    contents = [(store.provenance, len(store.segments)) for store in opened]
    identity = json.dumps([asdict(config), contents], default=str, sort_keys=True)
    name = hashlib.sha256(identity.encode()).hexdigest()[:12]
    folder = out.with_name(f"{out.name}.parts-{name}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _part(folder: Path, task: Task) -> Path:
    store = hashlib.sha256(str(task.store).encode()).hexdigest()[:8]
    return folder / f"{store}-layer-{task.layer}.csv"


def _results(
    config: SweepConfig, tasks: list[Task], num_workers: int, scheduler: str | None
) -> Iterator[tuple[Task, pd.DataFrame]]:
    """Run tasks here, or on a Dask cluster; in the order in which they end."""
    if not num_workers and scheduler is None:
        for store, own in itertools.groupby(tasks, key=lambda task: task.store):
            prepared = prepare(config, store)
            yield from ((task, run_task(config, task, prepared)) for task in own)
        return
    from dask.distributed import Client, as_completed

    from hiprobe.store.dask_cluster import connect, local_cluster

    with ExitStack() as stack:
        if scheduler is None:
            client = stack.enter_context(Client(stack.enter_context(local_cluster(num_workers))))
        else:
            client = stack.enter_context(connect(scheduler))
        config = _absolute(config)
        of_store = {
            store: client.submit(prepare, config, store.absolute(), pure=False)
            for store in dict.fromkeys(task.store for task in tasks)
        }
        futures = {
            client.submit(run_task, config, task, of_store[task.store], pure=False): task
            for task in tasks
        }
        for future in as_completed(futures):
            yield futures[future], future.result()


def _absolute(config: SweepConfig) -> SweepConfig:
    """Workers run in other folders."""
    test_store = config.test_store.absolute() if config.test_store else None
    return replace(config, test_store=test_store)


def _with_saliency(table: pd.DataFrame) -> pd.DataFrame:
    """Add each draw's saliency over layers, and which layer DLSP chooses."""
    table["saliency"], table["is_dlsp_choice"] = np.nan, False
    for _, group in table.groupby(list(EXPERIMENT), dropna=False):
        of_layer = group.drop_duplicates("layer").set_index("layer")[list(METRICS)]
        if not (of_layer.index >= 1).any():
            continue
        saliency = dlsp({layer: LayerStatistics(*row) for layer, row in of_layer.iterrows()})
        table.loc[group.index, "saliency"] = group["layer"].map(saliency.saliency)
        table.loc[group.index, "is_dlsp_choice"] = group["layer"] == saliency.layer
    return table


def _write(table: pd.DataFrame, out: Path) -> None:
    partial = out.with_name(f"{out.name}.partial")
    if out.suffix == ".csv":
        table.to_csv(partial, index=False)
    else:
        table.to_parquet(partial, index=False)
    partial.replace(out)
