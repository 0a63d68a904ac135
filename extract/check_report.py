"""What `hiprobe check` has found: its report, and ``check.json``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hiprobe.extract.check_numbers import FAILED, Agreement, Finding
from hiprobe.store import HiProbeError
from hiprobe.store.single_files import write_json

SCHEMA = "hiprobe-check-1"


@dataclass
class CheckReport:
    """What was found; filled as the check goes on.

    Attributes
    ----------
    machine : dict
        See `check_speed.machine`.
    model : dict
        The provenance that a store would have of it, with ``num_parameters``.
    inputs : list of dict
        For each video: ``name``, ``width``, ``height``, ``fps``, ``num_frames``,
        ``tokens_per_segment`` and the ``text`` that the model sees.
    findings : list of Finding
    agreement : dict of str to Agreement
        ``generate``, ``one_at_a_time``, ``float32``.
    non_finite : dict of str to int
        Per layer, the values that are not finite.
    kernels : dict
        See `check_speed.kernels`.
    batches : list of dict
        See `check_speed.time_batches`.
    description : str
        What the model says of the first segment.
    projection : dict
        See `check_projection.project`.
    seconds : float
        That the check took.
    """

    machine: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    agreement: dict[str, Agreement] = field(default_factory=dict)
    non_finite: dict[str, int] = field(default_factory=dict)
    kernels: dict[str, Any] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    description: str = ""
    projection: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failed(self) -> list[Finding]:
        """What is not as it should be."""
        return [one for one in self.findings if one.status == FAILED]

    def save(self, path: Path) -> None:
        """Write ``check.json``."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(path, {"schema": SCHEMA, "created": now} | asdict(self))

    def add(self, name: str, key: str, agreement: Agreement) -> None:
        """Keep a comparison, and what it says."""
        self.agreement[key] = agreement
        self.findings.append(agreement.finding(name))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Make a step that ends in an error a finding; the next ones may still tell something."""
        try:
            yield
        except (MemoryError, RuntimeError, ValueError, HiProbeError) as error:
            text = (
                str(error)
                if isinstance(error, HiProbeError)
                else f"{type(error).__name__}: {error}"
            )
            self.findings.append(Finding(name, FAILED, text))
