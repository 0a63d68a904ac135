"""A sweep over the layers of another tap, under another prompt."""

import pandas as pd
import pytest

from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import HiProbeError, StoreError
from hiprobe.store.taps import FRAMES_MEAN, HIDDEN_STATES, Tap
from hiprobe.sweep.pipeline import SweepConfig, run_sweep
from hiprobe.sweep.table_file import read_table
from tests.conftest import write_store

TAPS = [Tap(FRAMES_MEAN, (0, 1, 2), 12), Tap(HIDDEN_STATES, (2, 4), 16, prompt="other")]


def mark(tap, states, segments):
    states[-1, segments, :4] += 2.5


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("taps") / "s.zarr", taps=TAPS, mark=mark)


@pytest.mark.parametrize(
    ("place", "layers"),
    [({"tap": FRAMES_MEAN}, [1, 2]), ({"prompt": "other"}, [2, 4])],
)
def test_it_gives_what_probe_and_evaluate_give(path, tmp_path, place, layers):
    config = SweepConfig(
        (path,), scorers=("logistic", "spherical"), rules=("all",), target_fars=(0.1,), **place
    )
    table = run_sweep(config, tmp_path / "out.csv")
    assert sorted(table["layer"].dropna().unique()) == layers
    assert (table["tap"].unique(), table["prompt"].unique()) == (
        [place.get("tap", HIDDEN_STATES)], [place.get("prompt", "")],
    )  # fmt: skip
    for scorer in ("logistic", "spherical"):
        for layer, rule in ((layers[0], ""), (layers[1], ""), (None, "all")):
            made = ProbeConfig(path, layer=layer or rule, scorer=scorer, target_far=0.1, **place)
            run_probe(made).save(tmp_path / "probe.json")
            metrics = run_evaluate(
                EvaluateConfig(path, tmp_path / "probe.json", tmp_path / "r", num_resamples=0)
            )
            own = table[(table["scorer"] == scorer) & (table["rule"] == rule)]
            own = own[own["layer"].isna() if layer is None else own["layer"] == layer]
            (row,) = own[own["target_far"] == 0.1].to_dict("records")
            assert row["auc"] == pytest.approx(metrics["smoothed"]["auc"], abs=1e-12)
            assert row["threshold"] == pytest.approx(metrics["threshold"], abs=1e-9)


def test_rows_of_taps_stand_beside_those_of_an_older_table(path, tmp_path):
    out = tmp_path / "out.csv"
    plain = SweepConfig((path,), scorers=("logistic",), layers=(2,))
    run_sweep(plain, out)
    older = pd.read_csv(out).drop(columns=["tap", "prompt"])
    older.to_csv(out, index=False)
    of_tap = SweepConfig((path,), scorers=("logistic",), layers=(2,), tap=FRAMES_MEAN)
    run_sweep(of_tap, out, existing="append")
    assert read_table(out)["tap"].tolist() == [HIDDEN_STATES, FRAMES_MEAN]
    for config in (plain, of_tap):
        with pytest.raises(HiProbeError, match="holds 1 of these experiments already"):
            run_sweep(config, out, existing="append")


def test_a_tap_that_is_not_there_is_said_before_the_work(path, tmp_path):
    with pytest.raises(StoreError, match=r"has no 'heads' .*--taps heads"):
        run_sweep(SweepConfig((path,), tap="heads"), tmp_path / "out.csv")
