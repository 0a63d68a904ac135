"""The probing job: store → few-shot samples → scorers → threshold → `probe.json`, by a method.

Run by ``hiprobe probe``. Reads the training videos' states layer by layer; needs no GPU, no
torch and no model.

One registry; a method is one function of the configuration and the opened store that gives a
`Probe`. Evaluation needs to know nothing of it: a probe's members say which vectors they read
(`hiprobe.store.probe_inputs`) and hold a scorer (`hiprobe.store.scorers`). To add a method, write
its function, its line in `METHODS` and its name in ``cli/options.py``; one that learns from
labelled samples makes a `Recipe` and leaves the rest to `trained_probe`.
"""

from __future__ import annotations

from collections.abc import Callable

from hiprobe.probe.answers import answers_probe, ordinal_probe
from hiprobe.probe.head_method import heads_probe
from hiprobe.probe.layer_method import layers_above_0, layers_probe, measure_layers, spheres_probe
from hiprobe.probe.probe_config import ProbeConfig
from hiprobe.probe.trained import calibrate
from hiprobe.store import FeatureStore, HiProbeError, Probe

__all__ = [
    "METHODS",
    "UNTRAINED",
    "ProbeConfig",
    "calibrate",
    "layers_above_0",
    "measure_layers",
    "run_probe",
]

# The configuration, the store, and what to call with (layers done, layers).
Method = Callable[[ProbeConfig, FeatureStore, Callable[[int, int], None]], Probe]
METHODS: dict[str, Method] = {
    "hiprobe": layers_probe,
    "robust-heads": heads_probe,
    "spherical": spheres_probe,
    "answers": answers_probe,
    "ordinal": ordinal_probe,
}
# They read what the model itself says: no draw of training videos changes it.
UNTRAINED = ("answers", "ordinal")


def run_probe(
    config: ProbeConfig, on_layer: Callable[[int, int], None] = lambda done, total: None
) -> Probe:
    """Make a probe by the method asked for.

    Parameters
    ----------
    config : ProbeConfig
    on_layer : callable
        Called with (layers done, layers) as they are measured.

    Returns
    -------
    Probe
        ``training["warnings"]`` names videos that take no part, and what to keep in mind.

    Raises
    ------
    HiProbeError
        No such method; or the store, or its training videos, are not enough for it.
    """
    if config.method not in METHODS:
        raise HiProbeError(f"the method is {config.method!r}, expected {', '.join(METHODS)}.")
    return METHODS[config.method](config, FeatureStore.open(config.store), on_layer)
