"""All methods of one store side by side."""

import numpy as np
import pytest
from typer.testing import CliRunner

from hiprobe.cli.main import app
from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store.answer_rows import Answers
from hiprobe.store.taps import FRAMES_LAST, FRAMES_MEAN, HEADS, HIDDEN_STATES, Tap
from hiprobe.sweep.method_table import PAPERS
from hiprobe.sweep.pipeline import SweepConfig
from hiprobe.sweep.tables import TABLES, TableConfig
from tests.conftest import write_store

HEADS_OF = [Tap(HEADS, (1, 2, 3, 4), 12, prompt=one, num_heads=3) for one in ("", "other")]
SEVERITIES = [Tap(HIDDEN_STATES, (4,), 16, prompt=f"severity-{step}") for step in (50, 100)]
ALL = [
    *HEADS_OF,
    *SEVERITIES,
    Tap(HIDDEN_STATES, (0, 1, 2, 3, 4), 16, prompt="other"),
    Tap(FRAMES_MEAN, (0, 1, 2, 3, 4), 16),
    Tap(FRAMES_LAST, (0, 1, 2, 3, 4), 16),
]


ANSWERS = Answers(
    ("Yes", "No"), (0, 1), np.eye(2, 16, dtype="f4"), np.zeros(2, "f4"), np.ones(16, "f4"), 1e-6, 4
)


def mark(tap, states, segments):
    states[min(2, len(states) - 1), segments, :4] += 2.0


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("methods") / "s.zarr"
    return write_store(path, num_videos=32, taps=ALL, mark=mark, answers=ANSWERS)


@pytest.fixture(scope="module")
def table(path):
    config = TableConfig(path.parent / "out", SweepConfig((), fractions=(0.8,), seeds=(0, 1)))
    return TABLES["methods"]([path], config)


def test_every_method_and_tap_has_a_row_and_controls_stand_below(table):
    assert table.rows["setting"].tolist() == [
        PAPERS,
        f"{PAPERS}, refined within video",
        "hiprobe, upper-half",
        "hiprobe, dlsp, heads",
        "hiprobe, dlsp, frames_mean",
        "hiprobe, dlsp, frames_last",
        "hiprobe, dlsp, prompt other",
        "robust-heads",
        "spherical",
        "answers",
        "ordinal",
        "answers, prompt other",
        "spherical, frames_last",
        "control: video oracle",
        "control: video means",
        "control: centre prior",
        "control: last layer",
        "control: vision tower",
    ]
    assert table.rows["num_draws"].eq(2).all()


def test_a_row_is_what_probe_and_evaluate_give(path, table, tmp_path):
    rows = table.rows.set_index("setting")
    for name, options in {
        PAPERS: {"layer": "dlsp"},
        "hiprobe, dlsp, heads": {"layer": "dlsp", "tap": HEADS},
        "robust-heads": {"method": "robust-heads"},
        "spherical, frames_last": {"method": "spherical", "tap": FRAMES_LAST},
        "ordinal": {"method": "ordinal", "fraction": 1.0},
        "answers, prompt other": {"method": "answers", "prompt": "other", "fraction": 1.0},
    }.items():
        found = []
        for seed in (0, 1):
            probe = run_probe(ProbeConfig(path, seed=seed, **{"fraction": 0.8, **options}))
            probe.save(tmp_path / "probe.json")
            config = EvaluateConfig(path, tmp_path / "probe.json", tmp_path / "r", num_resamples=0)
            found.append(run_evaluate(config))
        for column, variant, area in (
            ("auc", "smoothed", "auc"),
            ("ap", "smoothed", "ap"),
            ("binary_auc", "binary", "auc"),
        ):
            expected = np.mean([one[variant][area] for one in found])
            assert rows.loc[name, column] == pytest.approx(expected, abs=1e-12), name
        if name == PAPERS:
            for control, key in (("last layer", None), ("vision tower", "vision_tower")):
                areas = [one["controls"][key] if key else one["last_layer"] for one in found]
                expected = np.mean([one["auc"] for one in areas])
                assert rows.loc[f"control: {control}", "auc"] == pytest.approx(expected, abs=1e-12)


def test_differences_are_paired_with_the_papers(table):
    rows = table.rows.set_index("setting")
    assert np.isnan(rows.loc[PAPERS, "auc_difference"])
    others = rows.drop(PAPERS)
    expected = others["auc"] - rows.loc[PAPERS, "auc"]
    np.testing.assert_allclose(others["auc_difference"], expected, atol=1e-12)
    assert (others["auc_low"] <= others["auc_difference"]).all()
    assert (others["auc_difference"] <= others["auc_high"]).all()
    assert others["auc_p_holm"].between(0, 1).all()
    header, first, *_ = table.cells()
    place = header.index("AUC − paper's")
    assert header[place + 1] == "p"
    assert first[place : place + 2] == ["–", "–"]


def test_what_the_taps_do_not_allow_is_said(tmp_path):
    path = write_store(tmp_path / "bare.zarr")
    arguments = ["table", "methods", path, "--out", tmp_path / "out", "--latex"]
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.output
    written = (tmp_path / "out/methods.md").read_text()
    assert "robust-heads is left out" in written
    assert "answers is left out" in written
    assert "--taps heads" in written
    assert "control: last layer" in written
    assert (tmp_path / "out/methods-experiments.csv").exists()
