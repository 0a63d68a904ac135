"""What a run says while it goes on and when it ends, and what its store keeps of that."""

import re
import time

import pytest

from hiprobe.cli import extract_progress
from hiprobe.cli.extract_progress import run_with_progress
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.pipeline import extract
from hiprobe.extract.tally import Progress, Tally
from hiprobe.extract.video import SegmentReader
from hiprobe.store import VideoRecord, write_manifest


@pytest.fixture
def job(tmp_path, make_video, model):
    records = [
        VideoRecord(name, str(make_video(f"{name}.mp4", num_frames)), "train", "normal")
        for name, num_frames in {"short": 10, "long": 600, "middle": 100}.items()
    ]
    write_manifest(tmp_path / "m.csv", records)
    backbone = BackboneConfig(str(model), device="cpu")
    return ExtractConfig(tmp_path / "m.csv", tmp_path / "s.zarr", backbone, parity=0)


def test_a_log_that_is_no_terminal_gets_plain_lines(job, monkeypatch, capsys):
    monkeypatch.setattr(extract_progress, "SECONDS_BETWEEN_LINES", 0.05)
    run_with_progress(job, None)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 3
    assert lines[0].endswith("loading the model, opening the videos")
    assert re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d 3/3 videos · 31/31 segments · ", lines[-1])
    assert re.search(r"[\d.]+ segments/s · 0:00:00 left · waited \d+%", lines[-1])


def test_what_was_waited_for_is_named(job, monkeypatch):
    decode = SegmentReader.__iter__

    def slowly(reader):
        for segment in decode(reader):
            time.sleep(0.05)
            yield segment

    monkeypatch.setattr(SegmentReader, "__iter__", slowly)
    waited = extract(job).run["waited"]
    assert waited["decoding"] > 0.3
    assert waited["decoding"] > 3 * waited["preprocessing"]
    assert waited["writing"] < 0.1


def test_steps_that_got_lost_are_counted_at_the_videos_end():
    tally = Tally()
    tally.plan(2, 10)
    for step in (Progress("a", 3), Progress("b", 2, seconds=1.0, waited_on={"writing": 0.25}),
                 Progress("a", outcome="done", video_segments=5)):  # fmt: skip
        tally.add(step)
    assert (tally.segments_done, tally.num_ended, tally.num_failed) == (7, 1, 0)
    assert tally.waited == {"decoding": 0, "preprocessing": 0, "writing": 0.25}
