"""Two stores of the same videos, made in two ways: what has moved, and whether it matters."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hiprobe.cli.main import app
from hiprobe.store import FeatureStore, PlannedVideo, StoreError, StoreWriter, VideoRecord
from hiprobe.store.subset import subset
from hiprobe.sweep.change_of_states import compare_states


def made_otherwise(path, out, change, load_in="int8", step=24):
    """The same videos with `change(layer, states)` for each (segment, feature)."""
    store = FeatureStore.open(path)
    model = store.provenance["model"] | {"load_in": load_in}
    writer = StoreWriter.create(
        out,
        layers=store.layers,
        num_features=store.num_features,
        provenance={"model": model, "manifest": store.provenance["manifest"]},
        row_block=store.row_block,
    )
    with writer:
        rows = list(store.videos.reset_index().itertuples())
        writer.add_videos([_plan(row, step) for row in rows])
        for number, row in enumerate(rows):
            states = store.video(row.video_id)
            states = np.stack(
                [change(layer, own) for layer, own in zip(store.layers, states, strict=True)]
            )
            for block in range(0, states.shape[1], store.row_block):
                writer.write_block(
                    number, block // store.row_block, states[:, block : block + store.row_block]
                )
            writer.finish_video(number, status="done", num_frames=row.num_frames, fps=row.fps)
    return out


def _plan(row, step):
    record = VideoRecord(
        row.video_id, row.path, row.split, row.label, row.category, tuple(row.annotations)
    )
    ranges = [
        (start, min(start + step, row.num_frames)) for start in range(0, 24 * row.num_segments, 24)
    ]
    return PlannedVideo(record, row.num_frames, row.fps, ranges)


def test_a_store_has_not_moved_from_itself(make_store):
    path = make_store()
    found = compare_states(path, path, num_resamples=100)
    assert found["differences"] == found["warnings"] == []
    assert (found["num_videos"], found["num_segments"]) == (24, 361)
    assert {one["relative_l2_max"] for one in found["layers"].values()} == {0.0}
    for one in found["readings"]:
        assert one["layers"][0] == one["layers"][1]
        assert one["by_rule"] == one["same_layers"]
        assert one["by_rule"]["difference"] == 0
        assert one["by_rule"]["interval"] == [0, 0]
    assert found["readings"][0]["layers"] == [[3], [3]]


def test_each_layer_moves_by_what_was_added_beside_the_distance_of_segments(make_store, tmp_path):
    path = make_store()
    out = made_otherwise(path, tmp_path / "q.zarr", lambda layer, own: own * (1 + 0.01 * layer))
    found = compare_states(path, out, num_resamples=100)
    assert {"name": "model.load_in", "first": None, "second": "int8"} in found["differences"]
    for layer, one in found["layers"].items():
        assert one["relative_l2_median"] == pytest.approx(0.01 * int(layer), abs=1e-6)
        assert one["relative_l2_max"] == pytest.approx(0.01 * int(layer), abs=1e-6)
    # All segments have the same state in layer 0; in others they are independent normal numbers.
    assert found["layers"]["0"]["between_segments"] == 0
    assert found["layers"]["2"]["between_segments"] == pytest.approx(2**0.5, rel=0.15)


def test_a_layer_that_is_lost_is_seen_in_the_choice_and_the_auc(make_store, tmp_path):
    rng = np.random.default_rng(1)

    def drown(layer, own):
        return own + (rng.normal(0, 20, own.shape) if layer == 3 else 0)

    path = make_store()
    out = made_otherwise(path, tmp_path / "drowned.zarr", drown)
    dlsp, _ = compare_states(path, out, num_resamples=200)["readings"]
    assert dlsp["layers"][0] == [3]
    assert dlsp["layers"][1] != [3]
    for found in (dlsp["by_rule"], dlsp["same_layers"]):
        assert found["auc"][0] > 0.95
        assert found["auc"][1] < 0.7
        assert found["interval"][0] < found["difference"] < found["interval"][1] < 0


def test_another_choice_is_told_from_another_layer(make_store, tmp_path):
    """A store of fewer layers has another upper half; its states are the same."""
    path, fewer = make_store(), tmp_path / "fewer.zarr"
    subset(path, fewer, layers=(0, 1, 2, 3))
    dlsp, upper = compare_states(fewer, path, num_resamples=100)["readings"]
    assert dlsp["by_rule"]["difference"] == 0
    assert upper["layers"] == [[2, 3], [3, 4]]
    assert upper["same_layers"]["difference"] == 0
    assert upper["by_rule"]["difference"] != 0


def test_videos_of_one_store_only_leave_the_probes_out(make_store, tmp_path):
    path = make_store()
    subset(path, tmp_path / "part.zarr", only=("video-0*",))
    found = compare_states(path, tmp_path / "part.zarr")
    assert found["num_videos"] == 10
    assert found["readings"] == []
    assert "14 videos are finished in one store only" in found["warnings"][0]


def test_without_labels_the_states_are_compared_still(make_store):
    path = make_store(labels=("normal",))
    found = compare_states(path, path)
    assert len(found["layers"]) == 5
    assert found["readings"] == []
    assert "no probe by the rule dlsp" in found["warnings"][0]


def test_stores_that_have_nothing_in_common_are_refused(make_store, tmp_path):
    path = make_store()
    with pytest.raises(StoreError, match="nothing to compare"):
        compare_states(path, make_store(num_features=8, name="narrow.zarr"))
    other = made_otherwise(path, tmp_path / "cut.zarr", lambda layer, own: own, step=12)
    with pytest.raises(StoreError, match="segments are not those of"):
        compare_states(path, other)


def test_the_command_prints_and_writes_it(make_store, tmp_path):
    path = make_store()
    out = made_otherwise(path, tmp_path / "q.zarr", lambda layer, own: own * 1.01)
    arguments = ["store", "compare-states", path, out, "--out", tmp_path / "change.json"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert "model.load_in: None, 'int8'" in result.output
    assert "dlsp: reads layers 3 of the first and 3 of the second; test AUC" in result.output
    content = json.loads((tmp_path / "change.json").read_text())
    assert content["layers"]["3"]["relative_l2_median"] == pytest.approx(0.01, abs=1e-6)
