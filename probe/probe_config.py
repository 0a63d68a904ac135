"""What a probing experiment is asked for, whatever its method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hiprobe.probe.layer_rules import DEFAULT_RULE
from hiprobe.probe.saliency import DEFAULT_BINS
from hiprobe.probe.samples import Samples, draw_samples
from hiprobe.store import FeatureStore, HiProbeError
from hiprobe.store.probe_file import DEFAULT_METHOD
from hiprobe.store.scorers import DEFAULT_L2


@dataclass(frozen=True)
class ProbeConfig:
    """One probing experiment.

    Attributes
    ----------
    store : Path
    split, fraction, num_videos, seed, labels, samples_per_video, manifest
        Which samples to train on; see `hiprobe.probe.samples.draw_samples`.
    layer : int, tuple of int, str or None
        The layer to read, or several, whose log odds are averaged; or the name of a rule of
        `hiprobe.probe.layer_rules`; None is the default one.
    scorer : str
        One of `hiprobe.store.scorers.SCORERS`, or ``module:Class``.
    kappa : float
        κ of the threshold, eq. 10.
    target_far : float or None
        Set the threshold for this rate of false alarms on held-out normal videos instead.
    calibration : {'platt'} or None
        Make probabilities of the scores, by the held-out segments.
    num_bins : int
        B of the entropy.
    l2 : float
        Penalty of the scorer; 0 is the paper's setting.
    mil : int
        Times to fit again on the top segments of anomalous videos.
    method : str
        One of `hiprobe.probe.pipeline.METHODS`.
    tap : str or None
        Whose layers are read; None is the method's own.
    prompt : str
        Of which prompt; "" is the store's first.
    """

    store: Path
    split: str = "train"
    fraction: float = 1.0
    num_videos: int | None = None
    seed: int = 0
    layer: int | tuple[int, ...] | str | None = None
    labels: str = "video"
    samples_per_video: int = 1
    scorer: str = "logistic"
    kappa: float = 0.2
    num_bins: int = DEFAULT_BINS
    l2: float = DEFAULT_L2
    manifest: Path | None = None
    mil: int = 0
    target_far: float | None = None
    calibration: str | None = None
    method: str = DEFAULT_METHOD
    tap: str | None = None
    prompt: str = ""

    @property
    def rule(self) -> str | None:
        """The rule that chooses the layers; None where they are given."""
        if self.layer is None:
            return DEFAULT_RULE
        return self.layer if isinstance(self.layer, str) else None

    @property
    def given_layers(self) -> tuple[int, ...]:
        """The layers asked for by number."""
        if self.layer is None or isinstance(self.layer, str):
            return ()
        return (self.layer,) if isinstance(self.layer, int) else self.layer

    def draw(self, store: FeatureStore, needs_anomalies: bool = True) -> Samples:
        """Draw the samples that are asked for; normal ones alone may be enough."""
        return draw_samples(
            store,
            self.split,
            self.fraction,
            self.num_videos,
            self.seed,
            self.labels,
            self.samples_per_video,
            self.manifest,
            needs_anomalies,
        )


def refuse_options(config: ProbeConfig, wrong: Mapping[str, bool], because: str) -> None:
    """Refuse the first option that a method cannot heed.

    Parameters
    ----------
    config : ProbeConfig
    wrong : mapping of str to bool
        Whether it was given, by the option as the user knows it.
    because : str
        What the method does instead.

    Raises
    ------
    HiProbeError
    """
    for option, is_given in wrong.items():
        if is_given:
            raise HiProbeError(f"--method {config.method} {because}: leave {option} out.")
