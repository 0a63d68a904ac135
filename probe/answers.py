"""What the model itself would answer, read off stored states; nothing of it is trained.

``--method answers`` scores a segment by the probability of yes among yes and no, in all spellings
that are one token, at the answer position of one prompt: the last layer's states give exactly the
model's own; other layers' (``--layer N``) the logit lens's. ``--method ordinal``, after Probe-VAD,
reads prompts NAME-10, NAME-20, …, NAME-100 that ask whether the severity is at least 0.1, 0.2, …,
1.0: the score is the mean of their p(yes), which isotonic regression over τ leaves as it is
(`hiprobe.store.scorers.answer_scorer`). In what it differs: windows, smoothing and threshold are
this store's and this command's (theirs: 10 s at 2 frames a second every 16 frames, σ = 10 units).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from scipy.special import expit
from sklearn.metrics import roc_auc_score

from hiprobe.probe.probe_config import ProbeConfig, refuse_options
from hiprobe.probe.samples import Samples
from hiprobe.store import FeatureStore, Probe, StoreError
from hiprobe.store.answer_rows import Answers
from hiprobe.store.probe_inputs import Input, check_inputs
from hiprobe.store.probe_members import Member
from hiprobe.store.scorers.answer_scorer import AnswerScorer
from hiprobe.store.taps import HIDDEN_STATES

# Yes is as likely as no: there are no labelled samples to set another by.
EVEN_ODDS: dict[str, Any] = {"value": 0.5, "kind": "even-odds"}
SEVERITY = "severity"
PERCENT = re.compile(r"(.+)-(100|[1-9][0-9]?)")
MIN_PROMPTS = 2


def answers_probe(
    config: ProbeConfig,
    store: FeatureStore,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> Probe:
    """Score by p(yes) of one prompt.

    Raises
    ------
    HiProbeError
        The store has no answers, not this layer or prompt; an option that is not of this method.
    """
    answers = _answers(config, store)
    layer = _layer(config, answers)
    return _untrained(config, store, [Input(layer, prompt=config.prompt)], answers, {})


def ordinal_probe(
    config: ProbeConfig,
    store: FeatureStore,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> Probe:
    """Score by the mean of p(yes) over prompts that ask for rising severities.

    Raises
    ------
    HiProbeError
        As of `answers_probe`; or there are fewer than two such prompts.
    """
    answers = _answers(config, store)
    layer = _layer(config, answers)
    prompts = severity_prompts(store.prompts, config.prompt or SEVERITY)
    if len(prompts) < MIN_PROMPTS:
        raise StoreError(
            f"{store.path}: has {len(prompts)} prompts named {config.prompt or SEVERITY}-N, N from "
            f"1 to 100, expected {MIN_PROMPTS} or more: each asks whether the severity is at least "
            f"N per cent. `hiprobe extract MANIFEST {store.path} --prompt "
            f"{config.prompt or SEVERITY}-10='… at least 0.1? Answer Yes or No.' --prompt …` adds "
            "them."
        )
    inputs = [Input(layer, prompt=name) for name in prompts.values()]
    return _untrained(config, store, inputs, answers, {"severities": [*prompts]})


def severity_prompts(names: Sequence[str], stem: str) -> dict[float, str]:
    """Find prompts that ask for a severity: their names by τ, ascending.

    ``severity-30`` asks whether it is at least 0.3.
    """
    found = {
        int(match[2]) / 100: name
        for name in names
        if (match := PERCENT.fullmatch(name)) and match[1] == stem
    }
    return dict(sorted(found.items()))


def lens_auc(store: FeatureStore, samples: Samples, layer: int) -> dict[str, float]:
    """AUC of p(yes) as one layer's states would have it, over samples: the logit lens.

    A sample's p(yes) is the mean of its segments'. Yes counts as anomalous, whatever the labels: an
    AUC below ½ says that the model's answer is the wrong way round, or the prompt no such question.

    Returns
    -------
    dict
        ``lens_auc``; nothing where the store has no answers, or none for yes or for no.
    """
    answers = store.answers
    if answers is None or not answers.has_yes_and_no:
        return {}
    p_yes = samples.averaged(
        store, layer, lambda states: expit(answers.yes_log_odds(states, layer))[:, None]
    )
    return {"lens_auc": float(roc_auc_score(samples.is_anomalous, p_yes[:, 0]))}


def _answers(config: ProbeConfig, store: FeatureStore) -> Answers:
    """What the store keeps of the LM head; refuses what this method cannot heed."""
    wrong = {
        f"--tap {config.tap}": config.tap not in (None, HIDDEN_STATES),
        f"--layer {_written(config)}": len(config.given_layers) != 1 and config.layer is not None,
        f"--scorer {config.scorer}": config.scorer != "logistic",
        "--fraction": config.fraction != 1.0,
        "--num-videos": config.num_videos is not None,
        "--target-far": config.target_far is not None,
        "--calibrate": config.calibration is not None,
        "--mil": config.mil > 0,
    }
    refuse_options(
        config,
        wrong,
        "reads the model's own answer off one layer's hidden states and learns nothing",
    )
    answers = store.answers
    if answers is None:
        raise StoreError(
            f"{store.path}: keeps no answers, the rows of the LM head. The same `hiprobe extract` "
            "again adds them, without running over videos, if its model ends in an RMS norm and an "
            "LM head."
        )
    if not answers.has_yes_and_no:
        raise StoreError(
            f"{store.path}: of its answers ({', '.join(map(repr, answers.words))}) none is a "
            "spelling of yes, or none of no: neither is one token of its model."
        )
    return answers


def _written(config: ProbeConfig) -> str:
    """The layers as they were asked for."""
    return ",".join(map(str, config.given_layers)) or str(config.layer)


def _layer(config: ProbeConfig, answers: Answers) -> int:
    """The layer that is asked for, or the model's last: its own answer."""
    return config.given_layers[0] if config.given_layers else answers.num_layers


def _untrained(
    config: ProbeConfig,
    store: FeatureStore,
    inputs: Sequence[Input],
    answers: Answers,
    record: dict[str, Any],
) -> Probe:
    """Make a probe of what needs no training; no video is known to it."""
    check_inputs(store, inputs, f"--method {config.method}")
    layer = inputs[0].layer
    member = Member.of(layer, AnswerScorer.of(answers, layer, len(inputs)), inputs=tuple(inputs))
    return Probe.of_members(
        (member,),
        store={
            "path": str(config.store.absolute()),
            "provenance": store.provenance,
            "num_features": store.num_features,
        },
        layers={},
        threshold=dict(EVEN_ODDS),
        training={
            "video_ids": [],
            "files": {},
            "num_samples": 0,
            "num_anomalous_samples": 0,
            "num_videos": 0,
            "seed": config.seed,
            "layer_choice": "last" if layer == answers.num_layers else "fixed",
            "warnings": [],
        }
        | record,
        method=config.method,
    )
