"""What a sweep consists of: stores and layers, few-shot draws, scorers and their penalties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hiprobe.probe.layer_method import SPHERICAL_RULE
from hiprobe.probe.layer_rules import layer_rule
from hiprobe.probe.pipeline import UNTRAINED, layers_above_0
from hiprobe.store import FeatureStore, HiProbeError
from hiprobe.store.localization import DEFAULT_SIGMA
from hiprobe.store.probe_file import DEFAULT_METHOD
from hiprobe.store.probe_inputs import Input, Keywords
from hiprobe.store.scorers import DEFAULT_L2, SCORERS, needs_anomalies, scorer_class
from hiprobe.store.taps import HIDDEN_STATES


@dataclass(frozen=True)
class SweepConfig:
    """A grid of experiments.

    Attributes
    ----------
    stores : tuple of Path
        To train on, one after the other; for example of several numbers of keyframes.
    test_store : Path or None
        To test on; None: the same one.
    layers : tuple of int or None
        None: all above 0.
    scorers : tuple of str
    l2s : tuple of float
        Penalties; a scorer that has none takes the first.
    fractions : tuple of float
        Few-shot shares of the training videos.
    num_videos : tuple of int
        Or so many of them; if given, `fractions` do not count.
    seeds : tuple of int
        Of the few-shot draws.
    kappas : tuple of float
        κ of the threshold.
    thresholds : tuple of float
        Fixed thresholds, measured beside μ + κσ.
    labels : {'video', 'segment'}
    samples_per_video : int
    train_split, test_split : str
    sigma : float
        Smoothing, in segments.
    manifest : Path or None
        Labels, splits and annotations from here instead of the stores'.
    keep_scores : bool
        Keep each experiment's scores beside the table, for paired tests.
    rules : tuple of str
        Of `hiprobe.probe.layer_rules`: for each draw and scorer one more experiment on the layers
        that the rule chooses among `layers`.
    mil : int
        Times to fit again on the top segments of anomalous videos.
    target_fars : tuple of float
        Thresholds for these rates of false alarms on held-out normal videos, measured too.
    allow_overlap : bool
        Test on videos that were trained on too, with a warning.
    tap, prompt : str
        Whose layers are read.
    methods : tuple of str
        Of `hiprobe.probe.pipeline.METHODS`. The paper's is the grid of layers and rules; each other
        one adds an experiment a draw (and scorer, where it takes one), and none of layers.
    """

    stores: tuple[Path, ...]
    test_store: Path | None = None
    layers: tuple[int, ...] | None = None
    scorers: tuple[str, ...] = SCORERS
    l2s: tuple[float, ...] = (DEFAULT_L2,)
    fractions: tuple[float, ...] = (1.0,)
    num_videos: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    kappas: tuple[float, ...] = (0.2,)
    thresholds: tuple[float, ...] = ()
    labels: str = "video"
    samples_per_video: int = 1
    train_split: str = "train"
    test_split: str = "test"
    sigma: float = DEFAULT_SIGMA
    manifest: Path | None = None
    keep_scores: bool = False
    rules: tuple[str, ...] = ()
    mil: int = 0
    target_fars: tuple[float, ...] = ()
    allow_overlap: bool = False
    tap: str = HIDDEN_STATES
    prompt: str = ""
    methods: tuple[str, ...] = (DEFAULT_METHOD,)

    @property
    def place(self) -> Keywords:
        """``tap`` and ``prompt``, for who reads a layer."""
        return {"tap": self.tap, "prompt": self.prompt}

    def inputs_of(self, layer: int) -> tuple[Input, ...]:
        """What a scorer of one layer reads."""
        return (Input(layer, self.tap, self.prompt),)

    def tasks(self) -> list[Task]:
        """List all layers of all stores, then what rules choose, then the other methods.

        Raises
        ------
        HiProbeError
            A layer is not in its store, or the grid is empty in one direction.
        """
        tasks = []
        others = [name for name in dict.fromkeys(self.methods) if name != DEFAULT_METHOD]
        for path in self.stores:
            layers = self.layers_of(FeatureStore.open(path)) if self.reads_layers else []
            if DEFAULT_METHOD in self.methods:
                tasks += [Task(path, layer) for layer in layers]
                tasks += [Task(path, None)] if self.rules else []
            tasks += [Task(path, None, name) for name in others]
        directions = {
            "method": self.methods,
            "layer": [one for one in tasks if one.layer is not None or one.is_other],
            "few-shot draw": list(self.draws()),
            "scorer with a penalty that it can have": list(self.penalised_scorers()),
            "threshold": [*self.kappas, *self.thresholds, *self.target_fars],
        }
        for rule in self.rules:
            layer_rule(rule)
        for name, values in directions.items():
            if not values:
                raise HiProbeError(f"the sweep has no {name}, expected at least one.")
        return tasks

    def layers_of(self, store: FeatureStore) -> list[int]:
        """List the layers to try.

        Raises
        ------
        HiProbeError
            One is not in the store, or there is none to choose from.
        """
        above_0 = layers_above_0(store, self.tap, self.prompt)
        layers = above_0 if self.layers is None else [*self.layers]
        store.check_layers(layers, **self.place)
        if self.measured_rules and not any(layers):
            raise HiProbeError(
                "rules and the method spherical choose among layers above 0, and the sweep has "
                "none of them: give others with --layers."
            )
        return layers

    @property
    def reads_layers(self) -> bool:
        """Whether some method chooses among the layers of `place`."""
        return not {DEFAULT_METHOD, "spherical"}.isdisjoint(self.methods)

    @property
    def measured_rules(self) -> tuple[str, ...]:
        """The rules whose figures are asked of each layer: spherical prototypes go by one too."""
        others = (SPHERICAL_RULE,) if "spherical" in self.methods else ()
        return tuple(dict.fromkeys((*self.rules, *others)))

    @property
    def needs_anomalies(self) -> bool:
        """Whether some method has to see anomalous samples."""
        if not {"robust-heads", "spherical"}.isdisjoint(self.methods):
            return True
        return DEFAULT_METHOD in self.methods and any(map(needs_anomalies, self.scorers))

    def draws(self) -> Iterator[Draw]:
        """All few-shot draws that are asked for; `hiprobe.sweep.draws` tells which differ."""
        by_number = [Draw(num_videos=number) for number in self.num_videos]
        for draw in by_number or [Draw(fraction) for fraction in self.fractions]:
            yield from (replace(draw, seed=seed) for seed in self.seeds)

    def penalised_scorers(self) -> Iterator[tuple[str, float]]:
        """Each scorer with each penalty that means something to it."""
        for kind in self.scorers:
            scorer = scorer_class(kind)
            for l2 in self.l2s if scorer.takes_penalty else self.l2s[:1]:
                if l2 or not scorer.needs_penalty:
                    yield kind, l2

    def scorers_of(self, method: str) -> list[tuple[str, float]]:
        """Those of a method, which may have one of its own; what is not fitted has no penalty."""
        if method in UNTRAINED:
            return [("answers", 0.0)]
        return [(method, self.l2s[0])] if method == "spherical" else [*self.penalised_scorers()]


@dataclass(frozen=True)
class Task:
    """One layer of one store: the unit of work, of which the states are read once.

    Without a layer it is what rules choose among the layers of the store, or another method than
    the paper's.
    """

    store: Path
    layer: int | None
    method: str = DEFAULT_METHOD

    @property
    def is_other(self) -> bool:
        """Whether it is of another method than the paper's."""
        return self.method != DEFAULT_METHOD

    @property
    def goes_by_figures(self) -> bool:
        """Whether it chooses among layers by what their tasks have found, if there are any."""
        return self.layer is None and self.method in (DEFAULT_METHOD, "spherical")


@dataclass(frozen=True)
class Draw:
    """One few-shot draw: a share of each class or, if given, so many videos in all."""

    fraction: float = 1.0
    num_videos: int | None = None
    seed: int = 0

    @property
    def size(self) -> str:
        """Its size as it was asked for, in words."""
        if self.num_videos is not None:
            return f"{self.num_videos} videos"
        return f"a fraction of {self.fraction:g}"
