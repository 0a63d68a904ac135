"""The whole extraction on real files, and its interruptions."""

from dataclasses import replace

import numpy as np
import pytest

from hiprobe.extract import pipeline
from hiprobe.extract.backbone import Backbone, BackboneConfig
from hiprobe.extract.demo.model import build_random_model
from hiprobe.extract.pipeline import ExtractConfig, extract, parse_layers
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.video import SegmentReader
from hiprobe.store import FeatureStore, StoreError, VideoRecord, read_manifest, write_manifest


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return build_random_model(tmp_path_factory.mktemp("model") / "qwen")


@pytest.fixture
def job(tmp_path, make_video, model):
    """Three good videos, one much longer than a block, and four broken ones."""
    lengths = {"short": 10, "long": 24 * 70 + 5, "middle": 100}
    records = [
        VideoRecord(name, str(make_video(f"{name}.mp4", num)), "train", "normal")
        for name, num in lengths.items()
    ]
    truncated = make_video("truncated.mp4", 100)
    truncated.write_bytes(truncated.read_bytes()[:3000])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    for name in ("truncated", "empty", "text", "missing"):
        records.insert(1, VideoRecord(name, str(tmp_path / f"{name}.mp4"), "test", "anomalous"))
    write_manifest(tmp_path / "manifest.csv", [*records])
    return ExtractConfig(
        manifest=tmp_path / "manifest.csv",
        store=tmp_path / "features.zarr",
        backbone=BackboneConfig(str(model), device="cpu"),
    )


def test_good_videos_are_stored_and_bad_ones_listed(job):
    summary = extract(job)
    assert (summary.num_done, summary.num_pending) == (3, 0)
    assert summary.num_segments == 1 + 71 + 5
    reasons = summary.failures
    assert "no such file" in reasons["missing"]
    assert "the file is empty" in reasons["empty"]
    assert "cannot be read as a video" in reasons["text"]
    assert "cannot be read as a video" in reasons["truncated"]

    store = FeatureStore.open(job.store)
    backbone = Backbone(job.backbone)
    segments = list(SegmentReader(store.videos.loc["middle", "path"], segment_ranges(100, 24), 8))
    expected = backbone.states(backbone.prepare(segments, 25.0))
    np.testing.assert_allclose(store.video("middle"), expected, rtol=0, atol=1e-5)
    assert store.provenance["model"]["class"] == "Qwen2_5_VLModel"
    assert store.provenance["processor"]["call"]["cap_pixels_per_frame"] is True


def test_an_interrupted_run_goes_on_where_it_was(job, monkeypatch):
    undisturbed = job.store.with_name("undisturbed.zarr")
    extract(replace(job, store=undisturbed))

    calls = 0
    states = Backbone.states

    def interrupted(self, inputs):
        nonlocal calls
        calls += 1
        if calls > 9:  # in the long video, after its first block
            raise KeyboardInterrupt
        return states(self, inputs)

    monkeypatch.setattr(Backbone, "states", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(job)
    partial = FeatureStore.open(job.store)
    assert list(partial.videos.query("status == 'done'").index) == ["short"]

    counted = 0

    def counting(self, inputs):
        nonlocal counted
        counted += 1
        return states(self, inputs)

    monkeypatch.setattr(Backbone, "states", counting)
    extract(job)
    assert counted == 2  # the long video's last 7 segments, and the middle one's 5
    resumed, whole = FeatureStore.open(job.store), FeatureStore.open(undisturbed)
    for video_id in ("short", "long", "middle"):
        np.testing.assert_array_equal(resumed.video(video_id), whole.video(video_id))


def test_running_again_computes_nothing(job, monkeypatch):
    extract(job)
    monkeypatch.setattr(Backbone, "states", lambda self, inputs: pytest.fail("computed again"))
    assert extract(job).num_done == 3


def test_other_settings_are_refused_with_the_difference(job):
    extract(replace(job, limit=1))
    with pytest.raises(StoreError, match="keyframes: store 8, this run 4"):
        extract(replace(job, keyframes=4))


def test_new_videos_of_the_manifest_are_added(job, make_video):
    extract(job)
    record = VideoRecord("new", str(make_video("new.mp4", 30)), "test", "normal")
    write_manifest(job.manifest, [*read_manifest(job.manifest), record])
    assert extract(job).num_done == 4
    assert FeatureStore.open(job.store).video("new").shape[1] == 2


def test_limit_takes_so_many_videos(job):
    summary = extract(replace(job, limit=1))
    assert (summary.num_done, summary.num_pending) == (1, 2)


def test_a_video_with_fewer_frames_than_announced_fails_alone(job, monkeypatch):
    inspect = pipeline.inspect_video

    def exaggerated(path):
        info = inspect(path)
        return type(info)(info.num_frames + 60, info.fps, info.width, info.height)

    monkeypatch.setattr(pipeline, "inspect_video", exaggerated)
    summary = extract(job)
    assert "decoded 100 of the 160 frames announced" in summary.failures["middle"]


def test_a_non_finite_state_fails_its_video_and_names_the_layer(job, monkeypatch):
    states = Backbone.states

    def overflowing(self, inputs):
        result = states(self, inputs).copy()
        if result.shape[1] == 5:
            result[3, 2, 0] = np.inf
        return result

    monkeypatch.setattr(Backbone, "states", overflowing)
    summary = extract(job)
    assert "non-finite state in layer 3 of segment 2" in summary.failures["middle"]
    assert summary.num_done == 2


def test_whole_videos_as_one_segment(job):
    summary = extract(replace(job, segment_frames=None))
    assert summary.num_segments == summary.num_done == 3


@pytest.mark.parametrize(
    ("text", "layers"), [("all", None), ("0,8,16-18", (0, 8, 16, 17, 18)), ("3", (3,))]
)
def test_layers_are_parsed(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "3-", "5-2", "-1"])
def test_bad_layers_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_layers(text)
