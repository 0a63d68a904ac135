"""Short videos that share batches: which, with what states, and who fails alone; groups."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hiprobe.extract import plan
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.pipeline import extract
from hiprobe.extract.plan import Job, groups, packs
from hiprobe.extract.workplace import Here
from hiprobe.store import FeatureStore, VideoRecord, read_manifest, write_manifest
from hiprobe.store.taps import HIDDEN_STATES
from hiprobe.store.verify import verify

GUILTY_FPS = 10


@pytest.fixture
def job(tmp_path, make_video, model):
    """Five videos of 3, 2, 1, 3 and 2 segments; the third has another frame rate."""
    records = [
        VideoRecord(name, str(make_video(f"{name}.mp4", num, fps=fps, seed=num)), "train", "normal")
        for name, num, fps in (
            ("a", 72, 25), ("b", 40, 25), ("guilty", 24, GUILTY_FPS), ("c", 60, 25), ("d", 48, 25),
        )
    ]  # fmt: skip
    write_manifest(tmp_path / "m.csv", records)
    backbone = BackboneConfig(str(model), device="cpu")
    return ExtractConfig(
        tmp_path / "m.csv", tmp_path / "s.zarr", backbone, batch_size=4, thumbnails=True, parity=0
    )


class Watched(Backbone):
    """The real model, which tells what it is given, and may be disturbed."""

    def __init__(self, job, disturb=lambda inputs, states: states):
        super().__init__(job.backbone)
        self.sizes, self._disturb = [], disturb

    def launch(self, inputs):
        self.sizes.append(len(inputs["input_ids"]))
        states = super().launch(inputs)()
        states[HIDDEN_STATES] = self._disturb(inputs, states[HIDDEN_STATES])
        return lambda: states


def extracted(job, disturb=lambda inputs, states: states):
    backbone = Watched(job, disturb)
    summary = extract(job, workplace=Here(job, backbone))
    assert verify(job.store).problems == []
    return summary, FeatureStore.open(job.store), backbone.sizes


def is_guilty(inputs):
    """Which segments are of the video with the other frame rate."""
    return inputs["second_per_grid_ts"] > 0.5


def alone(job):
    """The same videos, a segment at a time: nobody shares anything."""
    return extracted(replace(job, batch_size=1, store=job.store.with_name("alone.zarr")))[1]


def assert_equal(store, expected, names):
    assert list(store.videos.index[store.videos["status"] == "done"]) == list(names)
    for name in names:
        np.testing.assert_allclose(store.video(name), expected.video(name), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(store.thumbnails(name), expected.thumbnails(name))


def planned(num_segments, first_block=0):
    record = VideoRecord("v", "v.mp4", "train", "normal")
    return Job(0, record, 24 * num_segments, 25.0, first_block, num_segments)


def test_a_pack_is_consecutive_short_videos():
    lengths = [3, 60, 2, 64, 1, 65, 5, 5]
    jobs = [planned(number) for number in lengths]
    found = packs(jobs, row_block=64, max_segments=64)
    assert [job for pack in found for job in pack] == jobs
    assert [[job.num_segments for job in pack] for pack in found] == [
        [3, 60], [2], [64], [1], [65], [5, 5],
    ]  # fmt: skip


def test_the_end_of_a_long_video_stays_alone():
    jobs = [planned(5), planned(5, first_block=1), planned(5)]
    assert [len(pack) for pack in packs(jobs, 64, 64)] == [1, 1, 1]
    jobs = [planned(5), planned(20), planned(5)]
    assert [len(pack) for pack in packs(jobs, 16, 64)] == [1, 1, 1]


def test_groups_share_evenly_and_are_not_too_large():
    clips = [planned(3) for _ in range(200)]
    assert [len(group) for group in groups(clips, 1)] == [16] * 12 + [8]
    assert {len(group) for group in groups(clips, 10)} == {5}
    assert {len(group) for group in groups(clips[:10], 8)} == {1}
    mixed = [planned(number) for number in (2, 2, 100, 2, 2, 2, 100, 100)]
    assert [job for group in groups(mixed, 2) for job in group] == mixed
    assert [len(group) for group in groups(mixed, 2)] == [2, 1, 3, 1, 1]
    assert groups([], 2) == []


def test_short_videos_share_batches_and_keep_their_states(job):
    summary, store, sizes = extracted(job)
    assert sizes == [4, 4, 3]
    assert (summary.num_done, summary.num_segments) == (5, 11)
    assert_equal(store, alone(job), ["a", "b", "guilty", "c", "d"])


def test_the_same_run_gives_the_same_bits_with_any_number_of_readers(job):
    stores = [
        extracted(replace(job, num_readers=number, store=job.store.with_name(f"{number}.zarr")))[1]
        for number in (1, 3)
    ]
    for name in stores[0].videos.index:
        np.testing.assert_array_equal(stores[0].video(name), stores[1].video(name))


def test_frames_of_another_size_begin_a_batch(job, make_video):
    make_video("b.mp4", 40, size=(128, 96))
    _, store, sizes = extracted(job)
    assert sizes == [3, 2, 4, 2]
    assert_equal(store, alone(job), ["a", "b", "guilty", "c", "d"])


def test_a_video_that_breaks_off_fails_alone(job, monkeypatch):
    inspect = plan.inspect_video

    def exaggerated(path):
        info = inspect(path)
        more = 60 if path.endswith("b.mp4") else 0
        return type(info)(info.num_frames + more, info.fps, info.width, info.height)

    expected = alone(job)
    monkeypatch.setattr(plan, "inspect_video", exaggerated)
    summary, store, _ = extracted(job)
    assert "decoded 40 of the 100 frames announced" in summary.failures["b"]
    assert_equal(store, expected, ["a", "guilty", "c", "d"])


def test_a_video_that_has_changed_is_left_alone(job, make_video):
    records = read_manifest(job.manifest)
    extract(replace(job, only=("a",)))

    def change(*_):
        make_video("c.mp4", 60, seed=5)

    summary = extract(job, on_plan=change)
    assert list(summary.changed) == ["c"]
    assert summary.num_done == len(records) - 1


def test_a_non_finite_state_fails_its_video_alone(job):
    def overflowing(inputs, states):
        states[3, is_guilty(inputs), 0] = np.inf
        return states

    summary, store, sizes = extracted(job, overflowing)
    assert list(summary.failures) == ["guilty"]
    assert "non-finite state in layer 3 of segment 0" in summary.failures["guilty"]
    assert sizes == [4, 4, 3]
    assert_equal(store, alone(job), ["a", "b", "c", "d"])


def test_a_video_that_never_fits_fails_alone(job):
    def tight(inputs, states):
        if is_guilty(inputs).any():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return states

    summary, store, _ = extracted(job, tight)
    assert list(summary.failures) == ["guilty"]
    assert "one segment does not fit" in summary.failures["guilty"]
    assert_equal(store, alone(job), ["a", "b", "c", "d"])


def test_a_video_that_the_processor_refuses_fails_alone(job):
    class Picky(Watched):
        def prepare(self, segments, fps):
            if GUILTY_FPS in fps:
                raise ValueError("no such rate")
            return super().prepare(segments, fps)

    summary = extract(job, workplace=Here(job, Picky(job)))
    assert list(summary.failures) == ["guilty"]
    assert "the model's processor refuses its 96x64 frames: no such" in summary.failures["guilty"]
    assert_equal(FeatureStore.open(job.store), alone(job), ["a", "b", "c", "d"])


def test_a_batch_is_launched_before_the_last_ones_states_are_fetched(job):
    order = []

    class Noted(Backbone):
        def launch(self, inputs):
            number = sum(what == "launch" for what, _ in order)
            order.append(("launch", number))
            fetch = super().launch(inputs)

            def noted():
                order.append(("fetch", number))
                return fetch()

            return noted

    summary = extract(job, workplace=Here(job, Noted(job.backbone)))
    assert (summary.num_done, verify(job.store).problems) == (5, [])
    last = order[-1][1]
    assert last > 1
    ahead = [("launch", 0)]
    for number in range(last):
        ahead += [("launch", number + 1), ("fetch", number)]
    assert order == [*ahead, ("fetch", last)]
