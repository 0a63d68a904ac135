"""What the paper reports: its tables' figures, and when they may stand beside ours.

A figure stands beside ours only where both data and model are the paper's: the test split has the
benchmark's official totals, and the model's name is the one of the paper's row.
"""

from __future__ import annotations

from typing import NamedTuple

# What the paper reports on each benchmark.
METRIC_OF = {"ucf-crime": "auc", "xd-violence": "ap"}
# Parts of a model's name that tell it, in lower case.
MODELS = {
    "InternVL2.5": ("internvl2_5", "internvl2.5"),
    "Qwen2.5-VL": ("qwen2.5-vl", "qwen2_5-vl"),
    "LLaVA-OneVision": ("llava-onevision",),
    "Holmes-VAU": ("holmesvau", "holmes-vau"),
}
# By model and by the benchmark that is tested on, having trained on the other.
CROSS_DATASET = {
    ("LLaVA-OneVision", "xd-violence"): 0.7117,
    ("LLaVA-OneVision", "ucf-crime"): 0.7621,
    ("Qwen2.5-VL", "xd-violence"): 0.7586,
    ("Qwen2.5-VL", "ucf-crime"): 0.8060,
    ("InternVL2.5", "xd-violence"): 0.7704,
    ("InternVL2.5", "ucf-crime"): 0.8135,
    ("Holmes-VAU", "xd-violence"): 0.8565,
    ("Holmes-VAU", "ucf-crime"): 0.8633,
}
# Its ablation and its numbers of keyframes are of this one.
ABLATED_MODEL = "InternVL2.5"
ABLATION = {
    "full": {"ucf-crime": 0.8672, "xd-violence": 0.8215},
    "last layer": {"ucf-crime": 0.8321, "xd-violence": 0.7928},
    "middle layer": {"ucf-crime": 0.7860, "xd-violence": 0.7561},
    "SVM": {"ucf-crime": 0.8487, "xd-violence": 0.8063},
    "distance": {"ucf-crime": 0.8034, "xd-violence": 0.7565},
    "threshold 0.75": {"ucf-crime": 0.7042, "xd-violence": 0.6543},
    "threshold 0.5": {"ucf-crime": 0.8578, "xd-violence": 0.7993},
    "threshold 0.25": {"ucf-crime": 0.7601, "xd-violence": 0.7245},
}
FIXED_THRESHOLDS = (0.75, 0.5, 0.25)
KEYFRAMES = {2: 0.7620, 4: 0.8251, 8: 0.8672, 16: 0.8701}  # on UCF-Crime


class Figure(NamedTuple):
    """What the paper reports in the place of one of our rows."""

    value: float
    metric: str


def model_of(name: str) -> str | None:
    """Which of the paper's models has this name (hub id or folder); None: none of them."""
    lower = name.lower()
    found = [model for model, parts in MODELS.items() if any(part in lower for part in parts)]
    return found[0] if found else None


def cross_dataset_figure(model: str | None, train: str | None, test: str | None) -> Figure | None:
    """Table 3: trained on one benchmark, tested on the other."""
    if model is None or test is None or {train, test} != set(METRIC_OF):
        return None
    return Figure(CROSS_DATASET[model, test], METRIC_OF[test])


def ablation_figure(setting: str, model: str | None, test: str | None) -> Figure | None:
    """Table 4."""
    if model != ABLATED_MODEL or test not in METRIC_OF:
        return None
    return Figure(ABLATION[setting][test], METRIC_OF[test])


def keyframes_figure(keyframes: int, model: str | None, test: str | None) -> Figure | None:
    """Table 5."""
    if model != ABLATED_MODEL or test != "ucf-crime" or keyframes not in KEYFRAMES:
        return None
    return Figure(KEYFRAMES[keyframes], METRIC_OF[test])
