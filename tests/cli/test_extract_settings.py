"""Going on with a store: settings, failures, splits; and what is said of a store."""

import json
import re

import pytest

from hiprobe.cli.output import size
from hiprobe.demo.model import build_random_model
from hiprobe.store import FeatureStore, VideoRecord, write_manifest
from hiprobe.store.merge import merge
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
