"""Intervals in seconds become frames, at each video's own rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiprobe.extract.video import inspect_video
from hiprobe.manifest.events import own_data
from hiprobe.store import ManifestError, read_manifest, write_manifest

HEADER = "video_id,path,split,label,category,start_seconds,stop_seconds\n"


def no_video(path):
    raise AssertionError(f"{path} was opened")


def table(tmp_path, *lines, lengths="a,100,25\nb,60,12.5\n"):
    (tmp_path / "events.csv").write_text(HEADER + "\n".join(lines) + "\n")
    (tmp_path / "lengths.csv").write_text("video_id,num_frames,fps\n" + lengths)
    return own_data(tmp_path / "events.csv", lengths=tmp_path / "lengths.csv", inspect=no_video)


def test_any_mix_of_frame_rates(tmp_path):
    manifest = table(
        tmp_path,
        "a,a.mp4,test,anomalous,Fire,1.0,2.0",
        "b,b.mp4,test,anomalous,Fall,1.0,2.0",
        "a,a.mp4,test,anomalous,Fire,3,3.2",
    )
    a, b = manifest.records
    # Frame 12 of b lasts from 0.96 to 1.04 s: its middle is 1.0.
    assert (a.annotations, b.annotations) == (((25, 50), (75, 80)), ((12, 25),))
    assert (a.num_frames, a.fps, b.fps) == (100, 25.0, 12.5)
    write_manifest(tmp_path / "m.csv", manifest.records)
    assert read_manifest(tmp_path / "m.csv") == manifest.records


@given(
    st.floats(0, 50), st.floats(0.01, 20), st.floats(0.01, 20), st.sampled_from([15, 23.976, 30])
)
def test_a_frame_counts_when_its_middle_lies_inside(start, first, second, fps):
    import math

    edges = [start, start + first, start + first + second]
    frames = [math.ceil(edge * fps - 0.5) for edge in edges]
    for frame in range(frames[0], frames[2]):
        middle = (frame + 0.5) / fps
        in_first = frames[0] <= frame < frames[1]
        assert (
            in_first == (edges[0] - 1e-9 <= middle < edges[1] + 1e-9)
            or abs(middle - edges[1]) < 1e-9
        )


def test_intervals_that_touch_or_overlap_are_one(tmp_path):
    line = "a,a.mp4,test,anomalous,"
    manifest = table(tmp_path, f"{line},1,2", f"{line},2,3", f"{line},2.5,2.8")
    assert manifest.records[0].annotations == ((25, 75),)
    assert manifest.warnings == ["b: has a length, but no line"]


def test_ends_beyond_the_video_are_clipped_and_said(tmp_path):
    manifest = table(tmp_path, "a,a.mp4,test,anomalous,,3,9", "b,b.mp4,test,normal,,,")
    assert manifest.records[0].annotations == ((75, 100),)
    assert manifest.warnings == ["a: annotation ended at 225, clipped to its 100 frames"]
    manifest = table(tmp_path, "a,a.mp4,test,anomalous,,8,9", "b,b.mp4,test,normal,,,")
    assert manifest.warnings == [
        "a: annotation 200:225 lies beyond its 100 frames and was left out"
    ]


def test_wrong_lines_are_listed_all_at_once(tmp_path):
    with pytest.raises(ManifestError, match="7 wrong lines") as caught:
        table(
            tmp_path,
            "a,a.mp4,test,anomalous,,2,1",
            "a,a.mp4,test,anomalous,,x,1",
            "a,a.mp4,test,anomalous,,1,",
            "a,a.mp4,testing,anomalous,,1,2",
            ",a.mp4,test,anomalous,,1,2",
            "b,b.mp4,test,normal,,1,2",
            "a,a.mp4,test,anomalous,,1,2",
            "a,b.mp4,test,anomalous,,1,2",
        )
    for message in (
        "line 2: the interval is 2 to 1 s",
        "line 3: start_seconds and stop_seconds must be numbers",
        "line 4: start_seconds and stop_seconds must be numbers",
        "line 5: split is 'testing'",
        "line 6: video_id or path is empty",
        "line 7: label is 'normal', but the line has an interval",
        "line 9: path is 'b.mp4', but 'a.mp4' in an earlier line of the video",
    ):
        assert message in str(caught.value)


def test_lengths_come_from_the_videos_themselves(tmp_path, make_video):
    make_video("v.mp4", num_frames=50, fps=25)
    (tmp_path / "events.csv").write_text(HEADER + "v,v.mp4,test,anomalous,,0.4,0.8\n")
    (record,) = own_data(tmp_path / "events.csv", inspect=inspect_video).records
    assert (record.num_frames, record.fps, record.annotations) == (50, 25.0, ((10, 20),))
    (tmp_path / "events.csv").write_text(HEADER + "w,w.mp4,test,normal,,,\n")
    with pytest.raises(ManifestError, match=r"1 wrong videos:\n  .*w.mp4: no such file"):
        own_data(tmp_path / "events.csv", inspect=inspect_video)


def test_what_is_no_table_says_so(tmp_path):
    (tmp_path / "events.csv").write_text("video_id,path\n")
    with pytest.raises(ManifestError, match="the header lacks split, label"):
        own_data(tmp_path / "events.csv", inspect=no_video)
    with pytest.raises(ManifestError, match="no such file"):
        own_data(tmp_path / "nothing.csv", inspect=no_video)
    (tmp_path / "events.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="cannot read it as CSV"):
        own_data(tmp_path / "events.csv", inspect=no_video)
