"""The model's own answer: p(yes), and ordinal severity over several prompts. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
from scipy.special import expit, logit

from hiprobe.store import fields
from hiprobe.store.answer_rows import NO, YES, Answers, head_logits, log_odds
from hiprobe.store.scorers.base import Scorer, vector
from hiprobe.store.scorers.packed import packed, unpacked

# Severities of exactly 0 or 1 have no log odds.
LEAST = 1e-12
MAX_PROMPTS = 1000


@dataclass(frozen=True, eq=False)
class AnswerScorer(Scorer):
    r"""Log odds of yes against no, read off states by the model's final norm and LM head.

    Of several prompts' states side by side, which ask whether the severity is at least τ = 0.1, …,
    1.0, the score is the mean of :math:`p_\tau = p(\text{yes})`, after Probe-VAD. It makes
    :math:`p_\tau` non-increasing in τ first, by isotonic regression; that leaves the mean as it is,
    for the least squares' blocks keep theirs, so it is left out here.

    Attributes
    ----------
    yes, no : (answer, feature) float64
        Rows of the LM head, one for each spelling.
    yes_bias, no_bias : (answer,) float64
    norm : (feature,) float64 or None
        The final RMS norm's weight; None for states that are after it already.
    epsilon : float
    num_prompts : int
        Whose states come side by side.
    """

    yes: np.ndarray
    no: np.ndarray
    yes_bias: np.ndarray
    no_bias: np.ndarray
    norm: np.ndarray | None
    epsilon: float
    num_prompts: int = 1

    kind: ClassVar[str] = "answers"
    takes_penalty: ClassVar[bool] = False
    needs_anomalies: ClassVar[bool] = False

    @classmethod
    def of(cls, answers: Answers, layer: int, num_prompts: int = 1) -> Self:
        """Take the rows of yes and no, for states of a layer."""
        yes, no = answers.columns(YES), answers.columns(NO)
        head, bias = answers.head.astype(np.float64), answers.bias.astype(np.float64)
        norm = None if layer == answers.num_layers else answers.norm.astype(np.float64)
        return cls(head[yes], head[no], bias[yes], bias[no], norm, answers.epsilon, num_prompts)

    @classmethod
    def fit(cls, states: np.ndarray, is_anomalous: np.ndarray, l2: float = 0.0) -> NoReturn:
        """There is nothing to learn: `of` makes it."""
        raise NotImplementedError("the answers' scorer is not fitted")

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Log odds of (sample, prompts · feature) states: (sample,) float64."""
        parts = np.split(np.asarray(states), self.num_prompts, axis=1)
        found = [self._log_odds(part) for part in parts]
        if len(found) == 1:
            return found[0]
        severity = expit(np.stack(found)).mean(axis=0)
        return np.asarray(logit(np.clip(severity, LEAST, 1 - LEAST)))

    def _log_odds(self, states: np.ndarray) -> np.ndarray:
        head = np.concatenate([self.yes, self.no])
        bias = np.concatenate([self.yes_bias, self.no_bias])
        logits = head_logits(states, head, bias, self.norm, self.epsilon)
        return log_odds(logits, range(len(self.yes)), range(len(self.yes), len(head)))

    @property
    def num_features(self) -> int:
        """Width of what it reads: of all prompts' states."""
        return self.num_prompts * self.yes.shape[1]

    def to_json(self) -> dict[str, Any]:
        """The object `scorer` of `probe.json`."""
        return {
            "kind": self.kind,
            "yes": packed(self.yes),
            "no": packed(self.no),
            "yes_bias": self.yes_bias.tolist(),
            "no_bias": self.no_bias.tolist(),
            "norm": None if self.norm is None else self.norm.tolist(),
            "epsilon": self.epsilon,
            "num_prompts": self.num_prompts,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        shape = fields.items(fields.member(fields.mapping(content["yes"], "yes"), "shape"), "yes")
        width = fields.whole(shape[-1] if shape else None, "the width of yes")
        yes, no = (unpacked(content, name, width) for name in ("yes", "no"))
        yes_bias, no_bias = (vector(content, name) for name in ("yes_bias", "no_bias"))
        for own, bias in ((yes, yes_bias), (no, no_bias)):
            if not len(own) or not width or len(bias) != len(own):
                raise ValueError(f"{len(own)} rows of {width} features, {len(bias)} biases")
        norm = None if content["norm"] is None else vector(content, "norm")
        if norm is not None and len(norm) != width:
            raise ValueError(f"norm has {len(norm)} features, yes {width}")
        epsilon = fields.number(content["epsilon"], "epsilon")
        number = fields.whole(content["num_prompts"], "num_prompts", MAX_PROMPTS)
        if epsilon < 0 or not number:
            raise ValueError(f"epsilon is {epsilon}, num_prompts {number}")
        return cls(yes, no, yes_bias, no_bias, norm, epsilon, number)
