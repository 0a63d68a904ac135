"""A model's chat template, which is a program of the model folder's: rendered, but on a lead.

Transformers renders it in a sandbox, which keeps it from the machine but not from running for ever.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from threading import Thread
from typing import Any

from jinja2 import Environment
from transformers import Qwen3VLProcessor

# A template of a few kilobytes and one message: a millisecond, and minutes are not enough for a
# hostile one.
MAX_SECONDS = 20.0
VIDEO = "<|video_pad|>"
WRAPPED_VIDEO = f"<|vision_start|>{VIDEO}<|vision_end|>"


def chat_text(processor: Any, prompt: str, *, keep_wrapped: bool = False) -> str:
    """Put a video and a prompt into the processor's chat template, up to where the answer begins.

    Parameters
    ----------
    processor : Transformers processor
    prompt : str
    keep_wrapped : bool
        Leave Qwen3-VL's vision tokens around the whole video. Its processor puts a pair around each
        pair of frames; the template's own goes with Transformers up to 5.22, and stayed later.

    Raises
    ------
    ValueError
        It has no chat template, or one that is broken, forbidden, or does not end.
    """
    _check_powers(getattr(processor, "chat_template", None))
    content = [{"type": "video"}, {"type": "text", "text": prompt}]
    text = _within(
        MAX_SECONDS,
        lambda: processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        ),
    )
    if not isinstance(text, str):
        raise ValueError(f"it gives a {type(text).__name__}, not a text")
    if isinstance(processor, Qwen3VLProcessor) and not keep_wrapped:
        return text.replace(WRAPPED_VIDEO, VIDEO)
    return text


def _check_powers(templates: Any) -> None:
    """Refuse `**`: one step of ``9**9**9`` takes for ever, and cannot be stopped from outside."""
    named = templates if isinstance(templates, dict) else {"": templates}
    for template in named.values():
        tokens = Environment().lex(template) if isinstance(template, str) else ()
        if any(kind == "operator" and value == "**" for _, kind, value in tokens):
            raise ValueError("it raises numbers to powers")


class _Stopped(BaseException):
    """Raised in a thread from outside."""


def _within(seconds: float, function: Callable[[], Any]) -> Any:
    """Call a function in a thread; whatever goes wrong in it, or takes longer, is a ValueError."""
    results: list[Any] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(function())
        except Exception as error:
            errors.append(error)
        except _Stopped:
            pass

    # Not a signal's handler, which only a main thread may set: Dask's workers have others.
    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        stopped = ctypes.py_object(_Stopped)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), stopped)
        raise ValueError(f"it does not end: stopped after {seconds:.0f} s")
    if errors:
        raise ValueError(f"{type(errors[0]).__name__}: {errors[0]}") from errors[0]
    return results[0]
