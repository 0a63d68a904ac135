"""What the demo's model is worth: ``make bench-demo-model`` writes docs/demo-model.md.

Trained weights, random weights and 38 pixel statistics, side by side, with the same probes: on
generated clips, on real fights, and on six videos of UCF-Crime (the real footage only where it
lies in ``../shared/data``). On the trained model's states also all methods of one pass. Everything
in the document was measured by this script in one run.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.demo_model.described import describe_unseen_clips
from benchmarks.demo_model.document import write_document
from benchmarks.demo_model.experiments import Experiment, run_experiments
from benchmarks.demo_model.methods import Compared, compare_methods
from benchmarks.demo_model.stores import make_manifests, make_stores
from hiprobe.demo.model import TRAINED_MODEL

NUM_CLIPS = 240
NUM_CAPTIONS = 600


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
    compared = list(compare_methods(arguments.folder, stores, manifests, range(arguments.seeds)))
    described = describe_unseen_clips(TRAINED_MODEL, arguments.captions)
    write_document(arguments.out, experiments, compared, described)
    out = Path("benchmarks/out/demo_model.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(_figures(experiments, compared), indent=1) + "\n")
    print(f"wrote {arguments.out / 'demo-model.md'} and {out}")


def _figures(experiments: Sequence[Experiment], compared: Sequence[Compared]) -> dict[str, float]:
    """Flat figures: mean AUC at DLSP's layer, at the best layer and at the last; of methods."""
    figures = {}
    for experiment in experiments:
        for name, draws in experiment.draws.items():
            prefix = f"{experiment.name}_{name}_auc"
            means = pd.DataFrame([draw.auc for draw in draws]).mean()
            above = means[means.index >= 1]
            figures[f"{prefix}_dlsp"] = float(np.mean([draw.auc[draw.chosen] for draw in draws]))
            figures[f"{prefix}_best"] = float(above.max())
            figures[f"{prefix}_last"] = float(above.iloc[-1])
    for one in compared:
        rows = one.table.rows.set_index("setting")["auc"]
        figures |= {f"{one.name}: {setting}, auc": float(auc) for setting, auc in rows.items()}
    return {name: round(value, 4) for name, value in figures.items()}


if __name__ == "__main__":
    main()
