"""Rows of the LM head for some answer words, read from the checkpoint: the bare model has no head.

What follows the final norm is one product with the head's matrix in every family. Where a model
ends otherwise (another norm, scaled or capped logits), nothing is read: no product would be right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from hiprobe.extract.internvl_chat import weight_files
from hiprobe.store import ModelError
from hiprobe.store.answer_rows import Answers

WORDS = (
    *("yes", "Yes", "YES", " yes", " Yes", " YES", "no", "No", "NO", " no", " No", " NO"),
    *("A", "B", " A", " B", *map(str, range(10))),
)
# How vocabularies write a space: byte-level BPE's, SentencePiece's.
SPACES = ("Ġ", "▁")
# InternLM2 calls its head `output`.
HEAD = re.compile(
    r"(?:model\.)?(?:language_model\.)?lm_head\.(weight|bias)|language_model\.output\.(weight|bias)"
)
# Settings of decoders whose logits are more than the product.
SCALES = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def read_answers(
    asked: Sequence[str], folder: Path, model: Any, decoder: Any, tokenizer: Any
) -> Answers | None:
    """Read the rows of the usual answer words, and of those that are asked for.

    Parameters
    ----------
    asked : sequence of str
        Words that must be one token; of the usual ones, those are taken that are.
    folder : Path
        The checkpoint's.
    model, decoder : Transformers model
        The bare one as loaded, without hooks, and its language model.
    tokenizer : Transformers tokenizer

    Returns
    -------
    Answers or None
        None where the model does not end as described above and no words are asked for.

    Raises
    ------
    ModelError
        A word is several tokens, or answers are asked for and cannot be read.
    """
    tokens = _tokens(asked, tokenizer)
    config = decoder.config
    norm = _rms_norm(decoder.norm, int(config.hidden_size))
    is_plain = all(getattr(config, name, None) in (None, 1, 1.0) for name in SCALES)
    rows = _head_rows([*tokens.values()], folder, model, decoder) if norm and is_plain else None
    if norm is None or rows is None:
        if asked:
            raise ModelError(
                f"--answer {asked[0]!r}: {type(model).__name__} does not end in an RMS norm and a "
                "product with an LM head that is in its checkpoint, so no answer can be read off "
                "stored states. Leave the option out."
            )
        return None
    return Answers(
        words=tuple(tokens),
        tokens=tuple(tokens.values()),
        head=rows[0],
        bias=rows[1],
        norm=norm[0],
        epsilon=norm[1],
        num_layers=len(decoder.layers),
    )


def _tokens(asked: Sequence[str], tokenizer: Any) -> dict[str, int]:
    """Words that are one token, each token once: spellings count together later."""
    found: dict[str, int] = {}
    for word in [*asked, *WORDS]:
        parts = _parts(word, tokenizer)
        if len(parts) == 1 and parts[0] not in found.values():
            found[word] = parts[0]
        elif len(parts) != 1 and word in asked:
            split = " + ".join(repr(tokenizer.decode([part])) for part in parts) or "nothing"
            raise ModelError(
                f"--answer {word!r}: is not one token of this model but {split}. An answer is read "
                "off the first token: give a word, or a spelling, that is one token."
            )
    return found


def _parts(word: str, tokenizer: Any) -> list[int]:
    """Take a word apart into tokens; nothing for what the tokenizer does not know."""
    # As a piece of the vocabulary first: SentencePiece's may put a space before whatever they
    # encode, and what is generated begins behind a line's end, without one.
    for space in SPACES if word.isascii() else ():  # bytes have other letters' names there
        piece = tokenizer.convert_tokens_to_ids(word.replace(" ", space))
        if piece not in (None, tokenizer.unk_token_id):
            return [piece]
    parts = tokenizer.encode(word, add_special_tokens=False)
    return [] if tokenizer.unk_token_id in parts else list(parts)


def _rms_norm(norm: Any, width: int) -> tuple[np.ndarray, float] | None:
    """Weight and epsilon of a norm, if it is an RMS norm with these; it is tried out."""
    weight = getattr(norm, "weight", None)
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if weight is None or epsilon is None or tuple(weight.shape) != (width,):
        return None
    plain = weight.detach().float().cpu()
    values = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        own = deepcopy(norm).to("cpu", torch.float32)(values)
    scaled = values * torch.rsqrt(values.square().mean(dim=-1, keepdim=True) + epsilon)
    for factor in (plain, 1 + plain):  # the second is Gemma's
        if torch.allclose(own, scaled * factor, rtol=1e-4, atol=1e-5):
            return factor.numpy(), float(epsilon)
    return None


def _head_rows(
    tokens: Sequence[int], folder: Path, model: Any, decoder: Any
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and biases of the head, in the precision that the model has."""
    found = _stored_rows(tokens, folder)
    if "weight" not in found:
        if not getattr(model.config, "tie_word_embeddings", False):
            return None
        # No copy of its own: the embeddings, which are never quantised.
        embeddings = decoder.get_input_embeddings().weight.detach()
        found["weight"] = embeddings[torch.tensor(tokens, device=embeddings.device)]
    weight = found["weight"]
    if not weight.is_floating_point() or weight.shape[1] != decoder.config.hidden_size:
        return None
    bias = found.get("bias", torch.zeros(len(tokens)))
    rows = (values.to(model.dtype).float().cpu().numpy() for values in (weight, bias))
    return next(rows), next(rows)


def _stored_rows(tokens: Sequence[int], folder: Path) -> dict[str, torch.Tensor]:
    """Take these rows of the head, if the checkpoint's files have one; they are not read whole."""
    found: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dict
                    if kind := _kind(name):
                        rows = file.get_slice(name)
                        found[kind] = torch.cat([rows[token : token + 1] for token in tokens])
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            found |= {kind: stored[name][list(tokens)] for name in stored if (kind := _kind(name))}
    return found


def _kind(name: str) -> str:
    """``weight`` or ``bias`` for a name of the LM head's in a checkpoint, else nothing."""
    match = HEAD.fullmatch(name)
    return (match[1] or match[2]) if match else ""
