"""The same recipe on further few-shot draws: how much of a result is the choice of videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.probe.samples import choose_videos, training_videos
from hiprobe.store import FeatureStore, HiProbeError, Probe
from hiprobe.store.probe_draws import Draw
from hiprobe.store.scorers import needs_anomalies

# Seeds to try for each draw before it is said that there are no more: small sets repeat by chance.
SEEDS_A_DRAW = 100


def run_repeats(
    config: ProbeConfig,
    num_draws: int,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
    on_draw: Callable[[int, int], None] = lambda done, total: None,
) -> Probe:
    """Make a probe, and fit its recipe on further draws of training videos, all different.

    Parameters
    ----------
    config : ProbeConfig
        Its seed is the first draw's; those that follow draw the others.
    num_draws : int
        Of which the first is the probe itself.
    on_layer, on_draw : callable
        Called with (layers done, layers) of a draw, and (draws done, draws).

    Returns
    -------
    Probe
        With ``draws``, where there is more than one.

    Raises
    ------
    HiProbeError
        As `run_probe`; or there are fewer different draws than are asked for.
    """
    # One draw differs from no other; and there are methods that draw nothing.
    seeds = [config.seed]
    if num_draws > 1:
        seeds = list(islice(_different_seeds(config, num_draws), num_draws))
    if len(seeds) < num_draws:
        raise HiProbeError(
            f"{config.store}: {num_draws} repeats were asked for, and only {len(seeds)} "
            f"draw{'s' * (len(seeds) != 1)} of training videos differ{'s' * (len(seeds) == 1)}. "
            "Train on a fraction below 1 or on fewer videos (--num-videos), or leave --repeats out."
        )
    probes = []
    for done, seed in enumerate(seeds):
        on_draw(done, num_draws)
        probes.append(run_probe(replace(config, seed=seed), on_layer))
    on_draw(num_draws, num_draws)
    first, *others = probes
    return replace(first, draws=tuple(map(_draw, others)))


def _different_seeds(config: ProbeConfig, num_draws: int) -> Iterator[int]:
    """Seeds from the configured one on that draw sets of videos not drawn before."""
    store = FeatureStore.open(config.store)
    pool, _ = training_videos(store, config.split, config.manifest, needs_anomalies(config.scorer))
    known = set()
    for seed in range(config.seed, config.seed + SEEDS_A_DRAW * num_draws):
        ids = choose_videos(pool["label"], config.fraction, seed, config.num_videos)
        if frozenset(ids) not in known:
            known.add(frozenset(ids))
            yield seed


def _draw(probe: Probe) -> Draw:
    """What is kept of a probe that is one draw of several."""
    training = {name: probe.training[name] for name in ("seed", "video_ids", "files")}
    return Draw(probe.members, probe.threshold, training, probe.calibration)
