"""What the demo's model is worth: ``make bench-demo-model`` writes docs/demo-model.md.

Trained weights, random weights and 38 pixel statistics, side by side, with the same probes: on
generated clips, on real fights, and on six videos of UCF-Crime (the real footage only where it
lies in ``../shared/data``). Everything in the document was measured by this script in one run.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.demo_model.captions import describe_unseen_clips
from benchmarks.demo_model.document import write_document
from benchmarks.demo_model.stores import FEATURES, make_manifests, make_stores
from benchmarks.demo_model.study import Draw, run_draw, test_set
from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.demo.training_data import HELD_OUT_EVENTS, TRAINED_EVENTS
from hiprobe.store import FeatureStore

NUM_CLIPS = 240
FEW_SHOT_VIDEOS = 24
NUM_CAPTIONS = 600


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


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/demo-model"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--clips", type=int, default=NUM_CLIPS)
    parser.add_argument("--captions", type=int, default=NUM_CAPTIONS)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    shared = Path(os.environ.get("HIPROBE_SHARED_DATA", "../shared/data"))
    manifests = make_manifests(arguments.folder, shared, arguments.clips)
    stores = {name: make_stores(arguments.folder, path, name) for name, path in manifests.items()}
    experiments = list(run_experiments(stores, range(arguments.seeds)))
    described = describe_unseen_clips(TRAINED_MODEL, arguments.captions)
    write_document(arguments.out, experiments, described)
    out = Path("benchmarks/out/demo_model.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(_figures(experiments), indent=1) + "\n")
    print(f"wrote {arguments.out / 'demo-model.md'} and {out}")


def run_experiments(
    stores: dict[str, dict[str, FeatureStore]], seeds: Sequence[int]
) -> list[Experiment]:
    """Run all experiments that the footage allows."""
    generated = stores["generated"]["trained"].videos
    pool = generated[generated["split"] == "train"]
    known = pool[pool["category"].isin(["", *TRAINED_EVENTS])]
    few = f"{FEW_SHOT_VIDEOS} of {len(pool)} training clips a draw"
    num_test = int((generated["split"] == "test").sum())
    test_ids = list(generated.index[generated["split"] == "test"])

    def on_clips(labels: pd.Series, categories: Sequence[str] | None) -> dict[str, list[Draw]]:
        fraction = FEW_SHOT_VIDEOS / len(labels)
        return {
            name: [
                run_draw(
                    store,
                    labels,
                    fraction,
                    seed,
                    test_set(store, test_ids),
                    categories=categories,
                )
                for seed in seeds
            ]
            for name, store in stores["generated"].items()
        }

    experiments = [
        Experiment(
            "generated",
            "Generated clips, all kinds of anomalies",
            f"{few}; tested on {num_test} others, {len(TRAINED_EVENTS) + len(HELD_OUT_EVENTS)} "
            "kinds.",
            on_clips(pool["label"], None),
        ),
        Experiment(
            "generated_unseen",
            "Generated clips, kinds that neither the model nor the probe has seen",
            f"{FEW_SHOT_VIDEOS} of {len(known)} training clips without "
            f"{' and '.join(HELD_OUT_EVENTS)} "
            "a draw; tested on the normal clips and on these two kinds.",
            on_clips(known["label"], HELD_OUT_EVENTS),
        ),
    ]
    if "fights" not in stores:
        return experiments
    fights = stores["fights"]["trained"].videos["label"]
    experiments.append(
        Experiment(
            "fights",
            "Real fights",
            f"Half of the {len(fights)} clips a draw; tested on the other half.",
            {
                name: [run_draw(store, fights, 0.5, seed) for seed in seeds]
                for name, store in stores["fights"].items()
            },
        )
    )
    for train, text in (("fights", "the real fights"), ("generated", "generated clips")):
        experiments.append(
            Experiment(
                f"ucf_crime_from_{train}",
                f"Six UCF-Crime test videos, probe trained on {text}",
                f"{FEW_SHOT_VIDEOS} clips a draw; tested on all frames of the six videos.",
                {
                    name: [_draw_on_ucf(stores, train, name, seed) for seed in seeds]
                    for name in FEATURES
                },
            )
        )
    return experiments


def _draw_on_ucf(
    stores: dict[str, dict[str, FeatureStore]], train: str, features: str, seed: int
) -> Draw:
    store, target = stores[train][features], stores["ucf_crime"][features]
    labels = store.videos["label"]
    if train == "generated":
        labels = labels[store.videos["split"] == "train"]
    fraction = FEW_SHOT_VIDEOS / len(labels)
    return run_draw(store, labels, fraction, seed, test_set(target, list(target.videos.index)))


def _figures(experiments: Sequence[Experiment]) -> dict[str, float]:
    """Flat figures: mean AUC at DLSP's layer, at the best layer and at the last."""
    figures = {}
    for experiment in experiments:
        for name, draws in experiment.draws.items():
            prefix = f"{experiment.name}_{name}_auc"
            means = pd.DataFrame([draw.auc for draw in draws]).mean()
            above = means[means.index >= 1]
            figures[f"{prefix}_dlsp"] = float(np.mean([draw.auc[draw.chosen] for draw in draws]))
            figures[f"{prefix}_best"] = float(above.max())
            figures[f"{prefix}_last"] = float(above.iloc[-1])
    return {name: round(value, 4) for name, value in figures.items()}


if __name__ == "__main__":
    main()
