"""Values of JSON objects, checked as they are read: each wrong one is a `ValueError` that names it.

A file may come from another program, an editor, or a damaged disk: a string where a number has to
be would otherwise travel on and end as a traceback far away, or as a wrong figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# int32 holds frame numbers in the store; a video's length may be padded to a multiple of 16.
MAX_FRAMES = 2**31 - 16


def number(value: Any, name: str) -> float:
    """Take a finite number, as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise ValueError(f"{name} is {_shown(value)}, expected a finite number")
    return value


def whole(value: Any, name: str, maximum: int = MAX_FRAMES) -> int:
    """Take a whole number from 0 to `maximum`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise ValueError(f"{name} is {_shown(value)}, expected a whole number from 0 to {maximum}")
    return value


def text(value: Any, name: str) -> str:
    """Take a string."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_shown(value)}, expected text")
    return value


def mapping(value: Any, name: str) -> dict[str, Any]:
    """Take an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {_shown(value)}, expected an object")
    return value


def items(value: Any, name: str) -> list[Any]:
    """Take a list."""
    if not isinstance(value, list):
        raise ValueError(f"{name} is {_shown(value)}, expected a list")
    return value


def member(content: Mapping[str, Any], name: str) -> Any:
    """Take an object's value of a name that has to be there."""
    if name not in content:
        raise ValueError(f"{name} is missing")
    return content[name]


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _shown(value: Any) -> str:
    """A value for a message; a long one is cut, a list is not written out first."""
    if isinstance(value, dict | list):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of many digits"
    return repr(value)[:60]
