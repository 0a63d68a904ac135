"""One paired test of two settings of a sweep, over all draws."""

import numpy as np
import pytest

from hiprobe.evaluate.comparison import compare
from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import HiProbeError
from hiprobe.sweep.grid import SweepConfig
from hiprobe.sweep.kept_scores import KeptScores, folder_of
from hiprobe.sweep.paired import compare_settings
from hiprobe.sweep.pipeline import run_sweep


@pytest.fixture
def swept(make_store, tmp_path):
    def sweep(num_seeds=4, **options):
        store = make_store(num_videos=32)
        config = SweepConfig(
            (store,),
            scorers=("logistic",),
            fractions=(0.5,),
            seeds=tuple(range(num_seeds)),
            keep_scores=True,
            **options,
        )
        return store, tmp_path / "sweep.csv", run_sweep(config, tmp_path / "sweep.csv")

    return sweep


def test_a_better_layer_is_clear_over_draws(swept):
    _, out, table = swept()
    forth = compare_settings(out, {"layer": "1"}, {"layer": "3"}, num_resamples=200)
    back = compare_settings(out, {"layer": "3"}, {"layer": "1"}, num_resamples=200)
    auc = forth["auc"]
    means = table.groupby("layer")["auc"].mean()
    assert (auc["a"], auc["b"]) == pytest.approx((means[1], means[3]), abs=1e-12)
    assert auc["difference"] == pytest.approx(means[3] - means[1], abs=1e-12)
    assert auc["is_clear"]
    assert auc["p_value"] < 0.01
    assert forth["num_draws"] == 4
    differences = (
        table[table.layer == 3]["auc"].to_numpy() - table[table.layer == 1]["auc"].to_numpy()
    )
    assert auc["error_draws"] == pytest.approx(differences.std(ddof=1) / 2, abs=1e-12)
    assert auc["standard_error"] == pytest.approx(
        np.hypot(auc["error_draws"], auc["error_videos"]), abs=1e-12
    )
    assert auc["smallest_visible"] == pytest.approx(2.8 * auc["standard_error"])
    assert back["auc"]["interval"] == pytest.approx(
        {"low": -auc["interval"]["high"], "high": -auc["interval"]["low"]}
    )


def test_a_single_draw_is_compared_as_results_are(swept, tmp_path):
    """The error over videos is that of `compare` on two evaluations of the same draw."""
    store, out, _ = swept(num_seeds=1)
    own = compare_settings(out, {"layer": "2"}, {"layer": "3"}, num_resamples=200)["auc"]
    for layer in (2, 3):
        probe = run_probe(ProbeConfig(store, fraction=0.5, layer=layer))
        probe.save(tmp_path / "probe.json")
        folder = tmp_path / f"r{layer}"
        run_evaluate(EvaluateConfig(store, tmp_path / "probe.json", folder, num_resamples=0))
    expected = compare(tmp_path / "r2", tmp_path / "r3", num_resamples=200)["auc"]
    for name in ("a", "b", "difference", "standard_error"):
        assert own[name] == pytest.approx(expected[name], abs=1e-12), name
    assert own["error_draws"] == 0


def test_settings_that_are_none_or_several_are_named(swept):
    _, out, _ = swept(layers=(2, 3))
    with pytest.raises(HiProbeError, match="no experiment with layer=9; layer is 2, 3"):
        compare_settings(out, {"layer": "9"}, {"layer": "3"})
    with pytest.raises(HiProbeError, match="scorer=logistic is more than one setting: layer is 2"):
        compare_settings(out, {"scorer": "logistic"}, {"layer": "3"})
    with pytest.raises(HiProbeError, match="nothing called 'depth' to choose by, expected some of"):
        compare_settings(out, {"depth": "2"}, {"layer": "3"})


def test_scores_that_are_not_there_or_damaged_are_said(swept, make_store, tmp_path):
    store, out, _ = swept(layers=(2, 3))
    plain = tmp_path / "plain.csv"
    run_sweep(SweepConfig((store,), layers=(3,), scorers=("logistic",)), plain)
    with pytest.raises(HiProbeError, match="it keeps no scores, and a paired test needs them"):
        compare_settings(plain, {"layer": "2"}, {"layer": "3"})
    file = next(folder_of(out).glob("*layer-2.npz"))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(HiProbeError, match=r"layer-2.npz: not the kept scores of a sweep"):
        compare_settings(out, {"layer": "2"}, {"layer": "3"})
    file.unlink()
    with pytest.raises(HiProbeError, match=r"layer-2.npz: not the kept scores of a sweep"):
        compare_settings(out, {"layer": "2"}, {"layer": "3"})


def test_kept_scores_give_the_tables_areas_and_outlive_an_append(swept):
    store, out, table = swept(layers=(3,))
    more = SweepConfig(
        (store,), layers=(3,), scorers=("svm",), fractions=(0.5,), seeds=(0, 1), keep_scores=True
    )
    run_sweep(more, out, existing="append")
    for row in table.itertuples():
        kept = KeptScores.read(folder_of(out) / row.scores)
        assert kept.ranking(row.scores_row).metrics().auc == row.auc
    content = compare_settings(out, {"scorer": "logistic"}, {"scorer": "svm"}, num_resamples=100)
    assert content["num_draws"] == 2
