"""Only the file itself is read: no playlist, no other file, no network."""

import struct
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import av
import pytest
from av.format import ContainerFormat, formats_available

from hiprobe.extract.containers import DEMUXERS, OPTIONS
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.video import SegmentReader, inspect_video
from hiprobe.store import VideoError
from tests.extract.odd_videos import edit_box, jpeg, video

# What they would play lies beside them (secret.ts, secret000.jpg), or at SERVER.
PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
    "hls-master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n",
    "concat": "ffconcat version 1.0\nfile {target}\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp2t">'
    '<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{target}\n"
    "m=video 40000 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "imf": '<?xml version="1.0"?><CompositionPlaylist '
    'xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>urn:uuid:1</Id><SegmentList>'
    "<Segment><Id>{target}</Id></Segment></SegmentList></CompositionPlaylist>",
    "asx": '<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
    "pls": "[playlist]\nFile1={target}\nNumberOfEntries=1\n",
    "vobsub": "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n",
}
NAMES = ("c.m3u8", "c.mp4", "c.ts", "c.mkv", "c.mpd", "c.sdp", "c.ffconcat", "c.xml", "c.idx", "c")


@pytest.fixture
def server():
    """A web server on loopback; gives its address and the requests that it has seen."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/secret.ts", seen
        running.shutdown()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_is_refused_whatever_its_name(tmp_path, server, kind, name):
    video(30)(tmp_path / "secret.ts")
    address, seen = server
    for target in ("secret.ts", str(tmp_path / "secret.ts"), address):
        path = tmp_path / name
        path.write_text(PLAYLISTS[kind].format(target=target))
        with pytest.raises(VideoError, match="cannot be read as a video") as caught:
            inspect_video(path)
        assert str(caught.value).count("\n") == 0
    assert not seen


def test_a_playlist_says_what_to_give_instead(tmp_path):
    video(30)(tmp_path / "secret.ts")
    path = tmp_path / "c.mp4"
    path.write_text(PLAYLISTS["concat"].format(target="secret.ts"))
    with pytest.raises(VideoError, match=r"Playlists and image sequences are not read: give the"):
        inspect_video(path)


def test_an_image_sequence_is_refused_and_one_picture_is_not(tmp_path):
    for number in range(3):
        jpeg([number])(tmp_path / f"secret{number:03}.jpg")
    (tmp_path / "secret%03d.jpg").write_bytes((tmp_path / "secret000.jpg").read_bytes())
    assert inspect_video(tmp_path / "secret000.jpg").num_frames == 1
    with pytest.raises(VideoError, match="Playlists and image sequences are not read"):
        inspect_video(tmp_path / "secret%03d.jpg")


def external_reference(path):
    """A QuickTime alias (`alis`) to another file, by its absolute path."""
    name, whole = path.name.encode(), str(path).encode()
    volume, even = b"disk", len(whole) + len(whole) % 2
    alias = bytes(10) + bytes([len(volume)]) + volume.ljust(27, b"\0") + bytes(12)
    alias += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + struct.pack(">hh", -1, -1)
    alias += bytes(16) + struct.pack(">hH", 2, len(whole)) + whole.ljust(even, b"\0")
    alias += struct.pack(">hH", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    return struct.pack(">II", 0, 1) + entry


def test_a_track_whose_pictures_lie_in_another_file_gives_none_of_them(tmp_path):
    numbers = tmp_path / "secret.mp4"
    video(30)(numbers)
    path = tmp_path / "c.mp4"
    content = numbers.read_bytes()
    path.write_bytes(content)
    edit_box("moov/trak/mdia/minf/dinf/dref", lambda _: external_reference(numbers))(path)
    # Nothing of its own: what is decoded comes from the other file.
    start = content.index(b"mdat") + 4
    stop = content.index(b"moov") - 4
    changed = path.read_bytes()
    path.write_bytes(changed[:start] + bytes(stop - start) + changed[stop:])
    follow = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(path), options=follow) as container:
        assert len(list(container.decode(video=0))) == 30  # the file is what it is meant to be
    read = partial(SegmentReader, path, segment_ranges(30, 24), 8)
    with suppress(VideoError):
        assert not list(read())


def test_every_demuxer_is_one_that_ffmpeg_may_have_and_none_opens_other_files():
    opens_others = {"concat", "hls", "dash", "imf", "image2", "sdp", "rtp", "rtsp", "sap", "lavfi",
                    "vobsub", "mlv", "vapoursynth", "avisynth"}  # fmt: skip
    assert not set(DEMUXERS) & opens_others
    assert len(set(DEMUXERS)) == len(DEMUXERS)
    unknown = set(DEMUXERS) - set(formats_available)
    # Of other versions of FFmpeg.
    assert unknown <= {"f4v", "vvc", "evc", "apv", "webp_anim", "3gp", "3g2", "mj2"}
    assert OPTIONS["protocol_whitelist"] == "file"
    assert ContainerFormat("mp4", "r").name.split(",")[0] in DEMUXERS
