"""A store cannot be silently wrong: what is not what was written is refused, with a message."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from hiprobe.store import FAILED, BlockWriter, FeatureStore, StoreError, StoreWriter
from hiprobe.store.digests import digest_of
from hiprobe.store.journal import encode, read_journal
from hiprobe.store.merge import merge
from hiprobe.store.schema import INDEX_ARRAYS
from hiprobe.store.verify import verify
from tests.conftest import forget_digests
from tests.store.test_store import (
    FEATURES,
    LAYERS,
    create,
    path,  # noqa: F401 a fixture
    plan,
    states_of,
    write_video,
)
from tests.store.test_thumbnails import make as make_with_thumbnails

SMALL_FILES = [
    "zarr.json",
    "journal/zarr.json",
    "hidden_states/zarr.json",
    "layer/zarr.json",
    "layer/c/0",
    *(f"{array.name}/{file}" for array in INDEX_ARRAYS for file in ("zarr.json", "c/0")),
]


def read_all(store_path):
    """Everything that a user may read of a store."""
    store = FeatureStore.open(store_path)
    store.videos, store.segments, store.layers, store.provenance, repr(store)
    return [store.layer(layer) for layer in store.layers], [
        store.video(name) for name in store.videos.index[store.videos["status"] == "done"]
    ]


def swap(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def rewrite_journal(store_path, change):
    """Write a store's one journal anew, with right checksums."""
    (journal,) = (store_path / "journal").glob("*.jsonl")
    journal.write_bytes(b"".join(map(encode, change([*read_journal(journal.parent)]))))


@pytest.mark.parametrize("file", SMALL_FILES)
def test_a_flip_in_any_small_file_is_refused_and_named(path, file):  # noqa: F811
    content = bytearray((path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (path / file).write_bytes(content)
    if file == "journal/zarr.json":  # nobody reads it
        assert file in verify(path).problems[0]
        return
    for read in (FeatureStore.open, verify, StoreWriter):
        with pytest.raises(StoreError, match=file.replace(".", r"\.")):
            read(path)


@pytest.mark.parametrize("file", ["label/c/0", "layer/c/0", "zarr.json", "error/zarr.json"])
def test_a_small_file_that_is_gone_or_anothers_is_refused(path, file):  # noqa: F811
    content = (path / file).read_bytes()
    (path / file).unlink()
    with pytest.raises(StoreError, match=r"is missing|not a feature store"):
        FeatureStore.open(path)
    (path / file).write_bytes((path / "category/c/0").read_bytes())
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore.open(path)
    (path / file).write_bytes(content)
    read_all(path)


def test_a_digest_tells_files_apart_that_end_with_their_own_checksum(path):  # noqa: F811
    """A CRC-32C of them would be the same number for all."""
    files = [(path / f"{name}/c/0").read_bytes() for name in ("video", "segment", "video_id")]
    assert len({*map(digest_of, files)}) == 3


@pytest.mark.parametrize("other", ["0/2/0", "0/3/0"])
def test_swapped_blocks_are_refused_by_readers_and_verify(path, other):  # noqa: F811
    swap(path / "hidden_states/c/0/1/0", path / "hidden_states/c" / other)
    store = FeatureStore.open(path)
    for read in (lambda: store.layer(1), lambda: store.video("exact")):
        with pytest.raises(StoreError, match="another block than the journals say"):
            read()
    assert len(verify(path).problems) == 2


def test_a_block_of_another_store_is_refused(path, tmp_path):  # noqa: F811
    with create(tmp_path / "other") as writer:
        writer.add_videos([plan("x", 4)])
        write_video(writer, 0, states_of("x", 4))
    shutil.copy(tmp_path / "other/hidden_states/c/0/0/0", path / "hidden_states/c/0/1/0")
    with pytest.raises(StoreError, match="another block"):
        FeatureStore.open(path).layer(2)
    assert "another block" in verify(path).problems[0]


def test_swapped_pictures_are_refused(tmp_path):
    store = make_with_thumbnails(tmp_path / "s")
    swap(store / "thumbnail/c/1/0/0/0", store / "thumbnail/c/2/0/0/0")
    with pytest.raises(StoreError, match="another block"):
        FeatureStore.open(store).thumbnails("long")
    assert len(verify(store).problems) == 2


FULL = """
import resource, signal, sys
sys.path[:0] = {tests!r}, {root!r}
from test_store import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = StoreWriter({path!r})
real = os.write
count = 0
def write(descriptor, content):  # a disk that fills at the n-th write, and stays full
    global count
    count += 1
    if count >= {nth}:
        raise OSError(28, os.strerror(28))
    return real(descriptor, content)
os.write = write
try:
    writer.add_videos([plan("new", 5), plan("newer", 3)])
    print("added")
except StoreError as error:
    assert "No space left" in str(error), error
    print("full")
"""


def test_a_disk_that_fills_at_any_write_leaves_the_old_plan_or_the_new(tmp_path, path):  # noqa: F811
    outcomes = set()
    for nth in (1, 2, 20, 35, 36, 37):
        copy = tmp_path / str(nth)
        shutil.copytree(path, copy)
        code = FULL.format(
            tests=str(Path(__file__).parent),
            root=str(Path(__file__).parents[2]),
            path=str(copy),
            nth=nth,
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # noqa: PLW1510
        assert run.returncode == 0, run.stderr
        read_all(copy)
        assert verify(copy).problems == []
        num_videos = len(FeatureStore.open(copy).videos)
        assert num_videos in ((4, 6) if "full" in run.stdout else (6,))
        outcomes.add((run.stdout, num_videos))
        with StoreWriter(copy) as writer:  # the same command goes on
            names = {"new": 5, "newer": 3}
            known = writer.index.positions()
            writer.add_videos([plan(n, k) for n, k in names.items() if n not in known])
            for name, length in names.items():
                write_video(writer, writer.index.positions()[name], states_of(name, length))
        np.testing.assert_array_equal(FeatureStore.open(copy).video("new"), states_of("new", 5))
        assert verify(copy).problems == []
    assert ("full\n", 4) in outcomes
    assert ("added\n", 6) in outcomes


@pytest.mark.parametrize("kind", ["rows", "zero"])
def test_an_impossible_plan_is_refused(path, kind):  # noqa: F811
    forget_digests(path)  # so that only the plan itself can tell
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["num_rows"] = {"rows": 4, "zero": 0}[kind]
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match=r"its plan cannot be: the video '.*' has more segments"):
        FeatureStore.open(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("video_id", "long", "twice"),
        ("first_row", 2, "begin inside a block"),
        ("first_row", 4096, "out of order"),
        ("num_segments", 9, "more segments than rows"),
        ("num_segments", -1, "a negative length"),
        ("video", 77, "rows of a video 77"),
        ("segment", 3, "out of order"),
        ("start_frame", -7, "segments without frames"),
        ("status", "dome", "status is 'dome'"),
        ("label", "normal?", "label is"),
        ("annotations", "9:1", "annotation"),
    ],
)
def test_columns_out_of_range_are_refused(path, name, value, message):  # noqa: F811
    forget_digests(path)
    zarr.open_group(path, mode="r+")[name][0] = value
    with pytest.raises(StoreError, match=message):
        _ = FeatureStore.open(path).videos


def test_the_order_of_journals_is_no_clocks(path, monkeypatch):  # noqa: F811
    """A clock that goes back: failed, set aside and planned again; then it opens."""
    monkeypatch.setattr("time.time_ns", lambda: 5)
    with StoreWriter(path) as writer:
        writer.add_videos([plan("bad", 3)])
        writer.finish_video(4, status=FAILED, num_frames=0, fps=np.nan, error="x")
    monkeypatch.setattr("time.time_ns", lambda: 1)
    with StoreWriter(path) as writer:
        writer.replace_failed(4)
        writer.add_videos([plan("bad", 3)])
        write_video(writer, 5, states_of("bad", 3))
    np.testing.assert_array_equal(FeatureStore.open(path).video("bad"), states_of("bad", 3))
    assert verify(path).problems == []


def test_two_who_create_one_store_get_one_message(tmp_path):
    writer = create(tmp_path / "s")
    for make in (create, StoreWriter):
        with pytest.raises(StoreError, match=r"another process is writing|it is a store already"):
            make(tmp_path / "s")
    writer.close()
    (tmp_path / "t/journal").mkdir(parents=True)
    from filelock import FileLock

    with FileLock(tmp_path / "t/journal/lock"), pytest.raises(StoreError, match="another process"):
        create(tmp_path / "t")
    create(tmp_path / "t").close()


KILL_CREATE = """
import os, signal, sys
sys.path[:0] = {tests!r}, {root!r}
from test_store import *
count = 0
def killing(function):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == {nth}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
for name in ("write", "fsync", "replace", "mkdir"):
    setattr(os, name, killing(getattr(os, name)))
create(Path({path!r})).close()
"""


@pytest.mark.parametrize("nth", [1, 2, 4, 7, 30, 75, 107, 120, 133, 135])
def test_a_killed_create_is_gone_on_with(tmp_path, nth):
    path = tmp_path / "s"  # noqa: F811
    code = KILL_CREATE.format(
        tests=str(Path(__file__).parent),
        root=str(Path(__file__).parents[2]),
        path=str(path),
        nth=nth,
    )
    run = subprocess.run([sys.executable, "-c", code], check=False)
    assert run.returncode == -signal.SIGKILL
    if path.exists() and not (path / "zarr.json").exists() and any(path.iterdir()):
        with pytest.raises(StoreError, match=r"the command that made it goes on, or delete it"):
            FeatureStore.open(path)
    with StoreWriter(path) if (path / "zarr.json").exists() else create(path) as writer:
        writer.add_videos([plan("a", 3)])
        write_video(writer, 0, states_of("a", 3))
    np.testing.assert_array_equal(FeatureStore.open(path).video("a"), states_of("a", 3))
    assert verify(path).problems == []
    assert not [*path.glob("**/*.partial")]


def test_a_folder_with_somebodys_files_is_never_cleared(tmp_path):
    for name in ("journal/mine.txt", "s/thesis.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(StoreError, match="exists and is no feature store"):
        create(tmp_path)
    assert (tmp_path / "s/thesis.txt").exists()


def test_consolidated_metadata_locks_nobody_out(path):  # noqa: F811
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is no Zarr, and that it is no standard yet
        zarr.consolidate_metadata(path)
    read_all(path)
    assert verify(path).problems == []
    with StoreWriter(path) as writer:
        writer.add_videos([plan("new", 3)])
        write_video(writer, 4, states_of("new", 3))
    assert len(FeatureStore.open(path).videos) == 5
    assert verify(path).problems == []


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
@pytest.mark.parametrize("file", ["zarr.json", "label/c/0", "hidden_states/c/0/1/0", "journal"])
def test_what_is_no_plain_file_neither_hangs_nor_fills_the_memory(path, file, kind):  # noqa: F811
    target = path / file
    if file == "journal":
        (target,) = target.glob("*.jsonl")
    target.unlink()
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to("/dev/zero")
    with pytest.raises(StoreError, match="not a regular file"):
        read_all(path)


def test_a_running_writer_sees_what_its_owner_adds(path):  # noqa: F811
    with StoreWriter(path) as owner:
        worker = BlockWriter(path)
        owner.add_videos([plan("new", 11)])
        worker.refresh()
        write_video(worker, 4, states_of("new", 11))
        owner.add_videos([plan("newer", 2)])
        owner.refresh()
        assert owner.index.status(4) == "done"
        worker.refresh()
        write_video(worker, 5, states_of("newer", 2))
    np.testing.assert_array_equal(FeatureStore.open(path).video("newer"), states_of("newer", 2))
    assert verify(path).problems == []


def test_a_refresh_reads_only_what_the_journals_gained(path, monkeypatch):  # noqa: F811
    with StoreWriter(path) as owner:
        owner.add_videos([plan("new", 3)])
        worker = BlockWriter(path)
        index = worker.index
        write_video(owner, 4, states_of("new", 3))
        worker.refresh()
        assert worker.index is index  # the plan was not read again
        assert worker.index.status(4) == "done"
        owner.record("note", 1)
        worker.refresh()
        assert worker.provenance["note"] == 1


def test_a_store_is_read_right_while_it_is_extended(path):  # noqa: F811
    code = f"""
import sys
sys.path[:0] = {str(Path(__file__).parent)!r}, {str(Path(__file__).parents[2])!r}
from test_store import *
with StoreWriter({str(path)!r}) as writer:
    for number in range(12):
        writer.add_videos([plan(f"n{{number}}", 3)])
        write_video(writer, 4 + number, states_of(f"n{{number}}", 3))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while process.poll() is None:
        read_all(path)
    assert process.returncode == 0
    assert len(FeatureStore.open(path).videos) == 16


def test_a_line_that_is_lost_doubled_or_moved_is_noticed(path):  # noqa: F811
    (journal,) = (path / "journal").glob("*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    for number in range(len(lines) - 1):
        before, line, after = lines[:number], lines[number], lines[number + 1 :]
        for changed in ([*before, *after], [*before, line, line, *after],
                        [*before, after[0], line, *after[1:]]):  # fmt: skip
            journal.write_bytes(b"".join(changed))
            with pytest.raises(StoreError, match=r"damaged: .*lines are missing or too many"):
                FeatureStore.open(path)
    journal.write_bytes(b"".join(lines))
    read_all(path)


def test_a_damaged_journal_is_refused_and_a_torn_end_is_not(path):  # noqa: F811
    (journal,) = (path / "journal").glob("*.jsonl")
    content = journal.read_bytes()
    journal.write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
    with pytest.raises(StoreError, match=r"the line at byte .* is damaged"):
        FeatureStore.open(path)
    journal.write_bytes(content + b"0123 {torn")
    read_all(path)
    assert "torn line" in verify(path).notes[0]
    journal.write_bytes(content)
    journal.rename(journal.with_name("r0000000007-x-1.jsonl"))
    with pytest.raises(StoreError, match="under another name"):
        FeatureStore.open(path)


def test_a_journal_that_is_cut_or_gone_is_missed(path):  # noqa: F811
    (first,) = (path / "journal").glob("*.jsonl")
    with StoreWriter(path) as writer:
        writer.add_videos([plan("new", 3)])
    content = first.read_bytes()
    for less in (b"", content[: content.rindex(b"\n", 0, -1) + 1], bytes(len(content))):
        first.write_bytes(less)
        with pytest.raises(StoreError, match=r"bytes are there|damaged"):
            FeatureStore.open(path)
    first.unlink()
    with pytest.raises(StoreError, match=f"{first.name}: damaged: 0 of"):
        FeatureStore.open(path)


OUTCOME = {
    "event": "video", "video": 1, "status": "done", "num_frames": 1, "fps": 1, "error": "",
}  # fmt: skip


@pytest.mark.parametrize(
    "entry",
    [
        {"event": "block", "video": 1, "block": 1, "rows": 1},
        {"event": "block", "video": -1, "block": 0, "rows": 1},
        {"event": "block", "video": 1.0, "block": 0, "rows": 1},
        {"event": "block", "video": 1, "block": 0, "rows": 1, "crc": "12"},
        OUTCOME | {"status": "well"},
        OUTCOME | {"num_frames": 1e9},
        OUTCOME | {"num_frames": 2**40},
        OUTCOME | {"fps": {}},
        OUTCOME | {"error": 3},
        {"event": "files", "digests": 5},
        {"no": "event"},
    ],
)
def test_a_journals_line_that_cannot_be_is_refused(path, entry):  # noqa: F811
    rewrite_journal(path, lambda entries: [*entries, entry])
    with pytest.raises(StoreError, match="damaged"):
        read_all(path)


def test_events_of_later_versions_are_skipped(path):  # noqa: F811
    rewrite_journal(path, lambda entries: [*entries, {"event": "later", "x": []}])
    read_all(path)


CRAFTED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
from hiprobe.store import FeatureStore, StoreError
try:
    store = FeatureStore.open({path!r})
    store.videos, store.segments, [store.layer(la) for la in store.layers], store.video("long")
    print("read")
except StoreError as error:
    print(error)
# Not ru_maxrss: that begins with the process which started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
HUGE = 10**12


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("hidden_states", {"shape": [3, HUGE, 6]}),
        ("hidden_states", {"shape": [3, 24, HUGE]}),
        ("hidden_states", {"shape": [3, 24]}),
        ("hidden_states", {"chunk": [3, HUGE, 6]}),
        ("hidden_states", {"data_type": "float64"}),
        ("hidden_states", {"codecs": [{"name": "nobody-knows"}]}),
        ("video", {"chunk": [HUGE]}),
        ("video_id", {"chunk": [HUGE]}),
        ("label", {"data_type": "int32", "fill_value": 0}),
        ("label", {"codecs": []}),
        ("label", {"node_type": "group"}),
        ("layer", {"shape": [HUGE]}),
        ("layer", {"chunk": [HUGE], "shape": [HUGE]}),
        ("", {"num_rows": HUGE}),
        ("", {"num_videos": 10**9}),
        ("", {"num_videos": "4"}),
        ("", {"num_rows": None}),
        ("", {"row_block": 0}),
        ("", {"row_block": 8}),
    ],
)
def test_crafted_metadata_is_refused_in_bounded_memory(path, file, change):  # noqa: F811
    forget_digests(path)
    metadata = path / file / "zarr.json"
    content = json.loads(metadata.read_text())
    if not file:
        content["attributes"] |= change
    elif "chunk" in change:
        change = dict(change)
        content["chunk_grid"]["configuration"]["chunk_shape"] = change.pop("chunk")
        content |= change
    else:
        content |= change
    metadata.write_text(json.dumps(content))
    code = CRAFTED.format(path=str(path))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    *message, kilobytes = run.stdout.splitlines()
    # Rows beyond the plan do not count.
    expected = "read" if change == {"shape": [3, HUGE, 6]} else r"damaged|does not fit into memory"
    assert re.search(expected, message[0]), message
    assert int(kilobytes) < 600_000


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"zarr_format": 3}'],
)
@pytest.mark.parametrize("file", ["zarr.json", "layer/zarr.json", "error/zarr.json"])
def test_broken_metadata_of_an_old_store_names_the_file(path, file, content):  # noqa: F811
    forget_digests(path)
    (path / file).write_bytes(content)
    with pytest.raises(StoreError, match=f"{file}: damaged"):
        FeatureStore.open(path)


def test_broken_metadata_of_thumbnails_names_the_file(tmp_path):
    store = make_with_thumbnails(tmp_path / "s")
    for content in (b"{", None):
        if content is None:
            (store / "thumbnail/zarr.json").unlink()
        else:
            (store / "thumbnail/zarr.json").write_bytes(content)
        with pytest.raises(StoreError, match=r"thumbnail/zarr\.json: damaged"):
            FeatureStore.open(store)


def test_a_killed_merge_goes_on(path, tmp_path):  # noqa: F811
    out = tmp_path / "merged"

    def die(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(out, [path], die)
    with StoreWriter(out), pytest.raises(StoreError, match="another process is writing"):
        merge(out, [path])
    merge(out, [path])
    for name in ("short", "long"):
        np.testing.assert_array_equal(
            FeatureStore.open(out).video(name), FeatureStore.open(path).video(name)
        )
    assert verify(out).problems == []


def test_opening_and_refreshing_take_time_in_proportion(tmp_path):
    """A generous bound: it was 3 s a refresh, and more with every video."""
    with create(tmp_path / "s") as writer:
        writer.add_videos([plan(f"v{number}", 1) for number in range(20_000)])
        started = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        for video in range(300):
            writer.finish_video(video, status=FAILED, num_frames=0, fps=1.0, error="x")
            writer.refresh()
            writer.index.positions()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - started < 3
    assert (LAYERS, FEATURES) == (3, 6)
