from hypothesis import given
from hypothesis import strategies as st

from hiprobe.extract.segments import keyframe_indices, segment_ranges


def test_a_full_segment_has_the_papers_keyframes():
    assert keyframe_indices(48, 72, 8) == [48, 51, 54, 57, 60, 63, 66, 69]


def test_a_short_segment_repeats_frames():
    assert keyframe_indices(24, 27, 8) == [24, 24, 24, 25, 25, 25, 26, 26]


def test_whole_video_is_one_segment():
    assert segment_ranges(100, None) == [(0, 100)]


@given(st.integers(1, 2000), st.integers(1, 100), st.integers(1, 32))
def test_segments_tile_the_video_and_keyframes_lie_inside(num_frames, segment_frames, keyframes):
    ranges = segment_ranges(num_frames, segment_frames)
    assert [frame for start, stop in ranges for frame in range(start, stop)] == list(
        range(num_frames)
    )
    for start, stop in ranges:
        indices = keyframe_indices(start, stop, keyframes)
        assert len(indices) == keyframes
        assert indices == sorted(indices)
        assert start == indices[0] <= indices[-1] < stop
