"""Writing and reading real Zarr stores, and what may go wrong with them."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from hiprobe.store import (
    DONE,
    FAILED,
    FeatureStore,
    PlannedVideo,
    StoreError,
    StoreWriter,
    VideoRecord,
)
from hiprobe.store.journal import JournalWriter, read_journal
from tests.conftest import forget_digests

LAYERS, FEATURES, BLOCK = 3, 6, 4
LENGTHS = {"short": 1, "exact": 4, "long": 11, "two": 2}


def states_of(name, num_segments):
    rng = np.random.default_rng(list(name.encode()))
    return rng.normal(size=(LAYERS, num_segments, FEATURES)).astype(np.float32)


def plan(name, num_segments, **fields):
    num_frames = max(0, 24 * num_segments - 3)
    record = VideoRecord(name, f"/v/{name}.mp4", "train", "normal", **fields)
    ranges = [(24 * i, min(24 * i + 24, num_frames)) for i in range(num_segments)]
    return PlannedVideo(record, num_frames, 25.0, ranges)


def create(path):
    return StoreWriter.create(
        path, layers=range(LAYERS), num_features=FEATURES, provenance={"x": 1}, row_block=BLOCK
    )


def write_video(writer, video, states, status=DONE):
    for block, start in enumerate(range(0, states.shape[1], BLOCK)):
        writer.write_block(video, block, states[:, start : start + BLOCK])
    num_frames = writer.index.num_frames(video)
    writer.finish_video(video, status=status, num_frames=num_frames, fps=25.0)


@pytest.fixture
def path(tmp_path):
    with create(tmp_path / "s.zarr") as writer:
        writer.add_videos([plan(name, length) for name, length in LENGTHS.items()])
        for video, (name, length) in enumerate(LENGTHS.items()):
            write_video(writer, video, states_of(name, length))
    return tmp_path / "s.zarr"


@pytest.fixture
def expected():
    return np.concatenate([states_of(name, length) for name, length in LENGTHS.items()], axis=1)


def test_every_way_of_reading_gives_what_was_written(path, expected):
    store = FeatureStore.open(path)
    assert store.layers == [0, 1, 2]
    assert store.num_features == FEATURES
    dataset = store.to_xarray()
    for layer in range(LAYERS):
        np.testing.assert_array_equal(store.layer(layer), expected[layer])
        np.testing.assert_array_equal(store.dask(layer).compute(), expected[layer])
        np.testing.assert_array_equal(dataset["hidden_states"].sel(layer=layer), expected[layer])
    for name, length in LENGTHS.items():
        np.testing.assert_array_equal(store.video(name), states_of(name, length))
    assert store.layer(1).dtype == np.float32
    assert store.provenance["x"] == 1


@pytest.mark.parametrize("subset", [["long"], ["two", "short"], ["exact", "long"], []])
def test_some_videos_come_in_the_stores_order(path, subset):
    ordered = [name for name in LENGTHS if name in subset]
    parts = [np.zeros((0, FEATURES)), *(states_of(name, LENGTHS[name])[2] for name in ordered)]
    np.testing.assert_array_equal(FeatureStore.open(path).layer(2, subset), np.concatenate(parts))


def test_tables_describe_the_rows(path):
    store = FeatureStore.open(path)
    assert len(store.segments) == sum(LENGTHS.values())
    long = store.segments[store.segments["video_id"] == "long"]
    assert long["segment"].tolist() == list(range(11))
    assert long["start_frame"].tolist() == [24 * i for i in range(11)]
    assert long["stop_frame"].tolist()[-1] == 24 * 11 - 3
    assert store.videos.loc["long", "num_segments"] == 11
    assert store.videos.loc["long", "annotations"] == ()
    assert "4 videos (4 done), 18 segments" in repr(store)


def test_any_zarr_reader_sees_labelled_arrays(path, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # also those that pyproject.toml lets pass
        dataset = xarray.open_zarr(path, consolidated=False, chunks=None)
    assert dataset["hidden_states"].dims == ("layer", "row", "feature")
    rows = dataset["valid"].to_numpy()
    np.testing.assert_array_equal(dataset["hidden_states"].to_numpy()[:, rows], expected)
    assert np.isnan(dataset["hidden_states"].to_numpy()[:, ~rows]).all()
    assert dataset["status"].to_numpy().tolist() == [DONE] * 4


def test_pending_and_failed_videos_are_left_out_and_listed(tmp_path):
    with create(tmp_path / "s") as writer:
        names = ("done", "failed", "pending", "unreadable")
        writer.add_videos([plan(name, 5 if name != "unreadable" else 0) for name in names])
        write_video(writer, 0, states_of("done", 5))
        write_video(writer, 1, states_of("failed", 5), status=FAILED)
        writer.write_block(2, 0, states_of("pending", 4))
        writer.finish_video(3, status=FAILED, num_frames=0, fps=np.nan, error="no such file")
    store = FeatureStore.open(tmp_path / "s")
    assert store.videos["status"].tolist() == [DONE, FAILED, "pending", FAILED]
    assert store.videos.loc["unreadable", "error"] == "no such file"
    np.testing.assert_array_equal(store.layer(0), states_of("done", 5)[0])
    with pytest.raises(StoreError, match="'pending' is pending"):
        store.video("pending")


def test_a_video_that_ended_early_loses_its_last_segments(tmp_path):
    with create(tmp_path / "s") as writer:
        writer.add_videos([plan("a", 6), plan("b", 2)])
        writer.write_block(0, 0, states_of("a", 4))
        writer.finish_video(0, status=DONE, num_frames=80, fps=25.0, error="80 of 141 frames")
        write_video(writer, 1, states_of("b", 2))
    store = FeatureStore.open(tmp_path / "s")
    assert store.segments.query("video_id == 'a'")["stop_frame"].tolist() == [24, 48, 72, 80]
    np.testing.assert_array_equal(store.video("a"), states_of("a", 4))
    assert len(store.layer(0)) == 6


def test_videos_can_be_added_later(path, expected):
    with StoreWriter(path) as writer:
        writer.add_videos([plan("new", 3)])
        write_video(writer, 4, states_of("new", 3))
    whole = np.concatenate([expected, states_of("new", 3)], axis=1)
    np.testing.assert_array_equal(FeatureStore.open(path).layer(1), whole[1])


NUM_KILLED_VIDEOS = 60
KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_store import *
with create(Path({path!r})) as writer:
    writer.add_videos([plan(f"v{{i}}", 11) for i in range(NUM_KILLED_VIDEOS)])
    for video in range(NUM_KILLED_VIDEOS):
        write_video(writer, video, states_of(f"v{{video}}", 11))
        print(video, flush=True)
"""


@pytest.mark.parametrize("num_videos", [1, 6, 15])
def test_a_killed_writer_loses_nothing_that_was_committed(tmp_path, num_videos):
    path = tmp_path / "s.zarr"
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for _ in range(num_videos):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)  # in the middle of writing the next ones
    process.communicate()

    store = FeatureStore.open(path)
    done = set(np.flatnonzero(store.videos["status"] == DONE))
    assert num_videos <= len(done) < NUM_KILLED_VIDEOS
    assert f"{len(done)} done" in repr(store)
    assert f"{NUM_KILLED_VIDEOS - len(done)} pending" in repr(store)
    assert set(store.segments["video_id"]) == {f"v{video}" for video in done}
    with StoreWriter(path) as writer:
        for video in range(NUM_KILLED_VIDEOS):
            first = writer.index.video_rows(video).start
            source = states_of(f"v{video}", 11)
            # Committed blocks of the unfinished video are whole too.
            for block in range(writer.index.committed(video)):
                start, stop = block * BLOCK, min(block * BLOCK + BLOCK, 11)
                stored = zarr.open_group(path, mode="r")["hidden_states"]
                np.testing.assert_array_equal(
                    stored[:, first + start : first + stop], source[:, start:stop]
                )
            if video not in done:
                write_video(writer, video, source)
    whole = np.concatenate([states_of(f"v{i}", 11) for i in range(NUM_KILLED_VIDEOS)], axis=1)
    store = FeatureStore.open(path)
    for layer in range(LAYERS):
        np.testing.assert_array_equal(store.layer(layer), whole[layer])


def test_what_a_killed_writer_left_half_written_is_swept(path):
    with StoreWriter(path) as writer:
        writer.add_videos([plan("new", 3)])
    leftover = path / "hidden_states/c/0/6/0.0123abcd.partial"
    leftover.parent.mkdir()
    leftover.touch()
    StoreWriter(path).__exit__()
    assert not leftover.exists()
    assert len(FeatureStore.open(path).layer(0)) == 18


def test_a_store_reads_while_it_is_written(path, expected):
    with StoreWriter(path) as writer:
        writer.add_videos([plan("new", 3), plan("later", 2)])
        writer.write_block(4, 0, states_of("new", 3))
        np.testing.assert_array_equal(FeatureStore.open(path).layer(0), expected[0])
        write_video(writer, 4, states_of("new", 3))
        np.testing.assert_array_equal(FeatureStore.open(path).video("new"), states_of("new", 3))


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (3, (LAYERS, 1, FEATURES)),
        (2, (LAYERS, 4, FEATURES)),
        (0, (LAYERS, 5, FEATURES)),
        (0, (LAYERS, 0, FEATURES)),
        (0, (1, 4, FEATURES)),
        (0, (LAYERS, 4, 1)),
    ],
)
def test_a_block_that_does_not_fit_is_refused(tmp_path, block, shape):
    with create(tmp_path / "s") as writer:
        writer.add_videos([plan("a", 11), plan("b", 4)])
        with pytest.raises(ValueError, match=r"hidden_states: block . of video 0 .* got \("):
            writer.write_block(0, block, np.zeros(shape))
    assert not (tmp_path / "s/hidden_states/c").exists()


def test_a_torn_journal_line_counts_for_nothing(path):
    (journal,) = (path / "journal").glob("*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:-20])
    assert FeatureStore.open(path).videos["status"].tolist()[-1] == DONE  # sealed before
    assert len(list(read_journal(path / "journal"))) == len(lines) - 1


def test_a_journal_line_cut_by_a_full_disk_spoils_no_later_line(tmp_path, monkeypatch):
    journal, write = JournalWriter(tmp_path, 1), os.write
    journal.append({"block": 0})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:9]))
        with pytest.raises(OSError, match="No space left"):
            journal.append({"block": 1})
    journal.append({"block": 2})
    assert [*read_journal(tmp_path)][1:] == [{"block": 0}, {"block": 2}]


def test_a_journal_of_another_plan_is_refused(path):
    JournalWriter(path / "journal", 9).append({"event": "block", "video": 9, "block": 0, "rows": 1})
    with pytest.raises(StoreError, match="the journal names video 9, the store has 4"):
        FeatureStore.open(path)


def test_two_writers_at_once_are_refused(path):
    with StoreWriter(path), pytest.raises(StoreError, match="another process is writing"):
        StoreWriter(path)
    StoreWriter(path).__exit__()


def test_another_schema_version_is_refused(path):
    zarr.open_group(path, mode="r+").attrs["schema_version"] = 2
    with pytest.raises(StoreError) as error:
        FeatureStore.open(path)
    assert str(error.value) == (
        f"{path}: schema version is 2, this hiprobe reads 1. "
        "Upgrade hiprobe, or extract again with this version."
    )


def test_what_is_no_store_says_so(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    zarr.create_group(tmp_path / "other.zarr")
    for name, message in {
        "missing": "no such store",
        "file": "not a feature store",
        "folder": "not a feature store",
        "other.zarr": "not a hiprobe store",
    }.items():
        with pytest.raises(StoreError, match=message):
            FeatureStore.open(tmp_path / name)
    (tmp_path / "folder/x").touch()
    with pytest.raises(StoreError, match="exists and is no feature store"):
        create(tmp_path / "folder")


def test_an_unknown_layer_or_video_says_so(path):
    store = FeatureStore.open(path)
    with pytest.raises(StoreError, match="no layer 9; it has layers 0 to 2"):
        store.layer(9)
    with pytest.raises(StoreError, match="no video 'x'"):
        store.video("x")


@pytest.mark.parametrize("where", [0.3, 0.99, -1])
def test_a_flipped_byte_is_noticed(path, where):
    """In a chunk, in the index at the end, and in the index's checksum."""
    shard = path / "hidden_states/c/0/1/0"
    content = bytearray(shard.read_bytes())
    content[where if where < 0 else int(where * len(content))] ^= 1
    shard.write_bytes(content)
    store = FeatureStore.open(path)
    with pytest.raises(StoreError, match="damaged"):
        np.stack([store.layer(layer) for layer in range(LAYERS)])


def test_a_cut_shard_is_noticed(path):
    shard = path / "hidden_states/c/0/1/0"
    for length in (0, 10, shard.stat().st_size - 1):
        os.truncate(shard, length)
        with pytest.raises(StoreError, match="damaged"):
            FeatureStore.open(path).layer(1)


@pytest.mark.parametrize("max_rows", [1, 4, 13, 100])
def test_a_layer_some_videos_at_a_time(path, max_rows):
    store = FeatureStore.open(path)
    groups = list(store.iter_layer(1, max_rows=max_rows))
    np.testing.assert_array_equal(np.concatenate([states for _, states in groups]), store.layer(1))
    assert [name for names, _ in groups for name in names] == list(store.videos.index)
    assert all(len(states) <= max_rows or len(names) == 1 for names, states in groups)


def test_a_layer_equals_what_zarr_reads(path):
    """By the direct reader, and in a store that another tool has written with other codecs."""
    store = FeatureStore.open(path)
    states = store.to_xarray()["hidden_states"]
    for layer in store.layers:
        np.testing.assert_array_equal(store.layer(layer), states.sel(layer=layer))
    before = [store.layer(layer) for layer in store.layers]
    forget_digests(path)
    group = zarr.open_group(path, mode="a")
    content, shape = group["hidden_states"][:], group["hidden_states"].shards
    names = group["hidden_states"].metadata.dimension_names
    group.create_array(
        "hidden_states", data=content, shards=shape, chunks=shape, dimension_names=names,
        fill_value=float("nan"), overwrite=True,
    )  # fmt: skip
    store = FeatureStore.open(path)
    for layer, states in zip(store.layers, before, strict=True):
        np.testing.assert_array_equal(store.layer(layer), states)


def test_a_missing_shard_is_noticed(path):
    (path / "hidden_states/c/0/1/0").unlink()
    store = FeatureStore.open(path)
    for read in (lambda: store.layer(1), lambda: store.video("exact")):
        with pytest.raises(StoreError, match="states of video 'exact' are missing"):
            read()
    np.testing.assert_array_equal(store.layer(1, ["two"]), states_of("two", 2)[1])


def test_a_read_only_folder_is_one_message(path):
    folder = path / "journal"
    (folder / "lock").unlink(missing_ok=True)
    folder.chmod(0o555)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("permissions are not enforced here (root): nothing to test")
        with pytest.raises(StoreError, match="cannot write: Permission denied"):
            StoreWriter(path)
    finally:
        folder.chmod(0o755)


def test_reading_needs_no_torch():
    code = "import sys; from hiprobe.store import FeatureStore; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


FULL_DISK = """
import sys, resource
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_store import *
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = create(Path({path!r}))
writer.add_videos([plan("a", 4), plan("b", 4)])
write_video(writer, 0, states_of("a", 4))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    writer.write_block(1, 0, states_of("b", 4))
except StoreError as error:
    print(error)
"""


def test_a_full_disk_is_one_message_and_loses_nothing(tmp_path):
    path = tmp_path / "s.zarr"
    code = FULL_DISK.format(tests=str(Path(__file__).parent), path=str(path))
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "cannot write" in result.stdout, result.stderr
    assert "What was committed is intact" in result.stdout
    np.testing.assert_array_equal(FeatureStore.open(path).video("a"), states_of("a", 4))
    with StoreWriter(path) as writer:
        write_video(writer, 1, states_of("b", 4))
    np.testing.assert_array_equal(FeatureStore.open(path).video("b"), states_of("b", 4))
