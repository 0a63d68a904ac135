"""Further states beside `hidden_states`: heads, visual tokens, prompts."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import xarray

from hiprobe.store import DONE, FeatureStore, PlannedVideo, StoreError, StoreWriter, VideoRecord
from hiprobe.store.merge import merge
from hiprobe.store.probe_inputs import Input
from hiprobe.store.subset import subset
from hiprobe.store.taps import FRAMES_MEAN, HEADS, HIDDEN_STATES, Tap
from hiprobe.store.verify import seal_digests, verify
from tests.conftest import forget_digests

ROW_BLOCK, LAYERS, WIDTH, NUM_HEADS = 4, (0, 1, 2), 6, 2
HEADS_TAP = Tap(HEADS, (1, 2), 8, num_heads=NUM_HEADS, site="o_proj input", position="last")
MEAN_TAP = Tap(FRAMES_MEAN, LAYERS, WIDTH, site="residual stream", position="visual tokens, mean")
PROMPTED = Tap(HIDDEN_STATES, LAYERS, WIDTH, prompt="severity")
PROMPTED_HEADS = Tap(HEADS, (1, 2), 8, prompt="severity", num_heads=NUM_HEADS)
ALL = (HEADS_TAP, MEAN_TAP, PROMPTED, PROMPTED_HEADS)
LENGTHS = {"a": 9, "b": 4, "c": 2}


def states_of(video_id, tap):
    rng = np.random.default_rng([*f"{video_id}{tap.name}".encode()])
    shape = (len(tap.layers), LENGTHS[video_id], tap.num_features)
    return rng.normal(size=shape).astype(np.float32)


MAIN = Tap(HIDDEN_STATES, LAYERS, WIDTH)


def planned(video_id):
    length = LENGTHS[video_id]
    ranges = [(24 * number, 24 * number + 24) for number in range(length)]
    record = VideoRecord(video_id, f"/nowhere/{video_id}.mp4", "test", "normal")
    return PlannedVideo(record, 24 * length, 25.0, ranges)


def fill(writer, names, taps):
    writer.add_videos([planned(name) for name in names])
    for name in names:
        video = writer.index.positions()[name]
        for block, start in enumerate(range(0, LENGTHS[name], ROW_BLOCK)):
            rows = slice(start, start + ROW_BLOCK)
            own = {tap.name: states_of(name, tap)[:, rows] for tap in taps}
            writer.write_block(video, block, states_of(name, MAIN)[:, rows], taps=own)
        frames = 24 * LENGTHS[name]
        writer.finish_video(video, status=DONE, num_frames=frames, fps=25.0)


def create(path, taps=ALL, provenance=()):
    return StoreWriter.create(
        path,
        layers=LAYERS,
        num_features=WIDTH,
        provenance=dict(provenance),
        row_block=ROW_BLOCK,
        taps=taps,
    )


@pytest.fixture
def path(tmp_path):
    with create(tmp_path / "s.zarr") as writer:
        fill(writer, LENGTHS, ALL)
    return tmp_path / "s.zarr"


def check(store, taps=ALL):
    for tap in (MAIN, *taps):
        for number, layer in enumerate(tap.layers):
            expected = np.concatenate([states_of(name, tap)[number] for name in LENGTHS])
            chosen = {"tap": tap.tap, "prompt": tap.prompt}
            np.testing.assert_array_equal(store.layer(layer, **chosen), expected)
            np.testing.assert_array_equal(store.dask(layer, **chosen).compute(), expected)
        np.testing.assert_array_equal(
            store.video("a", tap=tap.tap, prompt=tap.prompt), states_of("a", tap)
        )


def test_every_tap_is_read_as_it_was_written(path):
    store = FeatureStore.open(path)
    assert store.taps == ["hidden_states", "heads", "frames_mean"]
    assert store.prompts == ["", "severity"]
    check(store)
    heads = store.heads(2, ["a"], prompt="severity")
    assert heads.shape == (9, NUM_HEADS, 4)
    np.testing.assert_array_equal(heads[:, 1], states_of("a", PROMPTED_HEADS)[1][:, 4:])
    dataset = store.to_xarray()
    np.testing.assert_array_equal(
        dataset["taps_heads"].sel(taps_heads_layer=2), store.layer(2, tap="heads")
    )
    of_group = xarray.open_zarr(path, group="taps", consolidated=False, chunks=None)
    assert of_group["heads"].shape == (2, 20, 8)
    found = verify(path)
    assert (found.problems, found.num_blocks) == ([], 5)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"tap": "frames_last"},
            "has no 'frames_last' of prompt ''; it has hidden_states, heads, frames_mean and the "
            "prompts '', 'severity' (the first is also called ''). `hiprobe extract MANIFEST {} "
            "--model an/8b --taps frames_last` adds it.",
        ),
        ({"tap": "heads", "prompt": "other"}, "--model an/8b --prompt other=TEXT` adds it."),
        (
            {"tap": "frames_last", "prompt": "other"},
            "--model an/8b --taps frames_last --prompt other=TEXT` adds it.",
        ),
        (
            {"tap": "frames_mean", "prompt": "severity"},
            "it is taken of the video, before any prompt, and is there once. Leave the prompt out.",
        ),
        ({"tap": "nose"}, "has no tap 'nose'; it has hidden_states, heads, frames_mean."),
    ],
)
def test_what_the_store_lacks_is_said_with_what_it_has_and_what_adds_it(tmp_path, asked, said):
    path = tmp_path / "s.zarr"
    provenance = {"model": {"id": "an/8b"}}
    with create(path, provenance=provenance) as writer:
        fill(writer, LENGTHS, ALL)
    with pytest.raises(StoreError, match=re.escape(said.format(path)) + "$"):
        FeatureStore.open(path).layer(1, **asked)


def test_a_layer_that_a_tap_lacks_is_said_with_those_it_has(path):
    with pytest.raises(StoreError, match=r"no layer 0 of taps/heads; it has layers 1 to 2"):
        FeatureStore.open(path).heads(0)


def test_a_tap_can_be_added_and_resumed(tmp_path):
    path = tmp_path / "s.zarr"
    with create(path, ()) as writer:
        fill(writer, LENGTHS, ())
    before = (path / "hidden_states/c/0/0/0").read_bytes()
    with StoreWriter(path) as writer:
        writer.add_taps([HEADS_TAP])
        writer.add_taps([HEADS_TAP])
        writer.add_taps_of_block(0, 0, {HEADS_TAP.name: states_of("a", HEADS_TAP)[:, :4]})
    store = FeatureStore.open(path)
    check(store, ())
    with pytest.raises(StoreError, match=r"3 of 3 videos, such as 'a', have no taps/heads yet"):
        store.heads(1)
    assert verify(path).problems == []
    with StoreWriter(path) as writer:
        for video, name in enumerate(LENGTHS):
            for block in range(-(-LENGTHS[name] // ROW_BLOCK)):
                if writer.index.block_checksums(video, block, HEADS_TAP.name):
                    continue
                rows = slice(block * ROW_BLOCK, (block + 1) * ROW_BLOCK)
                own = states_of(name, HEADS_TAP)[:, rows]
                writer.add_taps_of_block(video, block, {HEADS_TAP.name: own})
        with pytest.raises(ValueError, match="the store has it otherwise"):
            writer.add_taps([Tap(HEADS, (1, 2), 8, num_heads=4)])
    check(FeatureStore.open(path), (HEADS_TAP,))
    assert (path / "hidden_states/c/0/0/0").read_bytes() == before


def test_another_block_of_a_tap_is_noticed(path):
    shard, other = (path / f"taps/heads/c/0/{number}/0" for number in (0, 1))
    content = shard.read_bytes()
    shard.write_bytes(other.read_bytes())
    with pytest.raises(StoreError, match="holds another block than the journals say"):
        FeatureStore.open(path).heads(1)
    shard.write_bytes(content[:100])
    assert len(verify(path).problems) == 1
    shard.unlink()
    assert "taps/heads/c/0/0/0 is missing" in verify(path).problems[0]
    with pytest.raises(StoreError, match="states of video 'a' are missing"):
        FeatureStore.open(path).heads(1)
    check(FeatureStore.open(path), (MEAN_TAP,))


def test_merging_and_shrinking_keep_taps(tmp_path):
    for part, names in (("x", ("a", "c")), ("y", ("b",))):
        with create(tmp_path / f"{part}.zarr") as writer:
            fill(writer, names, ALL)
    merge(tmp_path / "m.zarr", [tmp_path / "x.zarr", tmp_path / "y.zarr"])
    merged = FeatureStore.open(tmp_path / "m.zarr")
    np.testing.assert_array_equal(merged.video("b", tap=HEADS), states_of("b", HEADS_TAP))
    assert merged.taps == ["hidden_states", "heads", "frames_mean"]
    subset(tmp_path / "m.zarr", tmp_path / "small.zarr", layers=[1], only=["a", "b"])
    small = FeatureStore.open(tmp_path / "small.zarr")
    assert small.layers == [1]
    # As if it had been extracted with these layers: of further taps it has no others either.
    assert [tap.layers for tap in small.further_taps] == [(1,)] * 4
    np.testing.assert_array_equal(small.video("a", tap=HEADS), states_of("a", HEADS_TAP)[:1])
    np.testing.assert_array_equal(small.video("b", tap=FRAMES_MEAN), states_of("b", MEAN_TAP)[1:2])
    assert verify(tmp_path / "small.zarr").problems == []
    with create(tmp_path / "none.zarr", ()) as writer:
        fill(writer, ("b",), ())
    with pytest.raises(StoreError, match="further_taps"):
        merge(tmp_path / "n.zarr", [tmp_path / "x.zarr", tmp_path / "none.zarr"])


def test_shrinking_to_what_a_probe_reads_leaves_other_taps_and_prompts_out(path, tmp_path):
    read = [Input(2, HEADS, "severity", (1,), NUM_HEADS), Input(1)]
    for _ in range(2):  # the second time it is there already
        subset(path, tmp_path / "small.zarr", layers=[1, 2], inputs=read)
    small = FeatureStore.open(tmp_path / "small.zarr")
    assert small.further_taps == [PROMPTED_HEADS]
    np.testing.assert_array_equal(
        small.video("a", tap=HEADS, prompt="severity"), states_of("a", PROMPTED_HEADS)
    )
    # Layer 0 has no heads: a store of it alone has no such tap.
    subset(path, tmp_path / "zero.zarr", layers=[0])
    assert FeatureStore.open(tmp_path / "zero.zarr").further_taps == [
        replace(tap, layers=(0,)) for tap in (MEAN_TAP, PROMPTED)
    ]
    with pytest.raises(StoreError, match="has no 'frames_last' of prompt ''"):
        subset(path, tmp_path / "n.zarr", layers=[1], inputs=[Input(1, "frames_last")])
    assert not (tmp_path / "n.zarr").exists()


def test_what_does_not_fit_is_refused(tmp_path):
    with create(tmp_path / "s.zarr", (HEADS_TAP,)) as writer:
        writer.add_videos([planned("a")])
        states, heads = (states_of("a", tap)[:, :4] for tap in (MAIN, HEADS_TAP))
        for taps in ({}, {"taps/heads": heads, "taps/frames_mean": heads}):
            with pytest.raises(ValueError, match="expected the taps"):
                writer.write_block(0, 0, states, taps=taps)
        for wrong in (heads[:1], heads[..., :4], heads[:, :3]):
            with pytest.raises(ValueError, match="has room for"):
                writer.write_block(0, 0, states, taps={"taps/heads": wrong})
        with pytest.raises(ValueError, match="is not committed yet"):
            writer.add_taps_of_block(0, 0, {"taps/heads": heads})
    assert verify(tmp_path / "s.zarr").num_blocks == 0


@pytest.mark.parametrize(
    "record",
    [
        {"tap": "heads", "layers": [2, 1], "num_features": 8},
        {"tap": "heads", "layers": [1, 2], "num_features": "8"},
        {"tap": "heads", "layers": [1, 2], "num_features": 8, "num_heads": 3},
        {"tap": "../x", "layers": [1, 2], "num_features": 8},
        {"tap": "heads", "layers": [1, 2, 3], "num_features": 8},
        [],
    ],
)
def test_a_damaged_attribute_is_named(path, record):
    forget_digests(path)
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["taps"] = {"taps/heads": record}
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore.open(path)


def test_sealing_an_older_store_keeps_its_taps(path):
    assert seal_digests(path) == 0
    check(FeatureStore.open(path))
