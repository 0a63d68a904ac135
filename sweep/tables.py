"""The paper's tables of experiments, from stores: cross-dataset (3), ablation (4), keyframes (5).

Run by ``hiprobe table``. Each is a sweep, and a choice of its rows. The paper's figures stand
beside ours only where both data and model are the paper's: the test split has the benchmark's
official totals, and the model's name is the one of the paper's row.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiprobe.store import DONE, FeatureStore, HiProbeError
from hiprobe.store.ground_truth import clip_annotations
from hiprobe.sweep.pipeline import SweepConfig, run_sweep

METRICS = ("auc", "ap", "localized_auc", "localized_ap", "binary_auc", "binary_ap")
FIXED_THRESHOLDS = (0.75, 0.5, 0.25)
LIBRARIES = ("hiprobe", "numpy", "scipy", "scikit-learn", "zarr")
# Test videos, frames, and anomalous frames (ends exclusive) of the official files.
OFFICIAL = {"ucf-crime": (290, 1_111_808, 84_182), "xd-violence": (800, 2_335_801, 538_324)}
# What the paper reports on each: AUC on UCF-Crime, AP on XD-Violence.
PAPER_METRIC = {"ucf-crime": "auc", "xd-violence": "ap"}
# Parts of a model's name that tell it, in lower case.
PAPER_MODELS = {
    "InternVL2.5": ("internvl2_5", "internvl2.5"),
    "Qwen2.5-VL": ("qwen2.5-vl", "qwen2_5-vl"),
    "LLaVA-OneVision": ("llava-onevision",),
    "Holmes-VAU": ("holmesvau", "holmes-vau"),
}
PAPER_TABLE_3 = {
    ("LLaVA-OneVision", "xd-violence"): 0.7117,
    ("LLaVA-OneVision", "ucf-crime"): 0.7621,
    ("Qwen2.5-VL", "xd-violence"): 0.7586,
    ("Qwen2.5-VL", "ucf-crime"): 0.8060,
    ("InternVL2.5", "xd-violence"): 0.7704,
    ("InternVL2.5", "ucf-crime"): 0.8135,
    ("Holmes-VAU", "xd-violence"): 0.8565,
    ("Holmes-VAU", "ucf-crime"): 0.8633,
}
PAPER_TABLE_4 = {  # InternVL2.5
    "full": {"ucf-crime": 0.8672, "xd-violence": 0.8215},
    "last layer": {"ucf-crime": 0.8321, "xd-violence": 0.7928},
    "middle layer": {"ucf-crime": 0.7860, "xd-violence": 0.7561},
    "SVM": {"ucf-crime": 0.8487, "xd-violence": 0.8063},
    "distance": {"ucf-crime": 0.8034, "xd-violence": 0.7565},
    "threshold 0.75": {"ucf-crime": 0.7042, "xd-violence": 0.6543},
    "threshold 0.5": {"ucf-crime": 0.8578, "xd-violence": 0.7993},
    "threshold 0.25": {"ucf-crime": 0.7601, "xd-violence": 0.7245},
}
PAPER_TABLE_5 = {2: 0.7620, 4: 0.8251, 8: 0.8672, 16: 0.8701}  # InternVL2.5 on UCF-Crime


@dataclass(frozen=True)
class TableConfig:
    """What all tables share.

    Attributes
    ----------
    out : Path
        Folder for the table as Markdown and CSV, how it was made as JSON, and its experiments.
    sweep : SweepConfig
        Few-shot draws, penalty and κ; stores, layers and scorers are the table's.
    num_workers : int
        Processes; 0 works in this one.
    on_task : callable
        Called with (layers done, layers) of the sweep in progress.
    """

    out: Path
    sweep: SweepConfig
    num_workers: int = 0
    on_task: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class Table:
    """A table, written and ready to print.

    Attributes
    ----------
    name : str
    rows : DataFrame
        ``setting``, ``train``, ``test``, ``layers`` (those chosen), ``num_draws``; of each of
        `METRICS` the mean over draws and ``…_std``; ``paper``, ``paper_metric``.
    notes : list of str
    """

    name: str
    rows: pd.DataFrame
    notes: list[str]

    def cells(self, metrics: Sequence[str] = METRICS) -> list[list[str]]:
        """Header and rows as text: percent, mean ± deviation over draws."""
        places: dict[str, str] = {}
        if (self.rows["train"] != self.rows["test"]).any():
            places = {"train": "trained on", "test": "tested on"}
        elif self.rows["setting"].duplicated().any():
            places = {"train": "store"}
        names = {
            name: name.replace("_", " ").replace("auc", "AUC").replace("ap", "AP")
            for name in METRICS
        }
        header = ["setting", *places.values(), "layer", *(names[name] for name in metrics), "paper"]
        cells = [header]
        for _, row in self.rows.iterrows():
            paper = row["paper_metric"]
            cells.append(
                [
                    row["setting"],
                    *(Path(row[place]).name for place in places),
                    row["layers"],
                    *(_percent(row[name], row[f"{name}_std"]) for name in metrics),
                    f"{100 * row['paper']:.2f} ({names[paper]})" if paper else "",
                ]
            )
        return cells

    def to_markdown(self) -> str:
        """The table and its notes."""
        header, *rows = map(_line, self.cells())
        rule = _line(["---"] * len(self.cells()[0]))
        return "\n".join([header, rule, *rows, "", *(f"- {note}" for note in self.notes), ""])


def cross_dataset(stores: Sequence[Path], config: TableConfig) -> Table:
    """Table 3: train on one data set and test on another, for all pairs of the same model.

    Raises
    ------
    HiProbeError
        No two stores are of one model, or a pair does not fit together.
    """
    opened = {path: FeatureStore.open(path) for path in stores}
    pairs = [
        (train, test)
        for train, test in itertools.permutations(stores, 2)
        if _model(opened[train]) == _model(opened[test])
    ]
    if not pairs:
        raise HiProbeError(
            f"{', '.join(map(str, stores))}: no two of these stores are of the same model, "
            "expected at least one pair. Extract both data sets with one model."
        )
    rows = []
    for number, (train, test) in enumerate(pairs):
        sweep = replace(config.sweep, stores=(train,), test_store=test, scorers=("logistic",))
        table = _run(sweep, config, f"cross-dataset-{number}")
        model = _paper_model(opened[test])
        datasets = _dataset(opened[train]), _dataset(opened[test])
        known = set(datasets) == set(OFFICIAL) and model is not None
        paper = (PAPER_TABLE_3[model, datasets[1]], PAPER_METRIC[datasets[1]]) if known else None  # type: ignore[index]
        rows.append(_row(_title(opened[test]), train, test, _chosen(table), paper))
    return _write("cross-dataset", rows, list(opened.values()), config)


def ablation(stores: Sequence[Path], config: TableConfig) -> Table:
    """Table 4: without DLSP, with other scorers, and with fixed thresholds."""
    rows = []
    opened = [FeatureStore.open(path) for path in stores]
    l2 = config.sweep.l2s[0]
    for number, store in enumerate(opened):
        sweep = replace(
            config.sweep,
            stores=(store.path,),
            scorers=("logistic", "svm", "distance"),
            l2s=tuple(dict.fromkeys((l2, l2 or 1.0))),  # a support vector machine needs one
            thresholds=FIXED_THRESHOLDS,
        )
        table = _run(sweep, config, f"ablation-{number}")
        adaptive = table[table["kappa"].notna()]
        logistic = adaptive[(adaptive["scorer"] == "logistic") & (adaptive["l2"] == l2)]
        at_choice = table[table["is_dlsp_choice"]]
        last, middle = _last_and_middle(store)
        settings = {
            "full": _chosen(logistic),
            "last layer": logistic[logistic["layer"] == last],
            "middle layer": logistic[logistic["layer"] == middle],
            "SVM": _chosen(adaptive[(adaptive["scorer"] == "svm") & (adaptive["l2"] != 0)]),
            "distance": _chosen(adaptive[adaptive["scorer"] == "distance"]),
        }
        for threshold in FIXED_THRESHOLDS:
            settings[f"threshold {threshold:g}"] = at_choice[
                at_choice["kappa"].isna()
                & (at_choice["threshold"] == threshold)
                & (at_choice["scorer"] == "logistic")
                & (at_choice["l2"] == l2)
            ]
        dataset = _dataset(store)
        known = dataset is not None and _paper_model(store) == "InternVL2.5"
        for setting, chosen in settings.items():
            paper = (PAPER_TABLE_4[setting][dataset], PAPER_METRIC[dataset]) if known else None  # type: ignore[index]
            rows.append(_row(setting, store.path, store.path, chosen, paper))
    notes = [
        "AUC and AP of a continuous score do not depend on the threshold: what a threshold changes "
        "is the localized (0 below it) and the binary score. The paper does not say which of them "
        "its threshold rows measure.",
        "Last and middle layer are those of what the store holds: a store of fewer layers than the "
        "model has a lower last one.",
    ]
    return _write("ablation", rows, opened, config, notes)


def keyframes(stores: Sequence[Path], config: TableConfig) -> Table:
    """Table 5: stores that differ in the number of keyframes only.

    Raises
    ------
    HiProbeError
        Two stores have the same number, or are of other models.
    """
    opened = sorted(map(FeatureStore.open, stores), key=lambda store: store.provenance["keyframes"])
    for one, other in itertools.pairwise(opened):
        if one.provenance["keyframes"] == other.provenance["keyframes"]:
            raise HiProbeError(
                f"{one.path} and {other.path}: both have {one.provenance['keyframes']} keyframes a "
                "segment, expected a store for each number. Leave one of them out."
            )
        for name in ("prompt", "segment_frames", "manifest"):
            settings = [store.provenance.get(name) for store in (one, other)]
            if name == "manifest":
                settings = [(value or {}).get("digest") for value in settings]
            if settings[0] != settings[1]:
                raise HiProbeError(
                    f"{one.path} and {other.path}: {name} is {settings[0]!r} and {settings[1]!r}, "
                    "expected stores that differ in their keyframes only. Extract them alike."
                )
        if _model(one) != _model(other):
            raise HiProbeError(
                f"{one.path} is of {one.provenance['model']['id']}, {other.path} of "
                f"{other.provenance['model']['id']}: expected one model. Extract all with it."
            )
    paths = tuple(store.path for store in opened)
    table = _run(replace(config.sweep, stores=paths, scorers=("logistic",)), config, "keyframes")
    rows = []
    for store in opened:
        number = store.provenance["keyframes"]
        known = _dataset(store) == "ucf-crime" and _paper_model(store) == "InternVL2.5"
        paper = (PAPER_TABLE_5[number], "auc") if known and number in PAPER_TABLE_5 else None
        own = _chosen(table[table["store"] == str(store.path)])
        rows.append(_row(f"K = {number}", store.path, store.path, own, paper))
    return _write("keyframes", rows, opened, config)


TABLES = {"cross-dataset": cross_dataset, "ablation": ablation, "keyframes": keyframes}


def _run(sweep: SweepConfig, config: TableConfig, name: str) -> pd.DataFrame:
    config.out.mkdir(parents=True, exist_ok=True)
    out = config.out / f"{name}-experiments.csv"
    return run_sweep(sweep, out, num_workers=config.num_workers, on_task=config.on_task)


def _chosen(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["is_dlsp_choice"]]


def _row(
    setting: str, train: Path, test: Path, table: pd.DataFrame, paper: tuple[float, str] | None
) -> dict[str, Any]:
    """Mean and deviation over the draws of the chosen experiments."""
    assert table["seed"].is_unique, f"{setting}: more than one experiment a draw"
    row: dict[str, Any] = {
        "setting": setting,
        "train": str(train),
        "test": str(test),
        "layers": ", ".join(map(str, sorted(set(table["layer"])))),
        "num_draws": len(table),
    }
    for metric in METRICS:
        row |= {metric: table[metric].mean(), f"{metric}_std": table[metric].std()}
    value, metric = paper or (np.nan, "")
    return row | {"paper": value, "paper_metric": metric}


def _write(
    name: str,
    rows: list[dict[str, Any]],
    stores: Sequence[FeatureStore],
    config: TableConfig,
    notes: Sequence[str] = (),
) -> Table:
    frame = pd.DataFrame(rows)
    draws = f"{len(config.sweep.seeds)} few-shot draw(s)"
    all_notes = [f"Percent, mean ± deviation over {draws}; DLSP's layer may differ between them."]
    all_notes += notes
    if frame["paper"].isna().all():
        all_notes.append(
            "No figure of the paper stands beside these: they would have to be of its models on "
            "UCF-Crime's 290 or XD-Violence's 800 test videos, with the official totals of frames."
        )
    table = Table(name, frame, all_notes)
    frame.to_csv(config.out / f"{name}.csv", index=False)
    (config.out / f"{name}.md").write_text(table.to_markdown(), encoding="utf-8")
    made = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": asdict(config.sweep),
        "stores": [{"path": str(store.path), **store.provenance} for store in stores],
        "libraries": {library: version(library) for library in LIBRARIES},
    }
    text = json.dumps(made, indent=1, default=str, ensure_ascii=False)
    (config.out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return table


def _model(store: FeatureStore) -> str:
    return str(store.provenance["model"]["weights_digest"])


def _title(store: FeatureStore) -> str:
    return _paper_model(store) or Path(store.provenance["model"]["id"]).name


def _paper_model(store: FeatureStore) -> str | None:
    """Which of the paper's models made the store, by its name; None: none of them."""
    name = str(store.provenance["model"]["id"]).lower()
    found = [model for model, parts in PAPER_MODELS.items() if any(part in name for part in parts)]
    return found[0] if found else None


def _dataset(store: FeatureStore) -> str | None:
    """Which benchmark the test split is, by its official totals; None: neither."""
    videos = store.videos
    test = videos[(videos["split"] == "test") & (videos["status"] == DONE)]
    clipped = [
        clip_annotations(ranges, frames)[0]
        for ranges, frames in zip(test["annotations"], test["num_frames"], strict=True)
    ]
    anomalous = sum(stop - start for ranges in clipped for start, stop in ranges)
    totals = (len(test), int(test["num_frames"].sum()), anomalous)
    return next((name for name, official in OFFICIAL.items() if official == totals), None)


def _last_and_middle(store: FeatureStore) -> tuple[int, int]:
    last = max(store.layers)
    return last, min((la for la in store.layers if la >= 1), key=lambda la: abs(2 * la - last))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(mean: float, std: float) -> str:
    if pd.isna(mean):
        return "–"
    return f"{100 * mean:.2f}" + ("" if pd.isna(std) else f" ± {100 * std:.2f}")
