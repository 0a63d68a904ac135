"""Tokenizers of the original InternVLChatModel layout, without their remote code.

Qwen2's and Llama's are Transformers' own. InternLM2's is remote code over a SentencePiece model;
here, as there, the library sentencepiece runs that model. To turn it into a model of the library
tokenizers would need the package protobuf, as Transformers' converters do, or a parser.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast, SentencePieceBackend

VISION_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
}


class InternLM2Tokenizer(SentencePieceBackend):  # type: ignore[misc]
    """The repositories' class of this name.

    Parameters
    ----------
    path : Path
        A SentencePiece model, tokenizer.model.
    added : dict of int to AddedToken
        By id. Where the model has a piece of that id the token takes its place: ``<|im_start|>`` is
        the model's ``[UNUSED_TOKEN_146]``.
    starts_with_s : bool
        Whether a text begins with ``<s>``.
    """

    def __init__(self, path: Path, added: dict[int, AddedToken], starts_with_s: bool) -> None:
        super().__init__(
            vocab_file=str(path),
            added_tokens_decoder=added,
            special_tokens_pattern="bos" if starts_with_s else "none",
            **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"},
        )
        # Transformers' own splitter walks through the text in Python: 15 ms for a prompt's 2048
        # <IMG_CONTEXT>, half of what all else costs to prepare a segment. The longest match wins.
        contents = sorted(self.added_tokens_encoder, key=len, reverse=True)
        self.tokens_trie.split = re.compile(f"({'|'.join(map(re.escape, contents))})").split

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Added tokens stand as they are, what lies between them is SentencePiece's."""
        runs = groupby(tokens, key=self.added_tokens_encoder.__contains__)
        return "".join(
            "".join(run) if is_added else self.sp_model.decode(list(run)) for is_added, run in runs
        )


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer and make sure that every added token has kept its id.

    Parameters
    ----------
    folder : Path
        A repository's files.

    Returns
    -------
    PreTrainedTokenizerBase
        With what `InternVLProcessor` asks of it: the image's tokens, and a placeholder for videos.

    Raises
    ------
    OSError, ValueError, ImportError
        A file is missing or damaged, a token is missing or has another id, or sentencepiece is not
        installed.
    """
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = _added_tokens(folder, settings)
    if not settings.get("tokenizer_class", "").startswith("InternLM2"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    elif (folder / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
    else:
        tokenizer = _internlm2_tokenizer(folder, added, settings.get("add_bos_token", True))
    vocabulary = tokenizer.get_vocab()
    for index, token in added.items():
        if (got := vocabulary.get(token.content)) != index:
            raise ValueError(f"the tokenizer gives {token.content} the id {got}, not {index}")
    if missing := {"<|im_start|>", "<|im_end|>", *VISION_TOKENS.values()} - set(vocabulary):
        raise ValueError(f"the tokenizer has no token {min(missing)}")
    for name, content in VISION_TOKENS.items():
        setattr(tokenizer, name, content)
        setattr(tokenizer, f"{name}_id", vocabulary[content])
    tokenizer.video_token = "<video>"  # a placeholder in the text; it never becomes an id
    return tokenizer


def _added_tokens(folder: Path, settings: dict[str, Any]) -> dict[int, AddedToken]:
    """Tokens beside the model's pieces, by id: of tokenizer_config.json or of the older file."""
    path = folder / "added_tokens.json"
    listed = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tokens = {
        index: AddedToken(content, normalized=False, special=True)
        for content, index in listed.items()
    }
    described = settings.get("added_tokens_decoder") or {}
    tokens |= {int(index): AddedToken(**token) for index, token in described.items()}
    return dict(sorted(tokens.items()))


def _internlm2_tokenizer(
    folder: Path, added: dict[int, AddedToken], starts_with_s: bool
) -> InternLM2Tokenizer:
    """Build it; what sentencepiece cannot read is a ValueError, as everywhere."""
    path = folder / "tokenizer.model"
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    try:
        return InternLM2Tokenizer(path, added, starts_with_s)
    except RuntimeError as error:
        raise ValueError(f"tokenizer.model is damaged: {error}") from error
