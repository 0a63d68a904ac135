"""Which layers to read? ``make bench-rules`` writes docs/layer-rules.md.

Every rule of `hiprobe.probe.layer_rules`, with and without a penalty and with multiple-instance
relabelling, over the same few-shot draws: on generated clips, the demo's clips, real fights, UCSD
Ped2 and six videos of UCF-Crime (real footage only where it lies in ``../shared/data``), with the
trained and the random model. Differences are paired by draw; their errors are over draws and over
test videos. Nothing is chosen on test labels.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rules.differences import differences
from benchmarks.rules.document import Answer, write_document
from benchmarks.rules.footage import MODELS, make_study_stores, settings_of
from benchmarks.rules.trials import PAPERS_RULE, Trial, run_trials


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/rules"))
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("docs/layer-rules.md"))
    arguments = parser.parse_args()
    shared = Path(os.environ.get("HIPROBE_SHARED_DATA", "../shared/data"))
    stores = make_study_stores(arguments.folder, shared)
    answers = []
    for model in MODELS:
        for setting in settings_of(stores):
            train = stores[setting.train][model]
            test = stores[setting.test or setting.train][model]
            trials: dict[str, list[Trial]] = {}
            for seed in range(arguments.draws):
                for trial in run_trials(setting, train, test, seed):
                    trials.setdefault(trial.candidate, []).append(trial)
            num_tested = len(trials[PAPERS_RULE][0].video_ids)
            answer = Answer(
                setting,
                model,
                num_tested,
                trials,
                differences(trials, PAPERS_RULE),
                differences(trials, "last"),
            )
            answers.append(answer)
            _print(answer)
    write_document(arguments.out, answers, arguments.draws)
    out = Path("benchmarks/out/rules.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(_figures(answers), indent=1) + "\n")
    print(f"wrote {arguments.out} and {out}")


def _print(answer: Answer) -> None:
    print(f"{answer.setting.name}, {answer.model}")
    for name, gap in answer.to_papers.items():
        auc = answer.auc(name)
        cells = f"{auc.mean():.3f} ± {auc.std(ddof=1):.3f}  {gap.mean:+.3f} ± {gap.error:.3f}"
        print(f"  {name:24} {cells}", flush=True)


def _figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Flat figures: each candidate's mean AUC, and its difference to DLSP's layer."""
    figures = {}
    for answer in answers:
        for name, gap in answer.to_papers.items():
            prefix = f"{answer.setting.name}_{answer.model}_{name}".replace(", ", "_")
            prefix = prefix.replace(" ", "_").replace("-", "_")
            figures[f"{prefix}_auc"] = round(float(answer.auc(name).mean()), 4)
            figures[f"{prefix}_minus_dlsp"] = round(gap.mean, 4)
            figures[f"{prefix}_error"] = round(gap.error, 4)
    return figures


if __name__ == "__main__":
    main()
