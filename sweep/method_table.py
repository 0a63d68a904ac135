"""All methods that a store's taps allow, in one table: ``hiprobe table methods``.

Every method learns from the same draws of training videos and is tested on the same videos with the
same smoothing, and each is compared with the paper's on the same resampled videos.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from hiprobe.evaluate.comparison import holm, resample_videos
from hiprobe.evaluate.measure import controls
from hiprobe.evaluate.metrics import METRICS as AREAS
from hiprobe.evaluate.metrics import Ranking
from hiprobe.evaluate.refine import Refinement
from hiprobe.evaluate.scored import ScoredSegments
from hiprobe.evaluate.test_set import TestSet
from hiprobe.probe.answers import SEVERITY, severity_prompts
from hiprobe.probe.pipeline import METHODS, UNTRAINED, ProbeConfig, run_probe
from hiprobe.store import FeatureStore, HiProbeError, Probe
from hiprobe.store.probe_file import DEFAULT_METHOD
from hiprobe.store.probe_inputs import has_inputs
from hiprobe.store.probe_members import Member, read_logits
from hiprobe.store.single_files import make_folder
from hiprobe.store.taps import FRAMES_LAST, FRAMES_MEAN, HIDDEN_STATES
from hiprobe.sweep.grid import Draw
from hiprobe.sweep.layout import METRICS, Table
from hiprobe.sweep.measured import variant_areas
from hiprobe.sweep.paired import paired_difference, weighted_metrics
from hiprobe.sweep.prepared import Prepared, prepare
from hiprobe.sweep.table_file import write_table
from hiprobe.sweep.table_rows import TableConfig, averaged_row, finished

CONTROL = "control: "
PAPERS = "hiprobe, dlsp (the paper's)"
NUM_RESAMPLES = 1000
# For methods that learn nothing of the training videos.
NO_DRAW = {"fraction": 1.0, "num_videos": None}


@dataclass(frozen=True)
class Scored:
    """One setting on the test videos.

    Attributes
    ----------
    rankings : list of Ranking
        One a draw.
    rows : list of dict
        The draws' figures: ``draw, layers``, the table's metrics and ``auc_se``.
    """

    rankings: list[Ranking] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, scored: ScoredSegments, draw: int, layers: Sequence[int], cut: bool) -> None:
        """Add a draw's scores; what is not cut by a threshold has no areas of what is."""
        ranking = scored.ranking(scored.smoothed)
        row: dict[str, Any] = {"draw": draw, "layers": ",".join(map(str, layers))}
        row |= dict.fromkeys(METRICS, np.nan) | variant_areas(scored, "smoothed", "")
        if cut:
            row |= variant_areas(scored, "localized", "localized_")
            row |= variant_areas(scored, "binary", "binary_")
        self.rankings.append(ranking)
        self.rows.append(row | {"auc_se": ranking.auc_standard_error()})


def methods(stores: Sequence[Path], config: TableConfig) -> Table:
    """Put all methods of each store into one table, each beside the paper's.

    Raises
    ------
    HiProbeError
        Nothing to train or test on; or the paper's method itself cannot be had.
    """
    make_folder(config.out)
    notes = [
        "AUC − paper's: difference to the paper's method over the same draws and resampled videos, "
        "with its 95 % interval; p with Holm's correction, for methods and for controls.",
        "Controls look at no content (the video-level oracle at the labels), or at less of it: the "
        "vision tower alone, and the last layer.",
    ]
    rows: list[dict[str, Any]] = []
    experiments = []
    for path in stores:
        found, num_videos, said = _of_store(path, config)
        tables = {name: pd.DataFrame(one.rows) for name, one in found.items()}
        rankings = {name: one.rankings for name, one in found.items()}
        compared = _differences(rankings, num_videos)
        rows += [
            averaged_row(name, path, path, table) | compared[name] for name, table in tables.items()
        ]
        experiments += [one.assign(store=str(path), setting=name) for name, one in tables.items()]
        notes += said
    write_table(pd.concat(experiments), config.out / "methods-experiments.csv")
    return finished("methods", rows, [FeatureStore.open(path) for path in stores], config, notes)


def _settings(store: FeatureStore) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name what can be tried on a store, the paper's first, with the options of `ProbeConfig`."""
    yield PAPERS, {"layer": "dlsp"}
    yield "hiprobe, upper-half", {}
    for tap in store.taps:
        if tap != HIDDEN_STATES:
            yield f"hiprobe, dlsp, {tap}", {"layer": "dlsp", "tap": tap}
    of_ordinal = set(severity_prompts(store.prompts, SEVERITY).values())
    questions = [one for one in store.prompts[1:] if one not in of_ordinal]
    for prompt in questions:
        yield f"hiprobe, dlsp, prompt {prompt}", {"layer": "dlsp", "prompt": prompt}
    for method in METHODS:
        if method != DEFAULT_METHOD:
            yield method, {"method": method, **(NO_DRAW if method in UNTRAINED else {})}
    for prompt in questions:
        yield f"answers, prompt {prompt}", {"method": "answers", "prompt": prompt, **NO_DRAW}
    if FRAMES_LAST in store.taps:
        yield f"spherical, {FRAMES_LAST}", {"method": "spherical", "tap": FRAMES_LAST}


def _of_store(path: Path, config: TableConfig) -> tuple[dict[str, Scored], int, list[str]]:
    """Score all settings of a store, count the test videos, and say what its taps do not allow."""
    # Thresholds are each method's own: what the sweep knows of them is not asked.
    sweep = replace(config.sweep, stores=(path,), scorers=("logistic",), rules=(), target_fars=())
    prepared = prepare(sweep, path)
    store, notes = prepared.train, list(prepared.warnings)
    probes: dict[str, list[Probe]] = {}
    listed = list(_settings(store))
    for done, (name, options) in enumerate(listed):
        config.on_task(done, len(listed))
        try:
            probes[name] = [_probe(path, config, draw, options) for draw, _ in prepared.draws]
        except HiProbeError as error:
            if name == PAPERS:
                raise
            notes.append(f"{name} is left out: {error}")
    config.on_task(len(listed), len(listed))
    return _scored(prepared, probes, config.sweep.sigma), len(prepared.test.videos), notes


def _probe(path: Path, config: TableConfig, draw: Draw, options: Mapping[str, Any]) -> Probe:
    """Make one draw's probe, as ``hiprobe probe`` does."""
    sweep = config.sweep
    made = ProbeConfig(
        path,
        split=sweep.train_split,
        fraction=draw.fraction,
        num_videos=draw.num_videos,
        seed=draw.seed,
        labels=sweep.labels,
        samples_per_video=sweep.samples_per_video,
        kappa=sweep.kappas[0],
        l2=sweep.l2s[0],
        manifest=sweep.manifest,
        mil=sweep.mil if options.get("method", DEFAULT_METHOD) == DEFAULT_METHOD else 0,
    )
    return run_probe(replace(made, **options))


def _scored(
    prepared: Prepared, probes: Mapping[str, Sequence[Probe]], sigma: float
) -> dict[str, Scored]:
    """Score the test videos with all probes and what they are held against, in few reads."""
    test, papers = prepared.test, probes[PAPERS]
    compared = _compared(test, papers)
    ensembles = [one.members for own in probes.values() for one in own]
    ensembles += [(one,) for own in compared.values() for one in own]
    logits = iter(read_logits(ensembles, test.states))
    found: dict[str, Scored] = {}
    for name, own in probes.items():
        found[name] = Scored()
        for draw, probe in enumerate(own):
            scores = probe.scores_of(next(logits))
            scored = test.score(scores, sigma, probe.threshold["value"])
            found[name].add(scored, draw, probe.layers_read, cut=True)
            if name == PAPERS:
                _refined(found, test, scores, draw, probe, sigma)
                _without_content(found, scored, draw)
    for name, members in compared.items():
        found[name] = Scored()
        for draw, member in enumerate(members):
            scored = test.score(expit(next(logits)), sigma)
            found[name].add(scored, draw, [member.layer], cut=False)
    controls_last = sorted(found, key=lambda name: name.startswith(CONTROL))
    return {name: found[name] for name in controls_last}


def _compared(test: TestSet, papers: Sequence[Probe]) -> dict[str, list[Member]]:
    """Simpler scorers, one a draw, where all draws have them and the test videos have the taps."""
    assert test.store is not None
    listed = {f"{CONTROL}last layer": [probe.baseline for probe in papers]}
    for name in papers[0].controls:
        title = f"{CONTROL}{name.replace('_', ' ')}"
        listed[title] = [probe.controls.get(name) for probe in papers]
    ids = list(test.videos.index)
    return {
        name: [one for one in own if one is not None]
        for name, own in listed.items()
        if all(one is not None and has_inputs(test.store, one.inputs, ids) for one in own)
    }


def _refined(
    found: dict[str, Scored],
    test: TestSet,
    scores: np.ndarray,
    draw: int,
    probe: Probe,
    sigma: float,
) -> None:
    """Add the paper's scores refined over similar segments, where the store has the tap."""
    assert test.store is not None
    if FRAMES_MEAN not in test.store.taps:
        return
    weights = Refinement.of("within-video", test.store).weights(test)
    scored = test.score(weights @ scores, sigma, probe.threshold["value"])
    own = found.setdefault(f"{PAPERS}, refined within video", Scored())
    own.add(scored, draw, probe.layers_read, cut=True)


def _without_content(found: dict[str, Scored], scored: ScoredSegments, draw: int) -> None:
    """Add the controls that know no content within a video."""
    for name, scores in controls(scored).items():
        own = found.setdefault(f"{CONTROL}{name.replace('_', ' ')}", Scored())
        own.add(replace(scored, smoothed=scores), draw, [], cut=False)


def _differences(
    rankings: Mapping[str, list[Ranking]], num_videos: int
) -> dict[str, dict[str, float]]:
    """Each setting's AUC less the paper's, with interval and p, on the same resampled videos."""
    names = list(rankings)
    listed = [rankings[name] for name in names]
    points = weighted_metrics(listed, None)
    assert points is not None, "a test set of both classes"
    papers = names.index(PAPERS)

    def mean_differences(weights: np.ndarray) -> np.ndarray | None:
        values = weighted_metrics(listed, weights)
        return None if values is None else (values - values[papers]).mean(axis=1)

    draws = resample_videos(
        mean_differences, num_videos, NUM_RESAMPLES, 0, lambda done, total: None
    )
    area = AREAS.index("auc")
    others = [index for index in range(len(names)) if index != papers]
    own = [
        paired_difference(points[[papers, index], :, area], draws[:, index, area], num_videos)
        for index in others
    ]
    # Controls are no candidates: what they add to the number of tests is not held against those.
    is_control = np.array([names[index].startswith(CONTROL) for index in others])
    corrected = np.empty(len(own))
    for group in (is_control, ~is_control):
        corrected[group] = holm([own[i]["p_value"] for i in np.flatnonzero(group)])
    nothing = dict.fromkeys(("auc_difference", "auc_low", "auc_high", "auc_p_holm"), np.nan)
    found = {PAPERS: nothing}
    for index, one, p in zip(others, own, corrected, strict=True):
        found[names[index]] = {
            "auc_difference": one["difference"],
            "auc_low": one["interval"]["low"],
            "auc_high": one["interval"]["high"],
            "auc_p_holm": float(p),
        }
    return found
