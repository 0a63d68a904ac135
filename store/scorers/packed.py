"""Arrays inside JSON: float32 as base64, a quarter of what digits take."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from hiprobe.store import fields


def rounded(values: np.ndarray) -> np.ndarray:
    """Round to what `packed` keeps, so that a scorer scores alike before it is stored and after."""
    return values.astype(np.float32).astype(np.float64)


def packed(values: np.ndarray) -> dict[str, Any]:
    """Write a matrix: its ``shape``, and little-endian float32 row by row as ``base64``."""
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    return {"shape": list(values.shape), "base64": base64.b64encode(content).decode()}


def unpacked(content: Mapping[str, Any], name: str, num_columns: int) -> np.ndarray:
    """Read what `packed` wrote: (row, column) float64.

    Raises
    ------
    ValueError
        It is not of that width, not whole, or not finite.
    """
    parts = fields.mapping(content[name], name)
    shape = [fields.whole(one, name) for one in fields.items(fields.member(parts, "shape"), name)]
    if len(shape) != 2 or shape[1] != num_columns:
        raise ValueError(f"{name} is of shape {shape}, expected {num_columns} columns")
    data = decoded(fields.member(parts, "base64"), name)
    if len(data) != 4 * shape[0] * shape[1]:
        raise ValueError(f"{name} has {len(data)} bytes, expected those of shape {shape}")
    values = np.frombuffer(data, dtype="<f4").reshape(shape).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
    return values


def decoded(text: Any, name: str) -> bytes:
    """Read base64; anything else in it is a `ValueError`."""
    return base64.b64decode(fields.text(text, name), validate=True)
