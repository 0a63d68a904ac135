"""Narrow, then wide: states for a probe that there is are made as those it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hiprobe.store import ModelError, Probe
from hiprobe.store.provenance import Provenance, Purpose


def check_fits_probe(
    path: Path, states: Provenance, on_warning: Callable[[str], None] = lambda text: None
) -> None:
    """Compare the states that a run would make with those that a probe was trained on.

    Said before days of extraction, and not by `hiprobe evaluate` after them.

    Parameters
    ----------
    path : Path
        ``probe.json``.
    states : Provenance
        Of this run.
    on_warning : callable
        Called with what differs and may matter.

    Raises
    ------
    HiProbeError
        There is no probe at `path`.
    ModelError
        The probe cannot score such states.
    """
    comparison = Probe.load(path).origin.compare(states, Purpose.SCORE)
    if comparison.refused:
        lines = [f"  {one.name}: probe {one.first!r}, this run {one.second!r}"
                 for one in comparison.refused]  # fmt: skip
        raise ModelError(
            f"{path}: cannot score the states that this run would make:\n" + "\n".join(lines) + "\n"
            "Run with the model of the probe's store, or leave out --layers-from."
        )
    for one in comparison.warned:
        on_warning(f"{path}: {one.name} was {one.first!r} in training, is {one.second!r} here")
