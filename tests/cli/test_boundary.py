"""Whatever lies where a file should: every command ends with one message that names it."""

import os
import re
import signal
import sys

import numpy as np
import pandas as pd
import pytest

from hiprobe.cli.main import main
from hiprobe.store import VideoRecord, write_manifest

HUGE = 2_000_000
BAD_FILES = {
    "garbage": bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)),
    "empty": b"",
    "huge line": b"video_id," + b"9" * HUGE + b"\n",
    "huge number": b'{"schema": ' + b"9" * HUGE + b"}",
    "deep": b"[" * 200_000,
    "NUL": b"video_id,path\0,split\n" * 3,
    "BOM": b"\xef\xbb\xbfno table\r\nat all\r\n",
    "UTF-16": "video_id,path,split,label\n".encode("utf-16"),
}
BAD = [*BAD_FILES, "folder", "FIFO", "device", "missing"]

# `BAD` is what is wrong, the others are in order. Commands that load a model get that far only
# when everything before it is read.
COMMANDS = [
    "manifest folder BAD --out OUT.csv",
    "manifest folder VIDEOS --annotations BAD --out OUT.csv",
    "manifest ucf-crime --annotations BAD --out OUT.csv",
    "manifest ucf-crime --annotations UCF --train-list BAD --out OUT.csv",
    "manifest ucf-crime --annotations UCF --lengths BAD --out OUT.csv",
    "manifest xd-violence --annotations BAD --out OUT.csv",
    "manifest shanghaitech --masks BAD --out OUT.csv",
    "manifest msad --annotations BAD --out OUT.csv",
    "manifest events BAD --out OUT.csv",
    "manifest events EVENTS --lengths BAD --out OUT.csv",
    "extract BAD OUT.zarr --model MODEL",
    "extract MANIFEST OUT.zarr --model BAD",
    "probe BAD OUT.json",
    "probe STORE OUT.json --manifest BAD",
    "layers BAD OUT",
    "layers STORE OUT --manifest BAD",
    "sweep BAD OUT.csv",
    "sweep STORE OUT.csv --also BAD",
    "sweep STORE OUT.csv --test-store BAD",
    "table ablation BAD --out OUT",
    "evaluate BAD PROBE OUT",
    "evaluate STORE BAD OUT",
    "evaluate STORE PROBE OUT --manifest BAD",
    "evaluate-scores BAD MANIFEST OUT",
    "evaluate-scores SCORES BAD OUT",
    "compare BAD RESULTS",
    "compare RESULTS BAD",
    "report BAD",
    "explain BAD RESULTS --model MODEL",
    "explain STORE BAD --model MODEL",
    "detect VIDEO BAD --model MODEL",
    "detect BAD PROBE --model MODEL",
    "store info BAD",
    "store verify BAD",
    "store relabel BAD MANIFEST",
    "store relabel STORE BAD",
    "store merge OUT.zarr BAD",
    "store export BAD OUT.h5",
    "store import BAD OUT.zarr",
]
# A folder is what these take: an empty one is not of a wrong kind.
TAKES_FOLDER = re.compile(r"^(manifest folder BAD|manifest shanghaitech)")


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command in this process, as its entry point does; one that hangs is interrupted."""

    def fail(*_):
        raise AssertionError("it hangs")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hiprobe", *map(str, arguments)])
        before = signal.signal(signal.SIGALRM, fail)
        signal.alarm(30)
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code or 0
        else:
            code = 0
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Paths of what is in order, by their word in `COMMANDS`."""
    folder = tmp_path_factory.mktemp("good")
    records = [
        VideoRecord(f"v{i}", f"v{i}.mp4", "test", *kind, num_frames=48)
        for i, kind in enumerate([("normal",), ("anomalous", "Fire", ((0, 24),))])
    ]
    write_manifest(folder / "manifest.csv", records)
    rows = [(f"v{i}", 24 * k, 24 * k + 24, (i + k) / 4) for i in range(2) for k in range(2)]
    columns = ["video_id", "start_frame", "stop_frame", "score"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "scores.csv", index=False)
    (folder / "ucf.txt").write_text("a.mp4 Abuse 1 5 -1 -1\n")
    (folder / "events.csv").write_text(
        "video_id,path,split,label,category,start_seconds,stop_seconds\na,a.mp4,test,normal,,,\n"
    )
    (folder / "videos/test/normal").mkdir(parents=True)
    (folder / "videos/test/normal/a.mp4").write_text("no video")
    (folder / "model").mkdir()
    return {
        "VIDEOS": folder / "videos",
        "UCF": folder / "ucf.txt",
        "EVENTS": folder / "events.csv",
        "MANIFEST": folder / "manifest.csv",
        "SCORES": folder / "scores.csv",
        "MODEL": folder / "model",
        "VIDEO": folder / "videos/test/normal/a.mp4",
        "PROBE": folder / "probe.json",
        "RESULTS": folder / "results",
    }


@pytest.fixture
def words(good, make_store, run, tmp_path):
    """`good`, with a store, a probe and results that are made once."""
    if "STORE" not in good:
        good["STORE"] = store = make_store(num_videos=12, num_layers=4)
        assert run("probe", store, good["PROBE"])[0] == 0
        made = run("evaluate", store, good["PROBE"], good["RESULTS"], "--resamples", 0)
        assert made[0] == 0, made
    ends = ("", ".csv", ".json", ".zarr", ".h5")
    return good | {f"OUT{end}": tmp_path / f"out{end}" for end in ends}


def lay(path, kind):
    """Put something wrong at a path."""
    if kind in BAD_FILES:
        path.write_bytes(BAD_FILES[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_input_is_one_message(command, words, run, tmp_path):
    wrong = []
    for kind in BAD:
        if kind == "folder" and TAKES_FOLDER.search(command):
            continue
        bad = tmp_path / f"the-bad-{kind.replace(' ', '-')}"
        lay(bad, kind)
        parts = [bad if part == "BAD" else words.get(part, part) for part in command.split()]
        try:
            code, said = run(*parts)
        except BaseException as error:  # whatever it is: it would be a traceback
            wrong.append(f"{kind}: {error!r:.300}")
            continue
        if code not in (1, 2) or len(said) > 5000 or bad.name not in "".join(said.split()):
            wrong.append(f"{kind}: exit code {code}: {said[:600]}")
    assert not wrong, "\n".join(wrong)
