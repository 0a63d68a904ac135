"""The whole extraction on real files, and its interruptions."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from hiprobe.cli.extract_progress import run_with_progress
from hiprobe.demo.model import build_random_model
from hiprobe.extract import plan
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.dry_run import dry_run
from hiprobe.extract.parity import certify
from hiprobe.extract.pipeline import extract
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.video import SegmentReader
from hiprobe.extract.workplace import Here
from hiprobe.store import (
    FeatureStore,
    ManifestError,
    ModelError,
    StoreError,
    VideoRecord,
    read_manifest,
    write_manifest,
)
from hiprobe.store.merge import merge
from hiprobe.store.taps import HIDDEN_STATES
from hiprobe.store.verify import verify
from tests.conftest import forget_digests


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
        num_readers=1,
        parity=0,
    )


def extract_with(job, states):
    """Extract here with the real model, whose passes are ``states(its own way, inputs)``."""

    class Disturbed(Backbone):
        def launch(self, inputs):
            own = super().launch
            found = states(lambda inputs: own(inputs)()[HIDDEN_STATES], inputs)
            return lambda: {HIDDEN_STATES: found}

    return extract(job, workplace=Here(job, Disturbed(job.backbone)))


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


def test_an_interrupted_run_goes_on_where_it_was(job):
    undisturbed = job.store.with_name("undisturbed.zarr")
    extract(replace(job, store=undisturbed))

    calls = 0

    def interrupted(states, inputs):
        nonlocal calls
        calls += 1
        if calls > 9:  # in the long video, after its first block
            raise KeyboardInterrupt
        return states(inputs)

    with pytest.raises(KeyboardInterrupt):
        extract_with(job, interrupted)
    partial = FeatureStore.open(job.store)
    assert list(partial.videos.query("status == 'done'").index) == ["short"]

    counted = 0

    def counting(states, inputs):
        nonlocal counted
        counted += 1
        return states(inputs)

    extract_with(job, counting)
    assert counted == 2  # the long video's last 7 segments, and the middle one's 5
    assert not list(job.store.rglob("*.partial"))
    resumed, whole = FeatureStore.open(job.store), FeatureStore.open(undisturbed)
    for video_id in ("short", "long", "middle"):
        np.testing.assert_array_equal(resumed.video(video_id), whole.video(video_id))


def test_a_full_disk_stops_with_a_message_and_the_committed_part_is_whole(job, monkeypatch):
    fsync, calls = os.fsync, 0

    def full(descriptor):
        nonlocal calls
        synced = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls += "hidden_states/c/0" in str(synced) and synced.is_file()
        if calls == 2:  # the long video's first block
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device.* What was committed is intact"):
        extract(job)
    monkeypatch.undo()
    assert verify(job.store).problems == []
    assert FeatureStore.open(job.store).videos["status"].value_counts()["pending"] == 2
    assert extract(job).num_done == 3
    assert verify(job.store).problems == []


def test_running_again_computes_nothing(job):
    extract(job)
    again = extract_with(job, lambda states, inputs: pytest.fail("computed again"))
    assert again.num_done == 3


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
    inspect = plan.inspect_video

    def exaggerated(path):
        info = inspect(path)
        return type(info)(info.num_frames + 60, info.fps, info.width, info.height)

    monkeypatch.setattr(plan, "inspect_video", exaggerated)
    summary = extract(job)
    assert "decoded 100 of the 160 frames announced" in summary.failures["middle"]


def test_a_non_finite_state_fails_its_video_and_names_the_layer(job):
    def overflowing(states, inputs):
        result = states(inputs).copy()
        if result.shape[1] == 5:
            result[3, 2, 0] = np.inf
        return result

    summary = extract_with(job, overflowing)
    assert "non-finite state in layer 3 of segment 2" in summary.failures["middle"]
    assert summary.num_done == 2


def test_failed_videos_can_be_tried_again(job, make_video):
    first = extract(job)
    make_video("truncated.mp4", 50)
    assert extract(job).failures == first.failures
    again = extract(replace(job, retry_failed=True))
    assert (again.num_done, sorted(again.failures)) == (4, ["empty", "missing", "text"])
    store = FeatureStore.open(job.store)
    assert store.videos.index.is_unique
    assert store.video("truncated").shape[1] == 3
    assert len(store.segments) == 1 + 71 + 5 + 3
    assert extract(replace(job, retry_failed=True)).num_done == 4


def test_only_some_videos(job):
    summary = extract(replace(job, only=("mid*", "short")))
    assert (summary.num_done, summary.num_pending) == (2, 1)
    with pytest.raises(ManifestError, match=r"--only 'nothing' fits none of its 7 video ids"):
        extract(replace(job, only=("nothing",)))


def test_the_parts_of_several_ranks_merge_to_the_whole(job):
    extract(job)
    parts = []
    for rank in range(3):
        part = replace(job, rank=rank, world_size=3, store=job.store.with_name(f"{rank}.zarr"))
        extract(part)
        parts.append(part.store)
    merged = job.store.with_name("merged.zarr")
    assert merge(merged, parts) == 3
    assert merge(merged, parts) == 3  # nothing left to do
    whole, joined = FeatureStore.open(job.store), FeatureStore.open(merged)
    for video_id in ("short", "long", "middle"):
        # Not to the last bit: the ranks' short videos have other neighbours in their batches.
        np.testing.assert_allclose(joined.video(video_id), whole.video(video_id), rtol=0, atol=1e-5)
        assert joined.videos.loc[video_id].equals(whole.videos.loc[video_id])
    assert verify(merged).problems == []
    with pytest.raises(StoreError, match="is in both"):
        merge(job.store.with_name("twice.zarr"), [job.store, parts[0]])


def test_parts_of_other_settings_do_not_merge(job):
    other = replace(job, store=job.store.with_name("other.zarr"), keyframes=4)
    extract(job)
    extract(other)
    with pytest.raises(StoreError, match="keyframes is 4, not 8"):
        merge(job.store.with_name("merged.zarr"), [job.store, other.store])


def test_the_certificate_of_parity_is_kept(job):
    summary = extract(replace(job, parity=5))
    certificate = FeatureStore.open(job.store).provenance["parity"]
    assert summary.parity == certificate
    assert len(certificate["segments"]) == 5
    assert max(certificate["max_relative_difference"].values()) < 1e-5
    assert list(certificate["max_relative_difference"]) == [str(layer) for layer in range(11)]
    again = certify(job.store, 3, device="cpu", seed=1)
    assert max(again["max_relative_difference"].values()) < 1e-5
    assert FeatureStore.open(job.store).provenance["parity"] == again


def test_the_certificate_says_how_far_different_segments_are_apart(job):
    certificate = extract(replace(job, parity=6)).parity
    control = certificate["between_segments"]
    assert list(control) == list(certificate["relative_l2"])
    # The embedding of the last token is the same for all.
    assert control["0"] == 0
    assert all(control[layer] > 10 * certificate["relative_l2"][layer] for layer in ("5", "10"))
    assert "warnings" not in certificate
    one = certify(job.store, 1, device="cpu")
    assert (one["between_segments"], one["exceeded"]) == ({}, [])


def test_differences_as_large_as_those_between_segments_are_warned_of(job):
    extract_with(job, lambda states, inputs: 2 * states(inputs))
    warnings = certify(job.store, 6, device="cpu")["warnings"]
    assert "numbers of such layers are mostly rounding" in warnings[0]


def test_parity_draws_the_same_segments_again_but_for_new_ones(job):
    first = extract(replace(job, parity=2, only=("long",))).parity["segments"]
    assert certify(job.store, 2, device="cpu")["segments"] == first
    second = extract(replace(job, parity=2)).parity["segments"]
    assert all(one in first or one[0] != "long" for one in second)


def test_a_run_that_finishes_nothing_has_no_certificate(job):
    def never(states, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    summary = extract_with(replace(job, parity=2), never)
    assert (summary.num_done, summary.parity) == (0, None)


def test_parity_finds_a_wrong_state(job):
    extract_with(job, lambda states, inputs: 1.01 * states(inputs))
    certificate = certify(job.store, 3, device="cpu")
    assert min(certificate["max_relative_difference"].values()) > 0.005


def test_parity_refuses_another_model(job, tmp_path):
    extract(job)
    other = build_random_model(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="the store was made with"):
        certify(job.store, 1, model=str(other), device="cpu")


def test_parity_needs_only_what_says_how_states_are_made(job):
    """A store by another program: what it does not record is warned of, or said plainly."""
    extract(replace(job, only=("middle",)))
    forget_digests(job.store)
    attributes = zarr.open_group(job.store, mode="r+").attrs
    recorded = attributes.asdict()
    kept = {
        name: value for name, value in recorded.items() if name not in ("processor", "numerics")
    }
    attributes.put(kept | {"model": {"id": recorded["model"]["id"]}})
    certificate = certify(job.store, 1, device="cpu")
    assert max(certificate["max_relative_difference"].values()) < 1e-5
    assert any("model.weights_digest: store None" in text for text in certificate["warnings"])
    forget_digests(job.store)  # the certificate has been recorded
    attributes.put({name: value for name, value in kept.items() if name != "model"})
    with pytest.raises(StoreError, match=r"does not record its model. Give it with --model"):
        certify(job.store, 1, device="cpu")
    attributes.put({name: value for name, value in kept.items() if name != "keyframes"})
    with pytest.raises(StoreError, match="does not record keyframes of its states"):
        certify(job.store, 1, device="cpu")
    with pytest.raises(StoreError, match="keyframes: store None, this run 8"):
        extract(job)


def test_a_model_that_has_moved_goes_on(job, model, tmp_path):
    extract(replace(job, only=("middle",)))
    shutil.copytree(model, tmp_path / "moved")
    moved = replace(job.backbone, model=str(tmp_path / "moved"))
    assert extract(replace(job, backbone=moved)).num_done == 3


def test_lower_layers_are_the_same_without_the_higher_ones(job):
    extract(replace(job, only=("middle",)))
    some = replace(
        job, store=job.store.with_name("some.zarr"), only=("middle",),
        backbone=replace(job.backbone, layers=(0, 2, 5)),
    )  # fmt: skip
    extract(some)
    whole, part = FeatureStore.open(job.store), FeatureStore.open(some.store)
    assert part.layers == [0, 2, 5]
    # Not to the last bit: the highest layer is computed at the last position alone.
    np.testing.assert_allclose(
        part.video("middle"), whole.video("middle")[[0, 2, 5]], rtol=0, atol=1e-5
    )
    assert len(Backbone(some.backbone)._model.language_model.layers) == 5


def test_a_batch_that_does_not_fit_is_halved(job):
    extract(job)
    small = replace(job, store=job.store.with_name("small.zarr"), batch_size=8)
    tried = []

    def tight(states, inputs):
        tried.append(len(inputs["input_ids"]))
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return states(inputs)

    assert extract_with(small, tight).num_done == 3
    assert tried[:2] == [1, 8]  # the short video, then the long one's first batch
    assert set(tried[tried.index(8) + 3 :]) <= {1, 2, 4, 8}
    assert tried.count(8) <= 3  # prepared before the first one failed
    whole, halved = FeatureStore.open(job.store), FeatureStore.open(small.store)
    np.testing.assert_allclose(halved.video("long"), whole.video("long"), rtol=0, atol=1e-5)


def test_a_segment_that_never_fits_fails_its_video(job):
    def never(states, inputs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    summary = extract_with(job, never)
    assert "one segment does not fit into the memory of cpu" in summary.failures["middle"]
    assert summary.num_done == 0


def test_a_frame_size_that_the_processor_refuses_fails_its_video(job, make_video):
    record = VideoRecord(
        "sliver", str(make_video("sliver.mp4", 30, size=(1024, 4))), "train", "normal"
    )
    write_manifest(job.manifest, [record, *read_manifest(job.manifest)])
    summary = extract(job)
    assert "refuses its 1024x4 frames" in summary.failures["sliver"]
    assert summary.num_done == 3


def test_the_dry_run_writes_nothing(job):
    plan = dry_run(job)
    assert (plan.num_videos, plan.num_segments) == (3, 77)
    assert plan.max_bytes == 77 * 11 * 128 * 4
    assert plan.video_seconds == pytest.approx((10 + 24 * 70 + 5 + 100) / 25)
    assert plan.seconds_per_segment > 0
    assert len(plan.failures) == 4
    assert not job.store.exists()


def test_a_broken_block_is_found(job):
    extract(job)
    assert verify(job.store).problems == []
    shard = job.store / "hidden_states/c/0/1/0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    (job.store / "hidden_states/c/0/0/0").unlink()
    problems = verify(job.store).problems
    assert len(problems) == 2
    assert any("is missing" in problem for problem in problems)
    assert any("long, segments" in problem for problem in problems)


def test_compiled_layers_give_the_same_states(job):
    extract(replace(job, only=("middle",)))
    compiled = replace(
        job, store=job.store.with_name("compiled.zarr"), only=("middle",),
        backbone=replace(job.backbone, compile=True),
    )  # fmt: skip
    extract(compiled)
    plain, other = FeatureStore.open(job.store), FeatureStore.open(compiled.store)
    np.testing.assert_allclose(other.video("middle"), plain.video("middle"), rtol=0, atol=1e-4)
    assert other.provenance["model"]["compile"] is True


def test_quantised_weights_need_a_gpu(job):
    with pytest.raises(ModelError, match="needs a CUDA GPU and bitsandbytes"):
        extract(replace(job, backbone=replace(job.backbone, load_in="4bit")))


def test_the_log_has_a_line_for_each_video(job, tmp_path):
    run_with_progress(job, tmp_path / "log.jsonl")
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert events.pop(1)["text"].startswith("device: cpu (")
    assert [event["event"] for event in events] == ["start", "plan", *["video"] * 3, "end"]
    assert events[1]["num_segments"] == 77
    assert {event["outcome"] for event in events[2:5]} == {"done"}
    assert {event["video_id"]: event["num_segments"] for event in events[2:5]} == {
        "short": 1, "long": 71, "middle": 5,
    }  # fmt: skip
    assert len(events[-1]["failures"]) == 4
    # The model's time is parted among the videos, without a rest.
    run = events[-1]["run"]
    assert run["num_segments"] == 77
    assert 0 < sum(event["seconds"] for event in events[2:5]) <= run["seconds"] + 0.01
    assert events[3]["seconds"] > events[2]["seconds"]
    assert FeatureStore.open(job.store).provenance["runs"] == [run]


def test_whole_videos_as_one_segment(job):
    summary = extract(replace(job, segment_frames=None))
    assert summary.num_segments == summary.num_done == 3


def test_thumbnails_are_the_middle_keyframes_also_after_an_interruption(job):
    job, calls = replace(job, thumbnails=True), []

    def interrupted(states, inputs):
        calls.append(1)
        if len(calls) == 10:  # in the long video, after its first block
            raise KeyboardInterrupt
        return states(inputs)

    with pytest.raises(KeyboardInterrupt):
        extract_with(job, interrupted)
    with pytest.raises(StoreError, match=r"thumbnails: store \[72, 128\], this run None"):
        extract(replace(job, thumbnails=False))
    extract(job)
    store = FeatureStore.open(job.store)
    assert verify(job.store).problems == []
    for video_id, num_segments in {"short": 1, "long": 71, "middle": 5}.items():
        video = store.videos.loc[video_id]
        ranges = segment_ranges(int(video["num_frames"]), 24)
        shown = store.thumbnails(video_id)
        assert shown.shape == (num_segments, 72, 128, 3)
        for segment in SegmentReader(video["path"], ranges, 8):
            picture = Image.fromarray(segment.keyframes[4]).resize((108, 72))
            np.testing.assert_array_equal(shown[segment.index][:, 10:118], np.asarray(picture))
    assert not shown[:, :, :10].any()
    assert not shown[:, :, 118:].any()
