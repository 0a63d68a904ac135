"""`storage_schema.md` says what the code does: its tables and its worked example are checked."""

import json
import re

import numpy as np
import pytest
import zarr

from hiprobe.store import DONE, PlannedVideo, StoreWriter, VideoRecord
from hiprobe.store.answer_rows import Answers
from hiprobe.store.schema import INDEX_ARRAYS
from tests.conftest import REPOSITORY

DOCUMENT = (REPOSITORY / "storage_schema.md").read_text()


@pytest.fixture
def example(tmp_path):
    path = tmp_path / "example.zarr"
    writer = StoreWriter.create(path, layers=range(3), num_features=8, provenance={}, row_block=4)
    records = [
        VideoRecord("a", "/v/a.mp4", "test", "anomalous", "Fire", ((24, 60),)),
        VideoRecord("b", "/v/b.mp4", "test", "normal"),
    ]
    with writer:
        writer.add_videos(
            [
                PlannedVideo(
                    records[0], 110, 25.0, [(0, 24), (24, 48), (48, 72), (72, 96), (96, 110)]
                ),
                PlannedVideo(records[1], 40, 25.0, [(0, 24), (24, 40)]),
            ]
        )
        writer.write_block(0, 0, np.ones((3, 4, 8)))
        writer.write_block(0, 1, np.ones((3, 1, 8)))
        writer.finish_video(0, status=DONE, num_frames=110, fps=25.0)
    return path


def test_the_worked_example_is_what_the_writer_makes(example):
    documented = json.loads(re.search(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)[1])
    group = zarr.open_group(example, mode="r")
    for name, value in documented["attributes"].items():
        assert group.attrs[name] == value
    for name, values in documented["values"].items():
        assert group[name][:].tolist() == values, name
    states = group["hidden_states"]
    assert list(states.shape) == documented["hidden_states"]["shape"]
    assert list(states.shards) == documented["hidden_states"]["shard"]
    assert list(states.chunks) == documented["hidden_states"]["chunk"]
    (sharding,) = states.metadata.to_dict()["codecs"]
    for key in ("codecs", "index_codecs"):
        names = [codec["name"] for codec in sharding["configuration"][key]]
        assert names == documented["hidden_states"][key]
    for name, array in group.arrays():
        if name != "hidden_states":
            dim = array.metadata.dimension_names[0]
            assert array.chunks == (documented["chunk_of_dim"][dim],), name
    root = example / "hidden_states/c"
    files = sorted(str(p.relative_to(example)) for p in root.rglob("*") if p.is_file())
    assert files == documented["files"]


def test_the_tables_of_arrays_are_the_schema(tmp_path):
    rows = re.findall(r"^\| (`[^|]*`) \| ([\w, ]+) \| (\w+) \| ([^|]+) \|", DOCUMENT, re.MULTILINE)
    documented = {
        name: (dims, dtype, fill.strip('`"'))
        for names, dims, dtype, fill in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    ones = np.ones((1, 8), "f4")
    answers = Answers(("A",), (3,), ones, ones[:, 0], ones[0], 1e-6, 9)
    StoreWriter.create(
        tmp_path / "s", layers=[0], num_features=8, provenance={}, thumbnail_size=(72, 128),
        answers=answers, has_windows=True,
    ).close()  # fmt: skip
    group = zarr.open_group(tmp_path / "s", mode="r")
    actual = {
        name: (", ".join(array.metadata.dimension_names), array.dtype)
        for name, array in group.arrays()
    }
    assert documented.keys() == actual.keys()
    for name, (dims, dtype, fill) in documented.items():
        assert str(group[name].fill_value).lower() == fill.lower(), name
        assert actual[name][0] == dims
        assert actual[name][1].kind == "T" if dtype == "string" else actual[name][1] == dtype, name
    assert {array.name for array in INDEX_ARRAYS} < documented.keys()


def test_the_documented_journal_lines_are_written(example):
    (journal,) = (example / "journal").glob("*.jsonl")
    written = [json.loads(line.partition(" ")[2]) for line in journal.read_text().splitlines()]
    documented = [
        json.loads(line) for line in re.findall(r"^    (\{.*\})$", DOCUMENT, re.MULTILINE)
    ]
    offsets = [0, *np.cumsum([len(line) for line in journal.read_bytes().splitlines(True)])[:-1]]
    assert [entry.pop("at") for entry in written] == offsets
    assert all(entry.pop("at") >= 0 for entry in documented)
    shown = [shape(entry) for entry in written]
    assert [entry for entry in map(shape, documented) if entry not in shown] == []
    assert {entry["event"] for entry in written} == {entry["event"] for entry in documented}


def shape(entry):
    """A journal's entry without what differs from machine to machine: checksums and names."""
    entry = dict(entry)
    if "crc" in entry:
        entry["crc"] = len(entry["crc"])
    if "digests" in entry:
        entry["digests"] = {len(digest) for digest in entry["digests"].values()}
    if "journal" in entry:
        entry["journal"] = re.sub(r"-.*-\d+\.", "", entry["journal"])
    return entry
