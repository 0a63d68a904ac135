"""`hiprobe evaluate-scores` as it is typed: arrays, lengths, and labels of videos alone."""

import numpy as np
import pytest
from typer.testing import CliRunner

from hiprobe.cli.main import app
from hiprobe.store import VideoRecord, write_manifest


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run in a folder with scores of clips, ``s.npy``, and a manifest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    np.save("s.npy", np.array([0.1, 0.9, 0.2, 0.3], dtype=np.float32))

    def call(*options, ranges=((16, 30),)):
        records = [
            VideoRecord("a", "a.mp4", "test", "anomalous", "Fire", ranges, 40, 10.0),
            VideoRecord("b", "b.mp4", "test", "normal", "", (), 37, 10.0),
        ]
        write_manifest("m.csv", records)
        arguments = [
            "evaluate-scores",
            "s.npy",
            "m.csv",
            "r",
            "--resamples",
            "0",
            "--sigma",
            "0",
            *options,
        ]
        return CliRunner().invoke(app, arguments)

    return call


def test_clips_of_one_array(run):
    result = run("--repeat", "16", "--length", "cut-16")
    assert result.exit_code == 0, result.output
    assert "AUC 0.9800" in result.output  # 2 of 50 normal frames tie with the anomalous ones
    assert (
        "events at T: 1 of 1 found, 0.0 false alarms an hour, median delay 0.0 s" in result.output
    )
    assert "in the manifest's order" in result.output


def test_what_does_not_fit_is_an_error_and_leaves_nothing(run, tmp_path):
    result = run("--length", "cut-16")
    assert result.exit_code != 0
    assert "It fits with --repeat 16 --length cut-16 or --repeat 16 --length cut-16-xd." in str(
        result.exception
    )
    assert not (tmp_path / "r").exists()


def test_labels_of_videos_alone_give_figures_of_videos(run):
    result = run("--repeat", "16", "--length", "cut-16", ranges=())
    assert result.exit_code == 0, result.output
    assert "no annotation says where in the 1 anomalous videos" in result.output
    assert "Frame level" not in result.output
    assert "its maximum" in result.output
    assert "1.0000" in result.output
    assert "events at" not in result.output
