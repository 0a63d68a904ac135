"""The questions that the study asks: on which footage to train and to test a probe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.demo_model.stores import FEATURES
from benchmarks.demo_model.study import Draw, run_draw, test_set
from hiprobe.demo.training_data import HELD_OUT_EVENTS, TRAINED_EVENTS
from hiprobe.store import FeatureStore

FEW_SHOT_VIDEOS = 24

# By footage, then by features.
Stores = dict[str, dict[str, FeatureStore]]


@dataclass(frozen=True)
class Experiment:
    """A question, and what each kind of features answers.

    Attributes
    ----------
    name, title, text : str
    draws : dict of str to list of Draw
        By features, one a seed.
    """

    name: str
    title: str
    text: str
    draws: dict[str, list[Draw]]


def run_experiments(stores: Stores, seeds: Sequence[int]) -> Iterator[Experiment]:
    """Run all experiments that the footage allows."""
    yield from _on_clips(stores["generated"], seeds)
    if "fights" in stores:
        yield _on_fights(stores["fights"], seeds)
        yield _on_ucf_crime(stores, "fights", "the real fights", seeds)
        yield _on_ucf_crime(stores, "generated", "generated clips", seeds)


def _on_clips(stores: dict[str, FeatureStore], seeds: Sequence[int]) -> Iterator[Experiment]:
    """Train and test on generated clips: of all kinds, and across kinds."""
    videos = stores["trained"].videos
    pool = videos[videos["split"] == "train"]
    known = pool[pool["category"].isin(["", *TRAINED_EVENTS])]
    test_ids = list(videos.index[videos["split"] == "test"])
    few = f"{FEW_SHOT_VIDEOS} of {len(pool)} training clips a draw"
    num_kinds = len(TRAINED_EVENTS) + len(HELD_OUT_EVENTS)
    for name, title, text, labels, categories in (
        (
            "generated",
            "Generated clips, all kinds of anomalies",
            f"{few}; tested on {len(test_ids)} others, {num_kinds} kinds.",
            pool["label"],
            None,
        ),
        (
            "generated_unseen",
            "Generated clips, kinds that neither the model nor the probe has seen",
            f"{FEW_SHOT_VIDEOS} of {len(known)} training clips without "
            f"{' and '.join(HELD_OUT_EVENTS)} "
            "a draw; tested on the normal clips and on these two kinds.",
            known["label"],
            HELD_OUT_EVENTS,
        ),
    ):
        fraction = FEW_SHOT_VIDEOS / len(labels)
        draws = {}
        for features, store in stores.items():
            test = test_set(store, test_ids)
            draws[features] = [
                run_draw(store, labels, fraction, seed, test, categories=categories)
                for seed in seeds
            ]
        yield Experiment(name, title, text, draws)


def _on_fights(stores: dict[str, FeatureStore], seeds: Sequence[int]) -> Experiment:
    labels = stores["trained"].videos["label"]
    return Experiment(
        "fights",
        "Real fights",
        f"Half of the {len(labels)} clips a draw; tested on the other half.",
        {
            features: [run_draw(store, labels, 0.5, seed) for seed in seeds]
            for features, store in stores.items()
        },
    )


def _on_ucf_crime(stores: Stores, train: str, text: str, seeds: Sequence[int]) -> Experiment:
    """Train on other footage, test on UCF-Crime's six videos: too few to train on as well."""
    draws = {}
    for features in FEATURES:
        store, target = stores[train][features], stores["ucf_crime"][features]
        labels = store.videos["label"]
        # The fights have no split; all of them may be drawn.
        if train == "generated":
            labels = labels[store.videos["split"] == "train"]
        test = test_set(target, list(target.videos.index))
        fraction = FEW_SHOT_VIDEOS / len(labels)
        draws[features] = [run_draw(store, labels, fraction, seed, test) for seed in seeds]
    return Experiment(
        f"ucf_crime_from_{train}",
        f"Six UCF-Crime test videos, probe trained on {text}",
        f"{FEW_SHOT_VIDEOS} clips a draw; tested on all frames of the six videos.",
        draws,
    )
