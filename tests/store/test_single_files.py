"""Single files: replaced whole or not at all, read in bounded memory, written by one process."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from hiprobe.store import HiProbeError, Probe, StoreError
from hiprobe.store.single_files import (
    only_writer,
    parse_json,
    read_json,
    read_text,
    replaced,
    write_json,
    write_text,
)

PROBE = {
    "schema": "hiprobe-probe-1",
    "store": {"path": "s.zarr", "provenance": {}},
    "layer": 1,
    "layers": {"saliency": [None, 1.5]},
    "scorer": {"kind": "logistic", "weight": [0.5, -2.0], "bias": 0.25, "l2": 1.0,
               "num_iterations": 7},
    "threshold": {"mean": 0.4, "std": 0.5, "kappa": 0.2, "value": 0.5},
    "training": {"video_ids": ["c", "d"]},
}  # fmt: skip
DISTANCE = {"kind": "distance", "mean": [1.0, 2.0], "scale": [1.0, None], "centre": 0.5,
            "spread": 2.0}  # fmt: skip
MEMBER = {"layer": 2, "scale": 1.5, "scorer": DISTANCE}
SECOND = {name: value for name, value in PROBE.items() if name not in ("layer", "scorer")} | {
    "schema": "hiprobe-probe-2", "layer": None, "members": [MEMBER, MEMBER | {"layer": 5}],
}  # fmt: skip


def changed(path, value):
    """`PROBE` with one value replaced; `...` takes it away."""
    content = json.loads(json.dumps(PROBE))
    *above, last = path
    inner = content
    for name in above:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return content


def deep(levels):
    return json.loads("[" * levels + "]" * levels)


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a" / "file.txt"
    write_text(path, "old")
    refused = pytest.raises(StoreError, match=r"file\.txt: cannot write .*: File exists")
    with refused, replaced(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        partial.mkdir()
    assert [one.name for one in path.parent.iterdir()] == ["file.txt"]
    write_text(path, "new\r\n")
    assert path.read_bytes() == b"new\r\n"


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "content")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "content"
    os.mkfifo(tmp_path / "fifo")
    for path in ("/dev/null", tmp_path / "fifo", tmp_path):
        with pytest.raises(StoreError, match=r"cannot write: it is (a folder|no regular file)"):
            write_text(path, "x")
    assert not os.path.isfile("/dev/null")  # noqa: PTH113


def test_a_lone_surrogate_survives_in_json(tmp_path):
    write_json(tmp_path / "a.json", {"path": "caf\udce9", "text": "坏"})
    assert "坏" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"path": "caf\udce9", "text": "坏"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 200 + "]" * 200, "nested more than 100 levels"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("9" * 10_000, "digits"),
        ("", "Expecting value"),
    ],
)
def test_impossible_json_is_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_what_is_no_text_is_a_value_error(tmp_path):
    (tmp_path / "a").write_bytes("a,b".encode("utf-16"))
    (tmp_path / "b").write_bytes(b"a\0b")
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=r"decode|NUL"):
            read_text(tmp_path / name)
    with pytest.raises(OSError, match="a device, a pipe or a socket"):
        read_text("/dev/zero")


def test_a_second_writer_is_refused_and_a_waiting_one_waits(tmp_path):
    path = tmp_path / "table.csv"
    refused = pytest.raises(StoreError, match=r"table\.csv: another process is writing it")
    with only_writer(path), refused, only_writer(path):
        pass
    assert not list(tmp_path.iterdir())
    order = []

    def second():
        with only_writer(tmp_path, waits=True):
            order.append("second")

    with only_writer(tmp_path, waits=True):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        order.append("first")
    waiting.join(20)
    assert order == ["first", "second"]
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_writer_means_nothing(tmp_path):
    (tmp_path / "table.csv.lock").touch()
    with only_writer(tmp_path / "table.csv"):
        pass


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["layer"], 1.5, "layer is 1.5, expected a whole number"),
        (["layer"], True, "layer is True"),
        (["layer"], 10**30, "layer is"),
        (["layer"], ..., "layer is missing"),
        (["layers"], [], "layers is a list of 0, expected an object"),
        (["layers", "saliency"], ["x"], "saliency of layer 0 is no number"),
        (["layers", "saliency"], [0] * 20_000, "20000 layers"),
        (["threshold"], 0.5, "threshold is 0.5, expected an object"),
        (["threshold", "value"], float("nan"), "the threshold's value is nan"),
        (["threshold", "value"], "0.5", "the threshold's value is '0.5'"),
        (["threshold", "value"], ..., "value is missing"),
        (["threshold", "std"], float("inf"), "the threshold's std is inf"),
        (["training"], [], "training is a list"),
        (["training", "video_ids"], ..., "video_ids is missing"),
        (["training", "video_ids"], "abc", "video_ids is 'abc', expected a list"),
        (["training", "video_ids"], [1], "a training video's id is 1, expected text"),
        (["store"], None, "store is None"),
        (["store", "provenance"], [], "the store's provenance is a list"),
        (["scorer", "kind"], {"a": 1}, "the scorer is of kind"),
        (["scorer", "weight"], [], "weight is empty"),
        (["scorer", "weight"], [0.5, float("nan")], "weight is nan"),
        (["scorer", "weight"], [0.5, None], "weight is None"),
        (["scorer", "weight"], [[0.5], [1.0]], "weight is a list of 1"),
        (["scorer", "weight"], [10**400], "weight is a number of many digits"),
        (["scorer", "bias"], float("-inf"), "bias is -inf"),
        (["scorer", "bias"], ..., "lacks 'bias'"),
        (["scorer"], DISTANCE | {"mean": [1.0]}, "mean has 1 numbers, scale 2"),
        (["scorer"], DISTANCE | {"scale": [1.0, 0.0]}, "scale and spread have to be above 0"),
        (["scorer"], DISTANCE | {"spread": 0}, "scale and spread have to be above 0"),
        (["training", "extra"], deep(200), "nested more than 100 levels"),
        (["schema"], "9" * 100_000, "expected a probe with schema"),
        (["baseline"], [], "baseline is a list of 0, expected an object"),
        (["baseline"], MEMBER | {"scale": 0}, "the scale of baseline is 0, expected a number abo"),
        (["baseline"], MEMBER | {"layer": -1}, "the layer of baseline is -1"),
        (
            ["baseline"],
            MEMBER | {"scorer": DISTANCE | {"mean": [1.0], "scale": [1.0]}},
            "its scorers read states of 1 and 2 features",
        ),
        (["calibration"], {"slope": -1.0, "intercept": 0.0}, "the calibration's slope is -1.0"),
        (["calibration"], {"slope": 1.0}, "intercept is missing"),
        (["threshold", "kind"], 3, "the threshold's kind is 3, expected text"),
    ],
)
def test_a_probe_that_cannot_be_right_is_one_message(tmp_path, path, value, message):
    (tmp_path / "p.json").write_text(json.dumps(changed(path, value)))
    with pytest.raises(HiProbeError, match=message) as raised:
        Probe.load(tmp_path / "p.json")
    assert str(raised.value).startswith(f"{tmp_path / 'p.json'}: ")
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (None, "members is None, expected a list"),
        ([], "members is empty"),
        ([MEMBER, 3], "member 1 is 3, expected an object"),
        ([MEMBER | {"scale": "wide"}], "the scale of member 0 is 'wide'"),
        ([MEMBER | {"scorer": {"kind": "svm"}}], "svm scorer lacks"),
    ],
)
def test_members_that_cannot_be_right_are_one_message(tmp_path, members, message):
    (tmp_path / "p.json").write_text(json.dumps(SECOND | {"members": members}))
    with pytest.raises(HiProbeError, match=message):
        Probe.load(tmp_path / "p.json")


def test_the_second_schema_is_read(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(SECOND))
    probe = Probe.load(tmp_path / "p.json")
    assert (probe.layer, probe.scorer, probe.layers_read) == (None, {}, (2, 5))


def test_old_probes_load_and_unknown_names_are_left_alone(tmp_path):
    content = PROBE | {"note": "mine", "layers": {"ldr": [float("nan"), 1]}}
    content["training"] = {"video_ids": [], "weather": [1]}
    (tmp_path / "p.json").write_text(json.dumps(content))
    probe = Probe.load(tmp_path / "p.json")
    assert probe.layers == {"ldr": [None, 1]}  # not a number: not defined
    assert probe.training["weather"] == [1]
    (tmp_path / "d.json").write_text(json.dumps(PROBE | {"scorer": DISTANCE}))
    assert Probe.load(tmp_path / "d.json").num_features == 2


LIMITED = """
import resource, sys, time
from hiprobe.store import HiProbeError, Probe
import hiprobe.store.scorers.distance
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
started = time.process_time()
try:
    Probe.load(sys.argv[1])
except HiProbeError as error:
    print(error, time.process_time() - started < 60)
"""


@pytest.mark.parametrize("count", [34_000_000, 7_500_000])
def test_megabytes_of_numbers_take_bounded_memory_and_time(tmp_path, count):
    text = json.dumps(PROBE).replace('"weight": [0.5', '"weight": [' + "1.0," * count + "null")
    (tmp_path / "p.json").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "p.json")],
        capture_output=True, text=True, check=False, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "p.json: " in done.stdout
    assert done.stdout.strip().endswith("True")
