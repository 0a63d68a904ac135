"""Frames that are larger than the memory: the video that has them fails, alone."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from hiprobe.demo.model import build_random_model
from hiprobe.store import VideoRecord, write_manifest
from tests.extract.odd_videos import video

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def extract_within(tmp_path_factory):
    """Extract a large video between two small ones with so many bytes more than at rest."""
    root = tmp_path_factory.mktemp("memory")
    model = build_random_model(root / "model")
    large = partial(video, size=(4096, 4096), codec="mjpeg", pix_fmt="yuvj420p")
    for name, make in {"small": video(50), "large": large(73), "last": video(50)}.items():
        make(root / f"{name}.mp4")
    records = [
        VideoRecord(name, str(root / f"{name}.mp4"), "test", "normal")
        for name in ("small", "large", "last")
    ]

    def run(num_bytes):
        folder = root / str(num_bytes)
        folder.mkdir()
        write_manifest(folder / "manifest.csv", records)
        command = [sys.executable, "-m", "tests.extract.large_frames", folder, model, num_bytes]
        done = subprocess.run(
            [*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_large_frames_fail_alone_where_the_memory_is_too_small(extract_within):
    summary = extract_within(2**29)
    assert summary["num_done"] == 2
    assert list(summary["failures"]) == ["large"]
    assert "there is not enough memory to" in summary["failures"]["large"]


def test_large_frames_go_through_a_few_at_a_time(extract_within):
    # Its 4 segments of 8 keyframes, the last with one frame, are 1.5 GiB.
    assert extract_within(2**30 + 2**29) == {"num_done": 3, "failures": {}}
