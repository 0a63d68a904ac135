"""What a store keeps of the LM head: rows of some answer words, and the final norm.

With them the model's own answer is read off stored states: the last layer's logits, and those that
every layer would give (the logit lens; nostalgebraist, "interpreting GPT", 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import zarr

ATTRIBUTE = "answers"
ANSWER, HEAD, BIAS, NORM = "answer", "answer_head", "answer_bias", "final_norm"
# Dimensions and data type of each array.
ARRAYS = {
    ANSWER: (("answer",), "string"),
    HEAD: (("answer", "feature"), "float32"),
    BIAS: (("answer",), "float32"),
    NORM: (("feature",), "float32"),
}
RMS = "rms"
YES, NO = ("yes",), ("no",)
ROWS_AT_ONCE = 4096  # bounds the memory of normed copies


@dataclass(frozen=True, eq=False)
class Answers:
    """Rows of the LM head for words that are one token, and what comes before the head.

    Attributes
    ----------
    words : tuple of str
        As spelled, also with a leading space; no two are the same token.
    tokens : tuple of int
        Their numbers in the model's vocabulary.
    head : (answer, feature) float32
    bias : (answer,) float32
        0 where the head has none.
    norm : (feature,) float32
        What the final RMS norm multiplies by.
    epsilon : float
        What it adds to the mean square.
    num_layers : int
        L: the layer of this number is stored after the norm.
    """

    words: tuple[str, ...]
    tokens: tuple[int, ...]
    head: np.ndarray
    bias: np.ndarray
    norm: np.ndarray
    epsilon: float
    num_layers: int

    def __eq__(self, other: object) -> bool:
        """Whether they say the same of the same words, in whatever order."""
        return isinstance(other, Answers) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(frozenset(self.tokens))

    def _content(self) -> tuple[Any, ...]:
        rows = zip(self.words, self.tokens, self.head, self.bias, strict=True)
        of_words = {word: (token, row.tobytes(), bias) for word, token, row, bias in rows}
        return of_words, self.norm.tobytes(), self.epsilon, self.num_layers

    def with_more(self, other: Answers, words: Sequence[str]) -> Self:
        """Put another's rows of some words behind these; a token that is here already stays.

        Raises
        ------
        ValueError
            The other is of another LM head, another norm before it or another tokenizer.
        """
        known = dict(zip(self.words, self.tokens, strict=True))
        given = dict(zip(other.words, other.tokens, strict=True))
        if any(given.get(word, token) != token for word, token in known.items()):
            raise ValueError("words are other tokens")
        common = [token for token in self.tokens if token in other.tokens]
        own, others = self._of_tokens(common), other._of_tokens(common)
        if replace(own, words=others.words) != others:
            raise ValueError("the rows of the LM head or the norm before it are others")
        more = [
            token for word, token in given.items() if word in words and token not in self.tokens
        ]
        added = other._of_tokens(more)
        return replace(
            self,
            words=self.words + added.words,
            tokens=self.tokens + added.tokens,
            head=np.concatenate([self.head, added.head]),
            bias=np.concatenate([self.bias, added.bias]),
        )

    def _of_tokens(self, tokens: Sequence[int]) -> Self:
        places = [self.tokens.index(token) for token in tokens]
        return replace(
            self,
            words=tuple(self.words[place] for place in places),
            tokens=tuple(tokens),
            head=self.head[places],
            bias=self.bias[places],
        )

    def __repr__(self) -> str:
        return f"Answers({', '.join(map(repr, self.words))})"

    def logits(self, states: np.ndarray, layer: int) -> np.ndarray:
        """Read the answers' logits off states of a layer, as the model itself ends.

        Parameters
        ----------
        states : (segment, feature) float32
            ``hidden_states`` of the layer, as stored.
        layer : int
            The last one is after the final norm already; to others it is applied here.

        Returns
        -------
        (segment, answer) float64
            See `head_logits`.
        """
        norm = None if layer == self.num_layers else self.norm
        return head_logits(states, self.head, self.bias, norm, self.epsilon)

    def columns(self, words: Sequence[str]) -> list[int]:
        """Which answers are spellings of words: but for case and spaces around they are equal."""
        plain = {word.strip().casefold() for word in words}
        return [n for n, own in enumerate(self.words) if own.strip().casefold() in plain]

    @property
    def has_yes_and_no(self) -> bool:
        """Whether p(yes) can be read: some spelling of each is one token."""
        return bool(self.columns(YES) and self.columns(NO))

    def yes_log_odds(self, states: np.ndarray, layer: int) -> np.ndarray:
        """Log odds of yes against no, in all their spellings; see `logits` and `log_odds`."""
        return log_odds(self.logits(states, layer), self.columns(YES), self.columns(NO))

    def as_record(self) -> dict[str, Any]:
        """What the store's attribute says, beside the arrays."""
        return {
            "tokens": list(self.tokens),
            "norm": RMS,
            "epsilon": self.epsilon,
            "num_layers": self.num_layers,
        }

    def as_arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a store, by name."""
        words = np.array(self.words, dtype=np.dtypes.StringDType())
        return {ANSWER: words, HEAD: self.head, BIAS: self.bias, NORM: self.norm}

    @classmethod
    def of(cls, record: Any, arrays: Mapping[str, np.ndarray], num_features: int) -> Self:
        """Put together what a store holds.

        Raises
        ------
        ValueError
            It does not belong together.
        """
        if not isinstance(record, Mapping):
            raise ValueError(f"{ATTRIBUTE} is {record!r}"[:200])
        tokens, epsilon = record.get("tokens"), record.get("epsilon")
        num_layers = record.get("num_layers")
        words = tuple(map(str, arrays[ANSWER]))
        if record.get("norm") != RMS or type(num_layers) is not int or type(epsilon) is not float:
            raise ValueError(f"{ATTRIBUTE} is {record!r}"[:200])
        if not isinstance(tokens, list) or any(type(token) is not int for token in tokens):
            raise ValueError(f"{ATTRIBUTE}: tokens are {tokens!r}"[:200])
        sizes = {"answer": len(words), "feature": num_features}
        for name, (dims, dtype) in ARRAYS.items():
            expected = tuple(sizes[dim] for dim in dims)
            if arrays[name].shape != expected:
                raise ValueError(f"{name} has the shape {arrays[name].shape}, expected {expected}")
            if dtype == "float32" and not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} has values that are not finite")
        if not len(tokens) == len({*tokens}) == len(words) == len({*words}):
            raise ValueError(f"{ATTRIBUTE}: {len(words)} words, {len(tokens)} tokens")
        head, bias, norm = (arrays[name] for name in (HEAD, BIAS, NORM))
        return cls(words, tuple(tokens), head, bias, norm, epsilon, num_layers)


def write_answers(group: zarr.Group, answers: Answers, compressors: Any, num_kept: int = 0) -> None:
    """Write the arrays of answers; the attribute that makes them count is the caller's to write.

    Parameters
    ----------
    group : zarr.Group
    answers : Answers
    compressors : codecs
    num_kept : int
        So many of the first are in the store, and stay untouched.
    """
    values = answers.as_arrays()
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name, (dims, dtype) in ARRAYS.items():
            array: Any = group.get(name)
            shape = values[name].shape
            if array is None:
                array = group.create_array(
                    name,
                    shape=shape,
                    dtype=dtype,
                    compressors=compressors,
                    dimension_names=dims,
                )
            elif array.shape[0] < shape[0]:
                # Longer ones are what a killed call left: no file that it made is taken away.
                array.resize(shape)
            if dims[0] == "answer":
                array[num_kept : shape[0]] = values[name][num_kept:]
            elif not num_kept:
                array[...] = values[name]


def head_logits(
    states: np.ndarray,
    head: np.ndarray,
    bias: np.ndarray,
    norm: np.ndarray | None,
    epsilon: float,
) -> np.ndarray:
    """Apply the final RMS norm, unless it is None, and rows of the LM head.

    Parameters
    ----------
    states : (segment, feature) float
    head : (answer, feature) float
    bias : (answer,) float
    norm : (feature,) float or None
    epsilon : float

    Returns
    -------
    (segment, answer) float64
        ``norm(h) · head + bias`` with ``norm(h) = w · h / sqrt(mean(h²) + ε)``.
    """
    found = np.empty((len(states), len(head)))
    columns = head.astype(np.float64).T
    for start in range(0, len(states), ROWS_AT_ONCE):
        rows = states[start : start + ROWS_AT_ONCE].astype(np.float64)
        if norm is not None:
            squares = np.mean(rows**2, axis=1, keepdims=True)
            rows = rows / np.sqrt(squares + epsilon) * norm
        found[start : start + len(rows)] = rows @ columns + bias
    return found


def log_odds(logits: np.ndarray, positive: Sequence[int], negative: Sequence[int]) -> np.ndarray:
    """Log odds of the positive words against the negative ones.

    Their logistic is the softmax's probability of the positive words among all of these.

    Parameters
    ----------
    logits : (segment, answer) float64
    positive, negative : sequence of int
        Columns: spellings of one word add up, as their probabilities do.

    Returns
    -------
    (segment,) float64
        ``log Σ exp(positive) - log Σ exp(negative)``.
    """
    yes, no = (np.logaddexp.reduce(logits[:, list(own)], axis=1) for own in (positive, negative))
    return yes - no
