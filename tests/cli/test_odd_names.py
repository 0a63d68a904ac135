"""Odd names, doubled columns, absurd sizes, two processes at once: said plainly, never silently."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from hiprobe.store import read_manifest
from hiprobe.store.single_files import only_writer
from tests.cli.test_boundary import good, run, words

__all__ = ["good", "run", "words"]


def test_file_names_that_are_no_utf8_are_left_out_and_named(tmp_path, run, make_video):
    video = make_video("videos/test/normal/good.mp4", num_frames=30)
    bad = os.fsencode(video.parent) + b"/caf\xe9.mp4"
    os.link(video, bad)
    os.mkfifo(video.parent / "pipe.mp4")
    code, said = run("manifest", "folder", tmp_path / "videos", "--out", tmp_path / "m.csv")
    assert code == 0, said
    flat = "".join(said.split())
    assert "leftout,itsnameisnoUTF-8" in flat
    assert "pipe.mp4:leftout,itisnoregularfile" in flat
    assert [one.video_id for one in read_manifest(tmp_path / "m.csv")] == ["test/normal/good"]


def test_a_command_says_a_path_that_is_no_utf8(tmp_path, run):
    code, said = run("store", "info", os.fsdecode(bytes(tmp_path) + b"/caf\xe9.zarr"))
    assert code == 1
    assert "no such store" in said


def test_results_may_lie_where_a_name_is_no_utf8(tmp_path, run, words):
    odd = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    code, said = run("evaluate", words["STORE"], words["PROBE"], odd, "--resamples", 0)
    assert code == 0, said
    scores = f"{odd}/results.csv"
    pd.read_csv(words["SCORES"]).to_csv(scores, index=False)
    code, said = run("evaluate-scores", scores, words["MANIFEST"], f"{odd}/r", "--resamples", 0)
    metrics = json.loads(Path(odd, "r/metrics.json").read_text())
    assert metrics["provenance"]["scores"]["path"] == scores
    assert run("report", f"{odd}/r")[0] == 0
    assert (
        run("compare", f"{odd}/r", f"{odd}/r", "--resamples", 100, "--out", f"{odd}/c.json")[0] == 0
    )


def test_brackets_and_colons_in_a_path_are_no_markup(tmp_path, run, words):
    odd = tmp_path / "[red]s[b] :fire:.zarr"
    odd.symlink_to(words["STORE"])
    code, said = run("store", "info", odd)
    assert code == 0
    assert "[red]s[b]:fire:.zarr" in "".join(said.split())


def test_ids_that_cannot_be_stored_are_refused(tmp_path, run):
    row = {"video_id": "a\ud800", "path": "a.mp4", "split": "test", "label": "normal"}
    rows = [row, row | {"video_id": "b\0"}, row | {"video_id": ["c"]}, row | {"video_id": "d"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "s.csv").write_text("video_id,start_frame,stop_frame,score\na,0,1,1\n")
    code, said = run("evaluate-scores", tmp_path / "s.csv", tmp_path / "m.jsonl", tmp_path / "r")
    assert code == 1
    for text in ("m.jsonl: 3 bad line(s)", "line 1: video_id 'a\\ud800' is no Unicode text",
                 "line 2: video_id 'b\\x00' holds NUL", "line 3: video_id is ['c']"):  # fmt: skip
        assert text in said


@pytest.mark.parametrize(
    ("command", "name", "header", "twice"),
    [
        ("probe STORE OUT.json --manifest F", "m.csv", "video_id,path,split,label,label", "label"),
        ("evaluate-scores F MANIFEST OUT", "s.csv", "video_id,start_frame,stop_frame,score,score",
         "score"),
        ("manifest events EVENTS --lengths F --out OUT.csv", "l.csv", "video_id,num_frames,fps,fps",
         "fps"),
        ("manifest folder VIDEOS --annotations F --out OUT.csv", "a.csv",
         "video_id,annotations,annotations", "annotations"),
        ("manifest events F --out OUT.csv", "e.csv",
         "video_id,path,split,label,category,start_seconds,stop_seconds,label", "label"),
    ],
)  # fmt: skip
def test_a_column_that_stands_twice_is_refused(command, name, header, twice, words, run, tmp_path):
    (tmp_path / name).write_text(header + "\n" + ",".join("1" for _ in header.split(",")) + "\n")
    places = words | {"F": tmp_path / name}
    code, said = run(*(places.get(part, part) for part in command.split()))
    assert code == 1
    assert f"{name}: the column {twice} stands there more than once" in said


@pytest.mark.parametrize(
    ("command", "content"),
    [
        ("manifest events EVENTS --lengths F --out OUT.csv",
         "video_id,num_frames,fps\na,9,9\na,8,8"),
        ("manifest folder VIDEOS --annotations F --out OUT.csv",
         "video_id,annotations\ntest/normal/a,0:1\ntest/normal/a,2:3\n"),
    ],
)  # fmt: skip
def test_a_video_that_stands_twice_is_refused(command, content, words, run, tmp_path):
    (tmp_path / "f.csv").write_text(content)
    places = words | {"F": tmp_path / "f.csv"}
    code, said = run(*(places.get(part, part) for part in command.split()))
    assert code == 1
    assert "f.csv: line 3" in said
    assert "stands there twice" in said


LIMITED = """
import resource, sys
from hiprobe.cli.main import main
import hiprobe.evaluate.external, plotly.offline
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
main()
"""


@pytest.mark.parametrize(
    ("num_frames", "rows", "said"),
    [
        (3_000_000_000, ["v0,0,3000000000,0.5"], "num_frames is 3000000000, expected at most"),
        (2_000_000_000, ["v0,0,3000000000,0.5"], "0 <= start < stop <= 2147483632"),
        (2_000_000_000, ["v0,0,2000000000,0.5"], "report"),
        (100, ["v0,0,1e300,0.5"], "0 <= start < stop"),
        (100, ["v0,0," + "9" * 400 + ",0.5"], "wrong line|0 <= start"),
    ],
)
def test_absurd_sizes_take_no_memory(num_frames, rows, said, tmp_path):
    (tmp_path / "m.csv").write_text(
        "video_id,path,split,label,category,annotations,num_frames,fps\n"
        f"v0,v0.mp4,test,anomalous,Fire,0:9,{num_frames},25\n"
    )
    (tmp_path / "s.csv").write_text("video_id,start_frame,stop_frame,score\n" + "\n".join(rows))
    arguments = ["evaluate-scores", "s.csv", "m.csv", "r", "--resamples", "0"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments], cwd=tmp_path, capture_output=True, text=True,
        check=False, env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "COLUMNS": "250"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode == (said != "report")
    assert re.search(said, done.stdout + done.stderr)


def test_a_second_sweep_of_one_table_is_refused(words, run, tmp_path):
    with only_writer(tmp_path / "t.csv"):
        code, said = run("sweep", words["STORE"], tmp_path / "t.csv")
    assert code == 1
    assert "t.csv: another process is writing it" in said
    assert not list(tmp_path.glob("t.csv*"))


def test_two_evaluations_of_one_folder_come_one_after_the_other(words, run, tmp_path):
    """Two processes, other thresholds: the files are all of one of them."""
    code = "import sys; from hiprobe.cli.main import main; main()"
    command = ["evaluate", words["STORE"], words["PROBE"], tmp_path / "r", "--resamples", "0"]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, command), "--threshold", threshold],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for threshold in ("0.25", "0.75")
    ]  # fmt: skip
    said = [one.communicate(timeout=300)[0] for one in started]
    assert [one.returncode for one in started] == [0, 0], said
    metrics = json.loads((tmp_path / "r/metrics.json").read_text())
    intervals = json.loads((tmp_path / "r/intervals.json").read_text())
    table = pd.read_csv(tmp_path / "r/scores.csv")
    assert metrics["threshold"] == intervals["threshold"]
    assert (table["anomalous"] == (table["smoothed"] > metrics["threshold"])).all()
    assert {one.name for one in (tmp_path / "r").iterdir()} == {
        "scores.csv", "intervals.json", "metrics.json", "report.html",
    }  # fmt: skip


def test_a_report_waits_for_an_evaluation_that_is_writing(words, run, tmp_path):
    made = run("evaluate", words["STORE"], words["PROBE"], tmp_path / "r", "--resamples", 0)
    assert made[0] == 0
    holding, held = threading.Event(), threading.Event()

    def hold():
        with only_writer(tmp_path / "r"):
            held.set()
            holding.wait(2)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(10)
    assert run("report", tmp_path / "r")[0] == 0
    assert not other.is_alive()
    other.join()
