import csv
from collections import Counter
from dataclasses import replace

import av
import numpy as np
import pytest

from hiprobe.demo.clips import (
    ANOMALOUS_EVENTS,
    NORMAL_EVENTS,
    RATES,
    SIZES,
    Renderer,
    plan_clips,
    render_frames,
    write_clips,
)
from hiprobe.extract.video import inspect_video
from hiprobe.manifest.folder import folder_manifest
from hiprobe.store import format_annotations


def first_of(category, seed=0):
    return next(clip for clip in plan_clips(16, seed) if clip.category == category)


def test_the_plan_is_balanced():
    clips = plan_clips(80, seed=3)
    for split in ("train", "test"):
        for label in ("normal", "anomalous"):
            group = [clip for clip in clips if (clip.split, clip.label) == (split, label)]
            assert len(group) == 20
            assert Counter((c.width, c.height) for c in group) == dict.fromkeys(SIZES, 5)
            assert Counter(c.fps for c in group) == dict.fromkeys(RATES, 5)
            kinds = ANOMALOUS_EVENTS if label == "anomalous" else ("",)
            assert Counter(c.category for c in group) == dict.fromkeys(kinds, 20 // len(kinds))
    normal = {e.kind for clip in clips if clip.label == "normal" for e in clip.events}
    assert normal == set(NORMAL_EVENTS)


@pytest.mark.parametrize("num_videos", [1, 2, 3, 7, 10])
def test_any_number_of_videos_can_be_planned(num_videos):
    splits = Counter(clip.split for clip in plan_clips(num_videos))
    assert splits == Counter(train=(num_videos + 1) // 2, test=num_videos // 2)


def test_the_plan_follows_from_the_seed_and_no_two_clips_share_one():
    assert plan_clips(48, seed=3) == plan_clips(48, seed=3)
    clips = plan_clips(48, seed=3) + plan_clips(48, seed=4)
    assert len({clip.seed for clip in clips}) == 96
    assert len({clip.events for clip in clips}) == 96
    assert len({clip.video_id for clip in clips[:48]}) == 48


@pytest.mark.parametrize("seed", range(5))
def test_annotations_are_the_anomalous_events(seed):
    for clip in plan_clips(48, seed):
        assert 150 <= clip.num_frames <= 420
        assert all(0 <= e.start_frame < e.stop_frame <= clip.num_frames for e in clip.events)
        anomalous = [e for e in clip.events if e.kind in ANOMALOUS_EVENTS]
        assert clip.annotations == tuple((e.start_frame, e.stop_frame) for e in anomalous)
        assert [e.kind for e in anomalous] == ([clip.category] if clip.category else [])
        if anomalous:
            ((start, stop),) = clip.annotations
            assert 0.25 <= (stop - start) / clip.num_frames <= 0.6


def test_rendering_is_deterministic():
    clip = first_of("fight")
    frames = np.stack(list(render_frames(clip)))
    assert frames.shape == (clip.num_frames, clip.height, clip.width, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, np.stack(list(render_frames(clip))))
    other = np.stack(list(render_frames(replace(clip, seed=clip.seed + 1))))
    assert (frames != other).any()


@pytest.mark.parametrize("category", ANOMALOUS_EVENTS)
def test_an_anomaly_is_seen_in_its_frames_and_in_no_others(category):
    clip = first_of(category)
    ((start, stop),) = clip.annotations
    # Moved past the last frame it is never drawn; the other events keep their random numbers.
    hidden = tuple(
        replace(e, start_frame=e.start_frame + 1000, stop_frame=e.stop_frame + 1000)
        if e.is_anomalous
        else e
        for e in clip.events
    )
    pairs = zip(render_frames(clip), render_frames(replace(clip, events=hidden)), strict=True)
    changed = np.array([(np.abs(a.astype(int) - b) > 40).any(axis=2).mean() for a, b in pairs])
    assert not changed[:start].any()
    assert not changed[stop:].any()
    assert (changed[start:stop] > 0).all()
    assert changed[start:stop].mean() > 0.004


def test_only_the_kinds_asked_for_are_planned():
    clips = plan_clips(20, kinds=("fire", "fall"))
    assert {clip.category for clip in clips} == {"", "fire", "fall"}


def test_the_foreground_is_where_something_is_drawn():
    clip = first_of("fight")
    ((start, stop),) = clip.annotations
    event = next(event for event in clip.events if event.is_anomalous)
    hidden = Renderer(replace(clip, events=()))
    renderer = Renderer(clip)
    foreground = renderer.foreground((start + stop) // 2)
    assert 0.002 < foreground.mean() < 0.3
    column = int(event.x * clip.width)
    near = foreground[:, max(0, column - clip.width // 6) : column + clip.width // 6]
    assert near.sum() > 0.3 * foreground.sum()
    assert not hidden.foreground(start).any()


def test_files_have_the_planned_frames_and_rates(tmp_path):
    clips = plan_clips(4, seed=1)
    clips = [replace(clip, fps=fps) for clip, fps in zip(clips, RATES, strict=True)]
    done = []
    write_clips(clips, tmp_path, done.append)
    assert done == [1, 2, 3, 4]
    for clip in clips:
        path = tmp_path / f"{clip.video_id}.mp4"
        info = inspect_video(path)
        assert (info.num_frames, info.width, info.height) == (
            clip.num_frames,
            clip.width,
            clip.height,
        )
        assert info.fps == pytest.approx(clip.fps, rel=1e-6)
        with av.open(str(path)) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(decoded) == clip.num_frames
        rendered = next(render_frames(clip))
        assert np.abs(decoded[0].astype(int) - rendered).mean() < 12
    assert not list(tmp_path.rglob("*.partial"))


def test_the_folder_makes_a_manifest(tmp_path):
    clips = plan_clips(4, seed=2)
    write_clips(clips, tmp_path)
    with (tmp_path / "annotations.csv").open(newline="") as file:
        rows = {row["video_id"]: row["annotations"] for row in csv.DictReader(file)}
    assert rows == {c.video_id: format_annotations(c.annotations) for c in clips if c.category}
    draft = folder_manifest(
        tmp_path, inspect=inspect_video, annotations=tmp_path / "annotations.csv"
    )
    assert draft.warnings == []
    planned = {c.video_id: (c.split, c.label, c.category, c.annotations) for c in clips}
    read = {r.video_id: (r.split, r.label, r.category, r.annotations) for r in draft.records}
    assert read == planned


def test_the_same_seed_gives_the_same_files(tmp_path):
    """Byte for byte, so that the demo's figures are the same wherever it runs."""
    for name in ("one", "two"):
        write_clips(plan_clips(4), tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in tmp_path.glob("one/**/*.mp4"))
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
