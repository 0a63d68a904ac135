import av
import numpy as np
import pytest

from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.video import SegmentReader, inspect_video
from hiprobe.store import VideoError


def all_frames(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_keyframes_are_the_decoded_frames(make_video):
    path = make_video(num_frames=60)
    frames = all_frames(path)
    reader = SegmentReader(path, segment_ranges(60, 24), 8)
    segments = list(reader)
    assert [(s.start_frame, s.stop_frame) for s in segments] == [(0, 24), (24, 48), (48, 60)]
    for segment in segments:
        expected = [frames[segment.start_frame + index] for index in segment.frame_indices]
        np.testing.assert_array_equal(segment.keyframes, expected)
    assert reader.num_decoded == 60
    assert reader.num_bad_packets == 0


def test_resuming_in_the_middle_gives_the_same_segments(make_video):
    path = make_video(num_frames=60)
    whole = list(SegmentReader(path, segment_ranges(60, 24), 8))
    (last,) = SegmentReader(path, segment_ranges(60, 24), 8, first_segment=2)
    np.testing.assert_array_equal(last.keyframes, whole[2].keyframes)
    assert last.index == 2


def test_a_video_shorter_than_planned_repeats_its_last_frame(make_video):
    path = make_video(num_frames=50)
    frames = all_frames(path)
    *_, last = SegmentReader(path, segment_ranges(60, 24), 8)
    assert (last.start_frame, last.stop_frame) == (48, 50)
    assert last.frame_indices == (0, 1, 1, 1, 1, 1, 1, 1)
    np.testing.assert_array_equal(last.keyframes[-1], frames[49])


def test_a_container_without_an_index_is_counted(make_video):
    assert inspect_video(make_video("video.mkv", num_frames=37)).num_frames == 37


def test_real_videos_have_their_official_lengths(shared_data):
    info = inspect_video(shared_data / "videos/ucf_crime_test/Arson018_x264.mp4")
    assert (info.num_frames, info.fps, info.width, info.height) == (842, 30.0, 320, 240)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"not a video\n" * 50, "cannot be read as a video"),
    ],
)
def test_what_is_no_video_says_so(tmp_path, content, message):
    path = tmp_path / "video.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=message):
        inspect_video(path)


def test_a_folder_is_no_video(tmp_path):
    with pytest.raises(VideoError, match="not a regular file"):
        inspect_video(tmp_path)


def test_an_audio_only_file_says_so(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        samples = np.zeros((1, 1024), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video stream in it; it has audio streams only"):
        inspect_video(path)


def test_a_truncated_mp4_says_so(make_video):
    path = make_video(num_frames=120)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match="cannot be read as a video"):
        inspect_video(path)
