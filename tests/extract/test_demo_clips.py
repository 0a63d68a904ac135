from collections import Counter

import numpy as np
import pytest

from hiprobe.extract.demo.clips import ANOMALOUS_EVENTS, plan_clips, render_frames, write_clips
from hiprobe.extract.manifests import folder_manifest
from hiprobe.extract.video import SegmentReader, inspect_video


def test_the_plan_is_balanced_and_seeded():
    clips = plan_clips(48, seed=3)
    assert Counter((clip.split, clip.label) for clip in clips) == {
        (split, label): 12 for split in ("train", "test") for label in ("normal", "anomalous")
    }
    for split in ("train", "test"):
        kinds = Counter(clip.category for clip in clips if clip.split == split and clip.category)
        assert kinds == dict.fromkeys(ANOMALOUS_EVENTS, 3)
    assert clips == plan_clips(48, seed=3)
    assert clips != plan_clips(48, seed=4)
    assert len({clip.seed for clip in clips}) == 48
    assert len({(clip.width, clip.height) for clip in clips}) == 4
    assert len({clip.fps for clip in clips}) == 4


@pytest.mark.parametrize("clip", plan_clips(16), ids=lambda clip: clip.name)
def test_annotations_are_the_anomalous_events(clip):
    if clip.label == "normal":
        assert clip.annotations == ()
        return
    ((start, stop),) = clip.annotations
    assert 0 <= start < stop <= clip.num_frames
    assert 0.24 < (stop - start) / clip.num_frames < 0.61


def test_rendering_is_deterministic_and_events_are_visible():
    clip = plan_clips(4)[2]
    frames = list(render_frames(clip))
    assert frames[0].shape == (clip.height, clip.width, 3)
    again = list(render_frames(clip))
    assert all((one == two).all() for one, two in zip(frames, again, strict=True))
    ((start, stop),) = clip.annotations
    without = type(clip)(**{**vars(clip), "events": clip.events[:-1]})
    quiet = list(render_frames(without))
    middle = (start + stop) // 2
    changed = np.abs(frames[middle].astype(int) - quiet[middle]) > 60
    assert changed.any(axis=2).mean() > 0.002


def test_files_have_the_planned_frames_and_rates_and_a_manifest(tmp_path):
    clips = plan_clips(4, seed=1)
    write_clips(clips, tmp_path)
    records, warnings = folder_manifest(tmp_path, annotations=tmp_path / "annotations.csv")
    assert warnings == []
    by_id = {record.video_id: record for record in records}
    for clip in clips:
        record = by_id[f"{clip.folder}/{clip.name}"]
        assert (record.split, record.label, record.category) == (
            clip.split,
            clip.label,
            clip.category,
        )
        assert record.annotations == clip.annotations
        info = inspect_video(record.path)
        assert (info.num_frames, info.width, info.height) == (
            clip.num_frames,
            clip.width,
            clip.height,
        )
        assert info.fps == pytest.approx(float(clip.fps), rel=1e-3)
        reader = SegmentReader(record.path, [(0, clip.num_frames)], 2)
        list(reader)
        assert reader.num_decoded == clip.num_frames
