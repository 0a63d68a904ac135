"""What a sweep's methods read, checked before anything is computed.

Methods other than the paper's are asked for as `hiprobe probe` knows them, and refuse what they
refuse there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hiprobe.probe.answers import SEVERITY, severity_prompts
from hiprobe.probe.head_method import heads_asked
from hiprobe.probe.pipeline import METHODS, UNTRAINED, ProbeConfig, run_probe
from hiprobe.store import FeatureStore, HiProbeError
from hiprobe.store.probe_file import DEFAULT_METHOD
from hiprobe.store.probe_inputs import Keywords, check_inputs
from hiprobe.store.probe_members import check_members
from hiprobe.store.taps import HEADS, HIDDEN_STATES
from hiprobe.sweep.grid import SweepConfig


def probe_config(config: SweepConfig, path: Path, method: str) -> ProbeConfig:
    """Ask for a method on a store as ``hiprobe probe`` is asked; draws and scorers are the grid's.

    What learns nothing reads the model's last layer, whatever layers the grid tries.
    """
    return ProbeConfig(
        path,
        method=method,
        layer=None if method in UNTRAINED else config.layers,
        tap=None if config.tap == HIDDEN_STATES else config.tap,
        prompt=config.prompt,
        mil=config.mil,
    )


def place_of(config: SweepConfig, store: FeatureStore, method: str) -> Keywords:
    """Tap and prompt that a method reads, for the table; several prompts are joined by commas."""
    if method == "robust-heads":
        return {"tap": HEADS, "prompt": config.prompt}
    if method == "ordinal":
        prompts = severity_prompts(store.prompts, config.prompt or SEVERITY)
        return {"tap": HIDDEN_STATES, "prompt": ",".join(prompts.values())}
    return config.place


def check_methods(config: SweepConfig) -> None:
    """Refuse methods that are none, that a store does not allow, or that options do not fit.

    Raises
    ------
    HiProbeError
        As ``hiprobe probe`` would say it.
    """
    for method in config.methods:
        if method not in METHODS:
            raise HiProbeError(f"the method is {method!r}, expected {', '.join(METHODS)}.")
    if config.rules and DEFAULT_METHOD not in config.methods:
        raise HiProbeError(
            f"the rules {', '.join(config.rules)} choose layers for the method {DEFAULT_METHOD}: "
            "ask for it too, or leave --rules out."
        )
    if config.layers is not None and {*config.methods} <= {*UNTRAINED}:
        raise HiProbeError(
            "the model's own answer is read at its last layer: leave --layers out. `hiprobe "
            "layers` shows it at every layer."
        )
    for path in config.stores:
        store = FeatureStore.open(path)
        for method in config.methods:
            _check_method(config, store, method)


def _check_method(config: SweepConfig, store: FeatureStore, method: str) -> None:
    asked = probe_config(config, store.path, method)
    if method == "robust-heads":
        heads_asked(asked, store)
    elif method in UNTRAINED:
        run_probe(asked)  # reads no states


def check_tested(
    config: SweepConfig, train: FeatureStore, tested: FeatureStore, video_ids: Sequence[str]
) -> None:
    """Refuse a store without what methods read of the test videos: a tap may have been added.

    Raises
    ------
    HiProbeError
        It says what is missing.
    """
    if config.reads_layers:
        tested.check_layers((), video_ids, **config.place)
    for method in config.methods:
        asked = probe_config(config, train.path, method)
        if method == "robust-heads":
            _, layers = heads_asked(asked, train)
            tested.check_layers(layers, video_ids, tap=HEADS, prompt=config.prompt)
        elif method in UNTRAINED:
            members = run_probe(asked).members
            check_members(tested, members, f"--method {method}")
            for one in members:
                check_inputs(tested, one.inputs, f"--method {method}", video_ids)
