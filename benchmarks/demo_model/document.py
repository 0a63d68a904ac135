"""Writes the measured part of docs/demo-model.md, and its figure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from benchmarks.demo_model.described import Described
from benchmarks.demo_model.experiments import Experiment
from benchmarks.demo_model.methods import Compared
from benchmarks.demo_model.study import Draw
from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.demo.questions import NO, YES
from hiprobe.demo.training_data import HELD_OUT_EVENTS

# What stands above this line in the document is written by hand, and kept.
MARKER = "<!-- Everything below is written by `make bench-demo-model`. -->"
NAMES = {"trained": "trained", "random": "random weights", "pixels": "pixel statistics"}
COLOURS = {"trained": "#1f6feb", "random": "#8c959f", "pixels": "#bf8700"}
NUM_SHOWN_CAPTIONS = 10
SHOWN_METRICS = ("auc", "ap", "localized_auc")


def write_document(
    folder: Path,
    experiments: Sequence[Experiment],
    compared: Sequence[Compared],
    described: Sequence[Described],
) -> None:
    """Write ``demo-model.md`` below its marker, and ``demo-model.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo-model.md"
    prose = path.read_text().partition(MARKER)[0] if path.exists() else "# The demo's model\n\n"
    parts = [_training(), *[_section(experiment) for experiment in experiments]]
    parts += [_methods(compared), _captions(described), _answers(described)]
    path.write_text("\n".join([prose + MARKER, "", *parts]))
    _plot(folder / "demo-model.svg", experiments)


def _training() -> str:
    record = json.loads((TRAINED_MODEL / "training.json").read_text())
    size = sum(path.stat().st_size for path in TRAINED_MODEL.iterdir()) / 1e6
    last = record["history"][-1]
    return (
        "## As measured\n\n"
        f"Training: {record['num_steps']:,} steps of {record['batch_size']} fresh segments in "
        f"{record['seconds'] / 60:.0f} minutes ({record['machine']}), seed {record['seed']}; "
        f"last losses: caption {last['caption']:.3f}, foreground {last['foreground']:.3f}. "
        f"{record['num_parameters'] / 1e6:.2f} M parameters; the folder takes {size:.1f} MB.\n\n"
        "![AUC and saliency over layers](demo-model.svg)\n"
    )


def _section(experiment: Experiment) -> str:
    """One experiment: a table over layers, and one of what DLSP's choice costs."""
    draws = experiment.draws
    seeds = len(next(iter(draws.values())))
    layers = [layer for layer in draws["trained"][0].auc if layer >= 1]
    lines = [
        f"### {experiment.title}",
        "",
        f"{experiment.text} Mean ± standard deviation over {seeds} draws.",
        "",
        "| | " + " | ".join(f"layer {layer}" for layer in layers) + " |",
        "|---" * (len(layers) + 1) + "|",
    ]
    for name in ("trained", "random"):
        auc, saliency = _frame(draws[name], "auc"), _frame(draws[name], "saliency")
        lines.append(_row(f"AUC, {NAMES[name]}", [_spread(auc[layer]) for layer in layers]))
        paper = _frame(draws[name], "paper_auc")
        cells = [f"{paper[layer].mean():.3f}" for layer in layers]
        lines.append(_row(f"AUC, {NAMES[name]}, no penalty", cells))
        lines.append(
            _row(f"saliency, {NAMES[name]}", [f"{saliency[la].mean():+.2f}" for la in layers])
        )
    lines += [
        "",
        "| features | AUC at DLSP's layer | with no penalty | DLSP chose | best layer, by test AUC "
        "| last layer |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("trained", "random"):
        auc = _frame(draws[name], "auc")[layers]
        best = int(auc.mean().idxmax())
        chosen = Counter(draw.chosen for draw in draws[name]).most_common()
        lines.append(
            _row(
                NAMES[name],
                [
                    _spread(pd.Series([draw.auc[draw.chosen] for draw in draws[name]])),
                    _spread(pd.Series([draw.paper_auc[draw.chosen] for draw in draws[name]])),
                    ", ".join(f"{layer} ({count}×)" for layer, count in chosen),
                    f"{_spread(auc[best])} (layer {best})",
                    _spread(auc[layers[-1]]),
                ],
            )
        )
    pixels = [_spread(_frame(draws["pixels"], name)[1]) for name in ("auc", "paper_auc")]
    lines.append(_row(NAMES["pixels"], [*pixels, "", "", ""]))
    return "\n".join([*lines, ""])


def _methods(compared: Sequence[Compared]) -> str:
    """All methods of one pass, by footage."""
    lines = [
        "### All methods of one pass",
        "",
        "`hiprobe table methods` on the trained model's stores: all learn from the same clips and "
        "are tested on the same. p is corrected (Holm) within each table.",
        "",
    ]
    for one in compared:
        lines += [f"#### {one.title}", "", one.text, ""]
        header, *rows = one.table.cells(SHOWN_METRICS)
        lines += [_row(header[0], header[1:]), "|---" * len(header) + "|"]
        lines += [*(_row(row[0], row[1:]) for row in rows), ""]
    left_out = {
        note.partition(" is left out")[0]
        for one in compared
        for note in one.table.notes
        if " is left out" in note
    }
    if left_out:
        lines += [f"Left out, as the stores lack what it reads: {', '.join(sorted(left_out))}.", ""]
    return "\n".join(lines)


def _answers(described: Sequence[Described]) -> str:
    """How often questions are answered rightly, by what the clip shows."""
    lines = [
        "### What it answers to questions",
        "",
        "One question about each of the same segments, half of them truly answered by yes where "
        'anything is done in the clip, such as "'
        + described[0].question
        + '" Answers that are true:',
        "",
        "| the clip shows | segments | true answers | of true yes | of true no |",
        "|---|---|---|---|---|",
    ]
    for kind in sorted({one.sample.clip.category for one in described}):
        own = [one for one in described if one.sample.clip.category == kind]
        name = (kind or "nothing anomalous") + " (held out)" * (kind in HELD_OUT_EVENTS)
        cells = [str(len(own)), _share_right(own)]
        cells += [_share_right([d for d in own if d.true_answer == one]) for one in (YES, NO)]
        lines.append(_row(name, cells))
    return "\n".join([*lines, ""])


def _share_right(described: Sequence[Described]) -> str:
    right = [one.answer == one.true_answer for one in described]
    return f"{np.mean(right):.1%}" if right else "–"


def _captions(described: Sequence[Described]) -> str:
    held_out = [d for d in described if d.sample.clip.category in HELD_OUT_EVENTS]
    known = [d for d in described if d.sample.clip.category not in HELD_OUT_EVENTS]
    lines = [
        "### What it says",
        "",
        f"Greedy answers to the default prompt, one segment of each of {len(described)} unseen "
        f"clips. Of the {len(known)} that show nothing held out of training, "
        f"{np.mean([d.names_the_event for d in known]):.1%} say what is done (with the direction), "
        f"{np.mean([d.is_exact for d in known]):.1%} are true word by word. Of the {len(held_out)} "
        f"of held-out kinds, "
        f"{np.mean([d.names_the_event for d in held_out]):.1%} say what is done.",
        "",
        "| truth | the model's caption | |",
        "|---|---|---|",
    ]
    step = max(1, len(described) // NUM_SHOWN_CAPTIONS)
    for one in described[::step][:NUM_SHOWN_CAPTIONS]:
        verdict = "exact" if one.is_exact else "event" if one.names_the_event else "wrong"
        lines.append(_row(one.truths[0], [one.said, verdict]))
    return "\n".join([*lines, ""])


def _plot(path: Path, experiments: Sequence[Experiment]) -> None:
    """Draw AUC (above) and saliency (below) over layers, one column an experiment."""
    figure, axes = plt.subplots(
        2, len(experiments), figsize=(3.4 * len(experiments), 5.2), sharex=True, squeeze=False
    )
    for column, experiment in enumerate(experiments):
        above, below = axes[0, column], axes[1, column]
        for name in ("random", "trained"):
            for axis, quantity in ((above, "auc"), (below, "saliency")):
                values = _frame(experiment.draws[name], quantity)
                values = values[[layer for layer in values if layer >= 1]]
                mean, std = values.mean(), values.std()
                axis.plot(mean.index, mean, color=COLOURS[name], marker=".", label=NAMES[name])
                axis.fill_between(
                    mean.index, mean - std, mean + std, color=COLOURS[name], alpha=0.15
                )
        pixels = np.mean([draw.auc[1] for draw in experiment.draws["pixels"]])
        above.axhline(pixels, color=COLOURS["pixels"], linestyle="--", label=NAMES["pixels"])
        above.axhline(0.5, color="black", linewidth=0.6)
        above.set_title(experiment.title.replace(", ", ",\n", 1), fontsize=8)
        above.set_ylim(0, 1)
        below.set_xlabel("layer")
        below.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("frame-level AUC")
    axes[1, 0].set_ylabel("saliency")
    axes[0, 0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    plt.rcParams["svg.hashsalt"] = "hiprobe"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _frame(draws: Sequence[Draw], quantity: str) -> pd.DataFrame:
    """One row a draw, one column a layer."""
    return pd.DataFrame([getattr(draw, quantity) for draw in draws])


def _spread(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std():.3f}"


def _row(name: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([name, *cells]) + " |"
