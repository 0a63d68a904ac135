"""Windows: the model sees other frames than the segment that is scored."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.detect import DetectConfig, detect, write_detection
from hiprobe.extract.pipeline import extract
from hiprobe.extract.segments import keyframe_indices, segment_ranges
from hiprobe.extract.video import SegmentReader
from hiprobe.extract.workplace import Here
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import (
    DONE,
    FeatureStore,
    PlannedVideo,
    StoreError,
    StoreWriter,
    VideoRecord,
    write_manifest,
)
from hiprobe.store.hdf5 import export_hdf5, import_hdf5
from hiprobe.store.merge import merge
from hiprobe.store.subset import subset
from hiprobe.store.verify import verify
from hiprobe.store.windows import Window
from tests.cli.test_cli import hiprobe


def all_frames(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@given(st.integers(1, 500), st.integers(1, 60), st.integers(1, 200))
def test_a_window_lies_around_the_middle_and_within_the_video(num_frames, segment_frames, length):
    ranges = segment_ranges(num_frames, segment_frames)
    windows = Window(frames=length).of_segments(ranges, num_frames, 25.0)
    assert len(windows) == len(ranges)
    for (start, stop), (first, end) in zip(ranges, windows, strict=True):
        assert 0 <= first < end <= num_frames
        # Frame by frame: those not further from the middle than half a window, in the video.
        middle = (start + stop - length) // 2
        assert [*range(first, end)] == [f for f in range(middle, middle + length)
                                        if 0 <= f < num_frames]  # fmt: skip
        assert first < stop
        assert end > start
    assert [*zip(*windows, strict=True)] == [
        tuple(sorted(one)) for one in zip(*windows, strict=True)
    ]


def test_a_window_as_long_as_the_segments_is_the_segments():
    ranges = segment_ranges(96, 24)
    assert Window(frames=24).of_segments(ranges, 96, 25.0) == ranges


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"),
    [(10, 30.0, 300), (10, 29.97, 300), (0.5, 25.0, 13), (0.001, 25.0, 1)],
)
def test_seconds_are_frames_of_each_videos_own_rate(seconds, fps, frames):
    assert Window(seconds=seconds).num_frames(fps) == frames


@pytest.mark.parametrize("record", [None, "segment", {}, {"frames": 0}, {"frames": True},
                                    {"frames": 2, "seconds": 1.0}, {"seconds": float("nan")},
                                    {"seconds": -1.0}, {"frames": "48"}])  # fmt: skip
def test_what_says_nothing_is_no_window(record):
    assert Window.of_record(record) is None


@pytest.mark.parametrize("window", [Window(frames=48), Window(seconds=2.5)])
def test_a_record_reads_back(window):
    assert Window.of_record(window.as_record()) == window


@pytest.mark.parametrize("length", [1, 10, 24, 48, 200])
@pytest.mark.parametrize("first", [0, 2])
def test_keyframes_are_the_windows_and_each_frame_is_decoded_once(make_video, length, first):
    path = make_video(num_frames=110)
    frames, ranges = all_frames(path), segment_ranges(110, 24)
    windows = Window(frames=length).of_segments(ranges, 110, 25.0)
    reader = SegmentReader(path, ranges, 8, first, windows)
    decoded = 0
    frames_of = reader._frames

    def counted(*arguments):
        nonlocal decoded
        for frame in frames_of(*arguments):
            decoded += 1
            yield frame

    reader._frames = counted
    segments = list(reader)
    assert [segment.index for segment in segments] == [*range(first, 5)]
    for segment in segments:
        start, stop = windows[segment.index]
        assert (segment.start_frame, segment.stop_frame) == ranges[segment.index]
        assert segment.seen == (start, stop)
        wanted = keyframe_indices(start, stop, 8)
        assert [start + index for index in segment.frame_indices] == wanted
        np.testing.assert_array_equal(segment.keyframes, [frames[frame] for frame in wanted])
    assert decoded == reader.num_decoded == 110


@pytest.mark.parametrize("length", [6, 24, 60])
def test_a_video_shorter_than_planned_repeats_its_last_frame(make_video, length):
    path = make_video(num_frames=50)
    frames, ranges = all_frames(path), segment_ranges(72, 24)
    windows = Window(frames=length).of_segments(ranges, 72, 25.0)
    *_, last = SegmentReader(path, ranges, 4, windows=windows)
    assert (last.start_frame, last.stop_frame) == (48, 50)
    for picture, wanted in zip(last.keyframes, keyframe_indices(*windows[2], 4), strict=True):
        np.testing.assert_array_equal(picture, frames[min(wanted, 49)])
    assert all(0 <= index < max(1, 50 - windows[2][0]) for index in last.frame_indices)


def test_memory_holds_the_open_windows_only(make_video):
    """Not those of the whole video: 40 segments of 16 frames, each seen within 64."""
    path = make_video(num_frames=640, size=(160, 120))
    ranges = segment_ranges(640, 16)
    windows = Window(frames=64).of_segments(ranges, 640, 25.0)
    picture = 160 * 120 * 3
    tracemalloc.start()
    try:
        for _ in SegmentReader(path, ranges, 8, windows=windows):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Five windows are open at once; the segment given last, and the next one's, are there too.
    assert peak < 8 * 8 * picture < 40 * 8 * picture / 4


@pytest.fixture
def job(tmp_path, make_video, model):
    lengths = {"a": 100, "b": 24 * 66 + 5, "c": 40, "d": 70, "e": 61, "f": 80}
    records = [
        VideoRecord(name, str(make_video(f"{name}.mp4", length, seed=number)),
                    "test" if name in "ef" else "train", "anomalous" if number % 2 else "normal",
                    annotations=((10, 30),) if name == "f" else ())
        for number, (name, length) in enumerate(lengths.items())
    ]  # fmt: skip
    write_manifest(tmp_path / "m.csv", records)
    return ExtractConfig(
        manifest=tmp_path / "m.csv",
        store=tmp_path / "s.zarr",
        backbone=BackboneConfig(str(model), device="cpu", layers=(0, 4, 10)),
        keyframes=4,
        window=Window(frames=48),
        num_readers=1,
        parity=0,
    )


def test_a_store_of_windows_is_made_gone_on_with_checked_copied_probed_and_detected(job, tmp_path):
    """All on one store, which takes its time to make."""
    calls = 0

    class Interrupted(Backbone):
        def launch(self, inputs):
            nonlocal calls
            calls += 1
            if calls > 9:  # in the long video, behind its first block
                raise KeyboardInterrupt
            return super().launch(inputs)

    small = replace(job, batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        extract(small, workplace=Here(small, Interrupted(job.backbone)))
    summary = extract(replace(job, parity=6))
    assert summary.num_done == 6
    assert summary.parity["exceeded"] == []
    assert max(summary.parity["relative_l2"].values()) < 1e-4

    store = FeatureStore.open(job.store)
    assert store.origin.window == Window(frames=48)
    backbone = Backbone(job.backbone)
    for video_id, video in store.videos.iterrows():
        rows = store.segments[store.segments["video_id"] == video_id]
        ranges = segment_ranges(video["num_frames"], 24)
        windows = job.window.of_segments(ranges, video["num_frames"], 25.0)
        assert [*zip(rows["start_frame"], rows["stop_frame"], strict=True)] == ranges
        assert [*zip(rows["window_start"], rows["window_stop"], strict=True)] == windows
    # Against a reader that knows nothing of windows: it is told the window is the segment.
    for segment in (0, 1, 3):
        start, stop = windows_of(store, "a")[segment]
        ranges = [(0, start), (start, stop)] if start else [(0, stop)]
        *_, seen = SegmentReader(store.videos.loc["a", "path"], ranges, 4)
        expected = backbone.states(backbone.prepare([seen], 25.0))[:, 0]
        np.testing.assert_allclose(store.video("a")[:, segment], expected, rtol=0, atol=1e-5)

    assert verify(job.store).problems == []
    raw = zarr.open_group(job.store, mode="r")
    assert raw["window_start"].metadata.dimension_names == ("row",)
    assert (
        store.to_xarray()["window_stop"].values.tolist() == store.segments["window_stop"].tolist()
    )
    subset(job.store, tmp_path / "some.zarr", layers=[4, 10], only=["a", "e"])
    some = FeatureStore.open(tmp_path / "some.zarr")
    assert windows_of(some, "e") == windows_of(store, "e")
    merge(tmp_path / "all.zarr", [tmp_path / "some.zarr"])
    assert windows_of(FeatureStore.open(tmp_path / "all.zarr"), "a") == windows_of(store, "a")

    for other in (None, Window(frames=47), Window(seconds=2.0)):
        with pytest.raises(StoreError, match=r"window.*: store .*48"):
            extract(replace(job, window=other, backbone=BackboneConfig("nowhere", device="cpu")))

    probe = run_probe(ProbeConfig(job.store, layer=4))
    probe.save(tmp_path / "probe.json")
    metrics = run_evaluate(EvaluateConfig(job.store, tmp_path / "probe.json", tmp_path / "results"))
    assert not [text for text in metrics["warnings"] if "window" in text]
    scores = pd.read_csv(tmp_path / "results/scores.csv")
    own = scores[scores["video_id"] == "f"]
    assert [*zip(own["window_start"], own["window_stop"], strict=True)] == windows_of(store, "f")
    assert "the model saw frames" in (tmp_path / "results/report.html").read_text()

    video = Path(store.videos.loc["f", "path"])
    detection = detect(DetectConfig(video, tmp_path / "probe.json", job.backbone))
    np.testing.assert_allclose(detection.raw, own["score"], rtol=0, atol=1e-4)
    write_detection(tmp_path / "found.json", detection, [])
    found = json.loads((tmp_path / "found.json").read_text())
    pairs = [(one["window_start"], one["window_stop"]) for one in found["segments"]]
    assert pairs == windows_of(store, "f")
    assert found["provenance"]["window"] == {"frames": 48}
    result = hiprobe(
        *("detect", video, tmp_path / "probe.json", "--model", job.backbone.model),
        *("--device", "cpu"),
        cwd=tmp_path,
    )
    assert "frames 0-24 (seen 0-36)  0." in result.stderr
    assert "frames 24-48 (seen 12-60)  0." in result.stderr
    assert "of each segment the model saw up to 48 frames around its middle" in result.stdout

    # A probe trained on other windows scores, and it is said.
    plain = replace(job, store=tmp_path / "plain.zarr", window=None, split="test")
    extract(plain)
    config = EvaluateConfig(plain.store, tmp_path / "probe.json", tmp_path / "other")
    warnings = run_evaluate(config)["warnings"]
    assert [
        text
        for text in warnings
        if "another window: {'frames': 48}, the store's is 'segment'" in text
    ]
    columns = pd.read_csv(tmp_path / "other/scores.csv").columns
    assert not {"window_start", "window_stop"} & {*columns}
    assert not (plain.store / "window_start").exists()
    assert "window_start" not in FeatureStore.open(plain.store).segments


@pytest.mark.parametrize("length", [4, 24, 60])
def test_windows_of_a_video_that_ends_early_end_with_it(tmp_path, length):
    """Planned with 72 frames, decoded 50; a window of 4 frames would begin at 58."""
    record = VideoRecord("a", "/nowhere/a.mp4", "test", "normal")
    ranges = segment_ranges(72, 24)
    windows = Window(frames=length).of_segments(ranges, 72, 25.0)
    path = tmp_path / "s.zarr"
    writer = StoreWriter.create(
        path, layers=[0], num_features=2, provenance={}, row_block=4, has_windows=True
    )
    with writer:
        writer.add_videos([PlannedVideo(record, 72, 25.0, ranges, None, windows)])
        writer.write_block(0, 0, np.ones((1, 3, 2)))
        writer.finish_video(0, status=DONE, num_frames=50, fps=25.0)
    expected = [(min(start, 49), min(stop, 50)) for start, stop in windows]
    assert windows_of(FeatureStore.open(path), "a") == expected
    raw = zarr.open_group(path, mode="r")
    assert [*zip(raw["window_start"][:3], raw["window_stop"][:3], strict=True)] == expected
    export_hdf5(path, tmp_path / "s.h5")
    import_hdf5(tmp_path / "s.h5", tmp_path / "again.zarr")
    assert windows_of(FeatureStore.open(tmp_path / "again.zarr"), "a") == expected


def windows_of(store, video_id):
    rows = store.segments[store.segments["video_id"] == video_id]
    return [*zip(rows["window_start"].tolist(), rows["window_stop"].tolist(), strict=True)]
