"""Writes the measured part of docs/layer-rules.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.rules.differences import Difference
from benchmarks.rules.footage import Setting
from benchmarks.rules.trials import CANDIDATES, PAPERS_RULE, Trial

# What stands above this line in the document is written by hand, and kept.
MARKER = "<!-- Everything below is written by `make bench-rules`. -->"


@dataclass(frozen=True)
class Answer:
    """One setting with one model's states.

    Attributes
    ----------
    setting : Setting
    model : str
    num_test_videos : int
        Of the first draw.
    trials : mapping of str to sequence of Trial
        By candidate.
    to_papers, to_last : mapping of str to Difference
        Each candidate's AUC minus that of DLSP's layer, and of the last one.
    """

    setting: Setting
    model: str
    num_test_videos: int
    trials: Mapping[str, Sequence[Trial]]
    to_papers: Mapping[str, Difference]
    to_last: Mapping[str, Difference]

    def auc(self, candidate: str) -> np.ndarray:
        """The AUC of each draw."""
        return np.array([trial.auc for trial in self.trials[candidate]])


def write_document(path: Path, answers: Sequence[Answer], num_draws: int) -> None:
    """Write the document below its marker."""
    prose = path.read_text().partition(MARKER)[0] if path.exists() else "# Layer rules\n\n"
    parts = [prose + MARKER, ""]
    for model in dict.fromkeys(answer.model for answer in answers):
        own = [answer for answer in answers if answer.model == model]
        parts += [_overview(model, own, num_draws)]
    parts += [_section(answer) for answer in answers]
    path.write_text("\n".join(parts))


def _overview(model: str, answers: Sequence[Answer], num_draws: int) -> str:
    """One row a candidate: its mean AUC in each setting, and where it is ahead of DLSP's layer."""
    names = [answer.setting.name for answer in answers]
    lines = [
        f"## States of the {model} model: mean AUC over {num_draws} draws",
        "",
        _row(["candidate", *names, "ahead of DLSP's", "clearly", "clearly behind"]),
        "|---" * (len(names) + 4) + "|",
    ]
    for candidate in (one.name for one in CANDIDATES):
        gaps = [answer.to_papers[candidate] for answer in answers]
        of_other = candidate != PAPERS_RULE
        lines.append(
            _row(
                [
                    candidate,
                    *(f"{answer.auc(candidate).mean():.3f}" for answer in answers),
                    f"{sum(gap.mean > 0 for gap in gaps)} of {len(gaps)}" if of_other else "",
                    str(sum(gap.mean > 2 * gap.error for gap in gaps)) if of_other else "",
                    str(sum(gap.mean < -2 * gap.error for gap in gaps)) if of_other else "",
                ]
            )
        )
    return "\n".join([*lines, "", "*Clearly*: by more than two errors, of draws and videos.", ""])


def _section(answer: Answer) -> str:
    """One setting: AUC and paired differences."""
    first = f"{answer.setting.title}, {answer.model} model"
    lines = [
        f"### {first}",
        "",
        f"Tested on {answer.num_test_videos} videos.",
        "",
        _row(
            [
                "candidate",
                "AUC, ± deviation over draws",
                "AP",
                "− DLSP's, ± error (draws, videos)",
                "ahead in",
                "− last, ± error",
                "layers chosen most often",
            ]
        ),
        "|---" * 7 + "|",
    ]
    for name, own in answer.trials.items():
        auc = answer.auc(name)
        chosen = Counter(trial.layers for trial in own).most_common(3)
        lines.append(
            _row(
                [
                    name,
                    f"{auc.mean():.3f} ± {auc.std(ddof=1):.3f}",
                    f"{np.mean([trial.ap for trial in own]):.3f}",
                    _gap(answer.to_papers[name]) if name != PAPERS_RULE else "",
                    f"{answer.to_papers[name].wins:.0%}" if name != PAPERS_RULE else "",
                    f"{answer.to_last[name].mean:+.3f} ± {answer.to_last[name].error:.3f}"
                    if name != "last"
                    else "",
                    ", ".join(f"{_layers(layers)} ({count}×)" for layers, count in chosen),
                ]
            )
        )
    return "\n".join([*lines, ""])


def _gap(gap: Difference) -> str:
    parts = f"({gap.draws_error:.3f}, {gap.videos_error:.3f})"
    return f"{gap.mean:+.3f} ± {gap.error:.3f} {parts}"


def _layers(layers: Sequence[int]) -> str:
    """Layers in short: 6-10, or 3+4+7."""
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return "+".join(map(str, layers))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
