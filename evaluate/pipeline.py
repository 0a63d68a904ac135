"""The evaluation job: store + `probe.json` → scores, intervals, metrics, report.

Run by ``hiprobe evaluate``. Needs no GPU, no torch, no model and no video file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from hiprobe.evaluate.draw_errors import draw_errors
from hiprobe.evaluate.measure import few_videos, measure
from hiprobe.evaluate.peaks import peak_thumbnails
from hiprobe.evaluate.refine import Refinement
from hiprobe.evaluate.report import publish
from hiprobe.evaluate.test_set import DEFAULT_CONVENTION, Convention, TestSet
from hiprobe.store import FeatureStore, HiProbeError, Probe
from hiprobe.store.localization import DEFAULT_SIGMA
from hiprobe.store.probe_inputs import has_inputs
from hiprobe.store.probe_members import Member, check_members, layer_list, read_logits, scores_of
from hiprobe.store.provenance import Purpose
from hiprobe.store.scorers.answer_scorer import AnswerScorer
from hiprobe.store.train_test_overlap import check_overlap, files_of, files_trained_on

LAST_LAYER = "last_layer"
LIBRARIES = ("hiprobe", "numpy", "scipy", "scikit-learn", "zarr")


@dataclass(frozen=True)
class EvaluateConfig:
    """One evaluation.

    Attributes
    ----------
    store, probe, results : Path
    split : str
        Videos to evaluate.
    sigma : float
        Width of the smoothing kernel in segments.
    threshold : float or None
        None takes the probe's.
    num_resamples, seed : int
        Of the bootstrap over videos.
    manifest : Path or None
        Labels, splits and annotations from here instead of the store's.
    convention : Convention
        How annotations become labels of frames.
    allow_overlap : bool
        Evaluate videos that were trained on too, with a warning.
    refine : {'within-video'} or None
        Refine scores over similar segments; see `hiprobe.evaluate.refine`.
    """

    store: Path
    probe: Path
    results: Path
    split: str = "test"
    sigma: float = DEFAULT_SIGMA
    threshold: float | None = None
    num_resamples: int = 1000
    seed: int = 0
    manifest: Path | None = None
    convention: Convention = DEFAULT_CONVENTION
    allow_overlap: bool = False
    refine: str | None = None


def run_evaluate(
    config: EvaluateConfig, on_step: Callable[[str], None] = lambda step: None
) -> dict[str, Any]:
    """Score the test videos, measure, and write the results' folder.

    Returns
    -------
    dict
        The content of ``metrics.json``.

    Raises
    ------
    HiProbeError
        The probe is of another model, or reads layers that the store lacks; training and test
        videos overlap, there are no test videos, or an annotation does not fit its video.
    """
    store, probe = FeatureStore.open(config.store), Probe.load(config.probe)
    other_settings = _check_same_model(store, probe, config)
    _check_layers(store, probe, config)
    test = TestSet.of_store(store, config.split, config.manifest, config.convention)
    trained = [probe.training, *(draw.training for draw in probe.draws)]
    overlap = check_overlap(
        dict(itertools.chain.from_iterable(files_trained_on(one).items() for one in trained)),
        files_of(store, test.videos.index),
        same_manifest=probe.origin.same_manifest(store.origin),
        allow=config.allow_overlap,
        where=config.probe,
    )
    on_step("scoring")
    refinement = Refinement.of(config.refine, store) if config.refine else None
    compared = _compared(probe, store, test)
    # Some videos at a time: a layer of a large test set does not fit into memory.
    ensembles = [probe.members, *(draw.members for draw in probe.draws)]
    found = read_logits([*ensembles, *([one] for one in compared.values())], test.states)
    (logits, *further), others = found[: len(ensembles)], found[len(ensembles) :]
    threshold = probe.threshold["value"] if config.threshold is None else config.threshold
    refine = _refiner(refinement, test)
    scored = test.score(refine(probe.scores_of(logits)), config.sigma, threshold)
    metrics = measure(scored, config.num_resamples, config.seed, on_step)
    if probe.draws:
        drawn = [
            test.score(refine(scores_of(own, draw.calibration)), config.sigma)
            for own, draw in zip(further, probe.draws, strict=True)
        ]
        seeds = [one.get("seed") for one in trained]
        metrics["draws"] = draw_errors([scored, *drawn], seeds, metrics["smoothed"]["ap_se"])
    for name, own in zip(compared, others, strict=True):
        other = test.score(refine(expit(own)), config.sigma, threshold)
        areas = other.areas(other.smoothed)
        if name == LAST_LAYER:
            metrics[name] = {"layer": compared[name].layer, **areas}
        else:
            metrics["controls"][name] = areas
    if refinement is not None:
        plain = test.score(probe.scores_of(logits), config.sigma, threshold)
        metrics["refinement"] = refinement.to_json() | {"without": plain.areas(plain.smoothed)}
    metrics |= {
        "ground_truth": config.convention.to_json(),
        "warnings": [*test.warnings, *overlap, *other_settings, *few_videos(metrics)],
        "provenance": _provenance(store, probe, config),
        "layer": probe.layer,
        "layers_read": list(probe.layers_read),
        "method": probe.method,
        "inputs": [one.to_json() for one in probe.inputs],
        "layers": probe.layers,
    }
    on_step("writing the report")
    publish(
        config.results,
        metrics=metrics,
        threshold=scored.threshold,
        videos=scored.result_videos(),
        segments=scored.table().assign(**test.windows()),
        thumbnails=peak_thumbnails(store, scored),
    )
    return metrics


def _compared(probe: Probe, store: FeatureStore, test: TestSet) -> dict[str, Member]:
    """Scorers to hold the result against: a store of few layers or taps may lack what they read."""
    listed = {**_own_answer(store), **probe.controls}
    if probe.baseline is not None:
        listed = {LAST_LAYER: probe.baseline, **listed}
    ids = list(test.videos.index)
    return {name: one for name, one in listed.items() if has_inputs(store, one.inputs, ids)}


def _own_answer(store: FeatureStore) -> dict[str, Member]:
    """p(yes) of the last layer, where the store can tell: what the model says without a probe."""
    answers = store.answers
    if answers is None or not answers.has_yes_and_no:
        return {}
    last = answers.num_layers
    return {"p_yes": Member.of(last, AnswerScorer.of(answers, last))}


def _refiner(refinement: Refinement | None, test: TestSet) -> Callable[[np.ndarray], np.ndarray]:
    """Refine (segment,) scores, or leave them as they are."""
    if refinement is None:
        return lambda scores: scores
    weights = refinement.weights(test)
    return lambda scores: np.asarray(weights @ scores)


def _check_same_model(store: FeatureStore, probe: Probe, config: EvaluateConfig) -> list[str]:
    """Refuse a probe of other states; list what else its states were extracted with."""
    comparison = probe.origin.compare(store.origin, Purpose.SCORE)
    for one in comparison.refused:
        if one.name == "num_features":
            raise HiProbeError(
                f"{config.probe}: reads states of {one.first} features, the store's have "
                f"{one.second} features."
            )
        raise HiProbeError(
            f"{config.probe}: was trained on states of another model: "
            f"{one.name.removeprefix('model.')} is {one.first!r} ({probe.origin.model.id}), the "
            f"store's is {one.second!r} ({store.origin.model.id}). Train a probe on a store of "
            "this model."
        )
    return [
        f"the probe was trained on states of another {one.name.removeprefix('model.')}: "
        f"{one.first!r}, the store's is {one.second!r}"
        for one in comparison.warned
    ]


def _check_layers(store: FeatureStore, probe: Probe, config: EvaluateConfig) -> None:
    """Refuse a store without the layers, taps and prompts that the probe reads."""
    members = [*probe.members, *(one for draw in probe.draws for one in draw.members)]
    check_members(store, (one for one in members if not one.is_plain), str(config.probe))
    plain = {one.layer for one in members if one.is_plain}
    missing = sorted(plain - set(store.layers))
    if missing:
        needed = layer_list(plain)
        raise HiProbeError(
            f"{config.probe}: reads layers {needed}, of which {store.path} lacks "
            f"{layer_list(missing)}. Extract with `--layers {needed}`, or train a probe "
            "on layers that the store has."
        )


def _scorer_settings(probe: Probe) -> dict[str, Any]:
    """What all members' scorers have in common, without their weights."""
    first, *others = [member.scorer for member in probe.members]
    return {
        name: value
        for name, value in first.items()
        if isinstance(value, int | float | str)
        and name != "skops"
        and all(other.get(name) == value for other in others)
    }


def _provenance(store: FeatureStore, probe: Probe, config: EvaluateConfig) -> dict[str, Any]:
    """How the results were made, without the probe's weights and lists of videos."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": {
            "split": config.split,
            "sigma_segments": config.sigma,
            "refine": config.refine,
            "threshold": "probe" if config.threshold is None else config.threshold,
            "manifest": str(config.manifest.absolute()) if config.manifest else None,
        },
        "probe": {
            "path": str(config.probe.absolute()),
            "layer": probe.layer,
            "layers": list(probe.layers_read),
            "scorer": _scorer_settings(probe),
            "threshold": probe.threshold,
            "training": {k: v for k, v in probe.training.items() if k not in ("video_ids", "files")}
            | {"num_videos": len(probe.training["video_ids"])},
            "store": probe.store.get("path"),
        },
        "store": {"path": str(config.store.absolute()), **store.provenance},
        "libraries": {name: version(name) for name in LIBRARIES},
    }
