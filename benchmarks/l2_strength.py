"""Which L2 strength of the scorer holds out best? The evidence for `DEFAULT_L2`.

Run: ``make bench-l2`` after ``make demo``, or with any store. For each strength and each of
several seeds, half of the videos (stratified by label, both splits together) train the scorer on
one sample a video; the segments of the other half are scored, and the frame-level AUC is the mean
over layers above 0. Prints a table and writes ``benchmarks/out/l2_strength.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from hiprobe.evaluate.test_set import TestSet
from hiprobe.probe.samples import choose_videos, make_samples
from hiprobe.store import DONE, FeatureStore
from hiprobe.store.scorers import fit_scorer

STRENGTHS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def held_out_auc(store: FeatureStore, seed: int) -> dict[float, float]:
    """Frame-level AUC on the videos that did not train, by strength: a mean over layers."""
    videos = store.videos[store.videos["status"] == DONE]
    train = choose_videos(videos["label"], 0.5, seed)
    test = TestSet.of_videos(videos[~videos.index.isin(train)], store.path, store=store)
    samples = make_samples(store, train, videos["label"])
    aucs: dict[float, list[float]] = {strength: [] for strength in STRENGTHS}
    for layer in (layer for layer in store.layers if layer >= 1):
        training, states = samples.states(store, layer), np.concatenate([*test.states(layer)])
        for strength in STRENGTHS:
            scorer = fit_scorer("logistic", training, samples.is_anomalous, strength)
            scored = test.score(scorer.logits(states), sigma=0)
            auc = scored.areas(scored.raw)["auc"]
            assert auc is not None, "the held-out half has one class only"
            aucs[strength].append(auc)
    return {strength: float(np.mean(values)) for strength, values in aucs.items()}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    store = FeatureStore.open(arguments.store)
    runs = [held_out_auc(store, seed) for seed in range(arguments.seeds)]
    table = {
        strength: (np.mean(values), np.std(values))
        for strength in STRENGTHS
        for values in [[run[strength] for run in runs]]
    }
    print(f"{arguments.store}: held-out frame-level AUC, mean ± std of {arguments.seeds} halvings")
    for strength, (mean, std) in table.items():
        print(f"  l2 = {strength:<8g} {mean:.4f} ± {std:.4f}" + " (the paper's)" * (strength == 0))
    out = Path("benchmarks/out/l2_strength.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {
        f"auc_l2_{strength:g}": round(float(mean), 4) for strength, (mean, _) in table.items()
    }
    out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
