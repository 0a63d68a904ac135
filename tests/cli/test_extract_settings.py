"""Going on with a store: settings, failures, splits; and what is said of a store."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from hiprobe.cli.main import app
from hiprobe.cli.output import duration, size
from hiprobe.demo.model import build_random_model
from hiprobe.store import FeatureStore, VideoRecord, read_manifest, write_manifest
from hiprobe.store.answer_rows import Answers
from hiprobe.store.merge import merge
from hiprobe.store.taps import Tap
from tests.cli.test_cli import hiprobe


@pytest.fixture
def folder(tmp_path, make_video):
    records = [
        VideoRecord(name, str(make_video(f"{name}.mp4", 30)), split, "normal")
        for name, split in (("a", "train"), ("b", "test"))
    ]
    (tmp_path / "broken.mp4").write_text("no video")
    records.append(VideoRecord("broken", str(tmp_path / "broken.mp4"), "test", "normal"))
    write_manifest(tmp_path / "m.csv", records)
    build_random_model(tmp_path / "model")
    return tmp_path


def test_a_rerun_takes_the_stores_settings_and_refuses_others_before_the_model(folder):
    command = ["extract", "m.csv", "s.zarr", "--model", "model", "--device", "cpu", "--parity", "0"]
    made = hiprobe(*command, "--split", "train", "--keyframes", "4", "--layers", "0-3", "--prompt",
                   "Odd?", "--segment-frames", "whole", "--thumbnails", cwd=folder)  # fmt: skip
    assert "1 videos done, 1 failed, 1 pending; 1 segments" in made.stdout, made.stderr
    # Nothing of it is said again.
    again = hiprobe(*command, cwd=folder)
    assert again.returncode == 3, again.stderr
    assert "2 videos done, 1 failed; 2 segments" in again.stdout
    assert "1 failed earlier; --retry-failed tries them again" in again.stdout
    assert FeatureStore.open(folder / "s.zarr").layers == [0, 1, 2, 3]
    # With a model that cannot be loaded: it is not even looked for.
    other = hiprobe(*command[:4], "nowhere", *command[5:], "--keyframes", "8", "--dtype",
                    "bfloat16", "--prompt", "Well?", cwd=folder)  # fmt: skip
    assert other.returncode == 1
    for line in ("keyframes: store 4, this run 8", "prompt: store 'Odd?', this run 'Well?'",
                 "model.dtype: store 'float32', this run 'bfloat16'"):  # fmt: skip
        assert line in other.stderr
    assert "nowhere" not in other.stderr

    short = hiprobe("store", "info", "s.zarr", cwd=folder).stdout
    assert re.search(r"2 videos done, 1 failed, 0 pending: 100 % of 2 segments, \d+ kB;", short)
    assert "failed: broken: " in short
    assert "weights_digest" not in short
    told = json.loads(hiprobe("store", "info", "s.zarr", "--json", cwd=folder).stdout)
    assert told["provenance"]["keyframes"] == 4
    assert (told["num_done"], told["layers"]) == (2, [0, 1, 2, 3])


def test_frames_shown_otherwise_are_refused_before_the_model_and_a_bound_is_the_stores(folder):
    command = ["extract", "m.csv", "s.zarr", "--model", "model", "--device", "cpu", "--parity", "0"]
    made = hiprobe(*command, "--split", "train", "--min-pixels", "4000", "--max-pixels", "8000",
                   cwd=folder)  # fmt: skip
    assert "1 videos done" in made.stdout, made.stderr
    # The other bound is not the default's, but the store's.
    again = hiprobe(*command, "--min-pixels", "4000", cwd=folder)
    assert "2 videos done" in again.stdout, again.stderr
    missing = [*command[:4], "nowhere", *command[5:]]
    for options, line in (
        (["--min-pixels", "5000"], "frame_pixels: store [4000, 8000], this run [5000, 8000]"),
        (["--max-pixels", "0"], "frame_pixels: store [4000, 8000], this run None"),
        (["--fps-shown", "4"], "fps_shown: store None, this run 4.0"),
    ):
        other = hiprobe(*missing, *options, cwd=folder)
        assert other.returncode == 1
        assert line in other.stderr
        assert "nowhere" not in other.stderr
        # Of where it was, nothing is said twice.
        assert other.stderr.count("loading the model") == 1


def test_layers_of_a_probe_that_are_not_the_stores_are_refused(folder):
    command = ["extract", "m.csv", "s.zarr", "--model", "model", "--device", "cpu", "--parity", "0"]
    first, second, _ = read_manifest(folder / "m.csv")
    few = [
        replace(record, video_id=f"{label}-{record.video_id}", split="train", label=label)
        for label in ("normal", "anomalous")
        for record in (first, second)
    ]
    write_manifest(folder / "m.csv", few)
    assert hiprobe(*command, cwd=folder).returncode == 0
    made = hiprobe("probe", "s.zarr", "probe.json", "--layer", "3", cwd=folder)
    assert made.returncode == 0, made.stderr
    other = hiprobe(*command[:4], "nowhere", "--layers-from", "probe.json", cwd=folder)
    assert other.returncode == 1
    assert "this run [3]" in other.stderr


def test_a_dry_run_counts_what_is_tried_again_and_says_when_nothing_is_left(folder):
    command = ["extract", "m.csv", "s.zarr", "--model", "model", "--device", "cpu", "--parity", "0"]
    assert hiprobe(*command, cwd=folder).returncode == 3
    nothing = hiprobe(*command, "--dry-run", cwd=folder)
    assert "nothing is left to do of m.csv" in nothing.stdout
    records = {one.video_id: one.path for one in read_manifest(folder / "m.csv")}
    shutil.copy(records["a"], records["broken"])
    left = hiprobe(*command, "--dry-run", "--retry-failed", cwd=folder)
    assert re.search(r"videos left +│ 1 \(0 cannot be opened\)", left.stdout)


def test_ctrl_c_says_what_is_kept_and_that_the_same_command_goes_on(folder, make_video):
    records = [
        VideoRecord(str(n), str(make_video(f"long-{n}.mp4", 24 * 40)), "train", "normal")
        for n in range(8)
    ]
    write_manifest(folder / "m.csv", records)
    command = [sys.executable, "-m", "hiprobe.cli", "extract", "m.csv", "s.zarr", "--model",
               "model", "--device", "cpu", "--batch-size", "1", "--log-json", "log"]  # fmt: skip
    # Tests that run in the background may have been started with the signal ignored.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=heed,  # noqa: PLW1509
    )  # fmt: skip
    log = folder / "log"
    while not (log.exists() and '"outcome": "done"' in log.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert re.search(r"s.zarr: keeps the \d videos that this run has finished", told)
    assert told.endswith("interrupted: the same command goes on where it was\n")
    assert "Traceback" not in told
    assert hiprobe(*command[3:], cwd=folder).returncode == 0
    assert len(FeatureStore.open(folder / "s.zarr").segments) == 8 * 40


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 seconds"), (90, "1.5 minutes"), (3600 * 13, "13 hours"), (86400 * 3, "3 days")],
)
def test_times_have_two_digits(seconds, text):
    assert duration(seconds) == text


def test_the_version_is_said():
    assert re.fullmatch(r"hiprobe \d+\.\d+\.\d+\S*\n", hiprobe("--version").stdout)


def test_merging_part_of_the_ranks_warns(make_store, tmp_path):
    parts = [make_store(num_videos=2, name=f"s.{rank}-of-3.zarr") for rank in (0,)]
    warnings = []
    assert merge(tmp_path / "s.zarr", parts, on_warning=warnings.append) == 2
    assert warnings == ["only 1 of the 3 parts of s: without 1-of-3, 2-of-3. Merge again with all."]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (45_056, "45 kB"), (1_234_000, "1.2 MB"), (999_600, "1 MB"), (53e9, "53 GB")],
)
def test_sizes_have_two_digits(num_bytes, text):
    assert size(num_bytes) == text


def test_info_names_taps_prompts_answers_and_windows(make_store):
    rows = [np.ones(shape, "f4") for shape in ((2, 16), 2, 16)]
    answers = Answers(("Yes", "No"), (3, 4), *rows, 1e-6, 4)
    store = make_store(
        num_videos=2,
        provenance={"prompt_name": "odd", "window": {"seconds": 2.5}},
        taps=[Tap("heads", (1, 2), 8, num_heads=2), Tap("hidden_states", (1,), 16, "severity")],
        answers=answers,
    )
    said = CliRunner().invoke(app, ["store", "info", str(store)]).stdout
    assert "taps hidden_states, heads\nprompts odd, severity\nanswers 'Yes', 'No'\n" in said
    assert "windows of 2.5 seconds around the segments' middles" in said
    told = json.loads(CliRunner().invoke(app, ["store", "info", str(store), "--json"]).stdout)
    assert (told["taps"], told["prompts"]) == (["hidden_states", "heads"], ["odd", "severity"])
    assert (told["answers"], told["window"]) == (["Yes", "No"], {"seconds": 2.5})
    plain = CliRunner().invoke(app, ["store", "info", str(make_store("plain.zarr"))]).stdout
    assert not re.search(r"^(taps|prompts|answers|windows) ", plain, re.MULTILINE)
