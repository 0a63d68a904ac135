"""Broken and odd videos, each with what must happen when it is read.

Every picture shows its number as black and white blocks, and the i-th frame that a correct
reading yields shows i: so a test sees which frames came out, not only how many. Frames that
must not come out show a number from `HIDDEN` on.

What "correct" means here:

* Frames are given as decoded: a display matrix does not turn them, interlaced fields stay woven.
* They are counted as they come, whatever their times are.
* Frames that a player hides (an edit list) are not there, and a cover picture is no video.
* Of several video streams, the first one counts.
* A stream that changes its size in the middle keeps the size of its first frame.
* A file that lacks more than 24 of the frames that its index announces fails; up to 24, it is
  read with a note. Matroska, MPEG-TS and their like announce nothing: what is there is the video.
* A still picture is a video of one frame.

Only PyAV is needed: what its muxers cannot write is made by changing the bytes of what they can.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

SIZE, OTHER_SIZE = (64, 48), (96, 64)
FPS = 25
MEDIA_TICKS = 512  # of a frame, in the MP4s that FFmpeg writes for this rate
BLOCK_ROWS, BLOCK_COLUMNS = 3, 4
NUM_BITS = BLOCK_ROWS * BLOCK_COLUMNS - 2
HIDDEN = 1 << (NUM_BITS - 1)

Make = Callable[[Path], object]


@dataclass(frozen=True)
class OddVideo:
    """A video, and what must happen when it is read.

    Attributes
    ----------
    name : str
        Its file name.
    path : Path
    num_frames : int or None
        Frames of a correct reading; None: it must fail, alone.
    reason : str
        Part of the failure's message; of a video that does not fail, the whole note.
    """

    name: str
    path: Path
    num_frames: int | None
    reason: str


@dataclass(frozen=True)
class Recipe:
    """How an odd video is made; the rest as in `OddVideo`."""

    make: Make
    num_frames: int | None
    reason: str = ""


def make_odd_videos(folder: Path) -> dict[str, OddVideo]:
    """Make all of them in an empty folder, by name."""
    videos = {}
    for name, recipe in RECIPES.items():
        path = folder / name
        recipe.make(path)
        videos[name] = OddVideo(name, path, recipe.num_frames, recipe.reason)
    return videos


# Pictures that show a number.


def draw_number(number: int, size: tuple[int, int]) -> np.ndarray:
    """Draw, in grey, a white block, a black one, and a block for each bit."""
    width, height = size
    bits = [1, 0, *(number >> place & 1 for place in range(NUM_BITS))]
    blocks = 235 * np.array(bits, np.uint8).reshape(BLOCK_ROWS, BLOCK_COLUMNS)
    rows = np.arange(height) * BLOCK_ROWS // height
    columns = np.arange(width) * BLOCK_COLUMNS // width
    return blocks[rows[:, None], columns]


def read_number(picture: np.ndarray) -> int | None:
    """Read it back from (height, width, 3); None if it is not clearly there."""
    height, width, _ = picture.shape
    rows = [(2 * row + 1) * height // (2 * BLOCK_ROWS) for row in range(BLOCK_ROWS)]
    columns = [(2 * column + 1) * width // (2 * BLOCK_COLUMNS) for column in range(BLOCK_COLUMNS)]
    centres = [picture[y - 2 : y + 3, x - 2 : x + 3] for y in rows for x in columns]
    levels = np.array([centre.mean() for centre in centres])
    white, black, *bits = levels > 128
    if np.abs(levels - 128).min() < 40 or not white or black:
        return None
    return sum(int(bit) << place for place, bit in enumerate(bits))


# Encoding.


def video(
    numbers: int | Sequence[int],
    *,
    container: str | None = None,
    title: str = "",
    times: Callable[[int], int] | None = None,
    muxer: dict[str, str] | None = None,
    **stream_settings,
) -> Make:
    """Make a video whose frames show `numbers` (an int: 0, 1, …).

    `container` is needed where the file name's ending does not say it; `times` gives each
    packet's time in milliseconds; for the rest see `_add_stream`.
    """
    shown = range(numbers) if isinstance(numbers, int) else numbers

    def make(path: Path) -> None:
        with av.open(str(path), "w", format=container, options=muxer or {}) as file:
            if title:
                file.metadata["title"] = title
            stream = _add_stream(file, **stream_settings)
            file.start_encoding()
            for index, packet in enumerate(_encode(stream, shown)):
                if times:
                    packet.time_base = Fraction(1, 1000)
                    packet.pts = packet.dts = times(index)
                file.mux(packet)

    return make


def with_hidden(num_before: int, num_hidden: int, num_after: int) -> list[int]:
    """Numbers of frames of which those in the middle must not come out."""
    hidden = range(HIDDEN, HIDDEN + num_hidden)
    return [*range(num_before), *hidden, *range(num_before, num_before + num_after)]


def parts(*sizes_of: tuple[int, int, tuple[int, int]]) -> Make:
    """Join streams of (start, stop, size), as a recorder does whose camera was changed."""

    def make(path: Path) -> None:
        content = b""
        for start, stop, size in sizes_of:
            video(range(start, stop), size=size)(path)
            content += path.read_bytes()
        path.write_bytes(content)

    return make


def streams(*kinds: str) -> Make:
    """Make several streams: 'video' shows 0 … 59, 'other' hidden numbers, 'audio' is silence."""

    def make(path: Path) -> None:
        with av.open(str(path), "w") as file:
            added = [_add_stream_of(file, kind) for kind in kinds]
            for kind, stream in zip(kinds, added, strict=True):
                first = HIDDEN if kind == "other" else 0
                shown = range(first, first + 60)
                file.mux(_silence(stream) if kind == "audio" else _encode(stream, shown))

    return make


def _add_stream_of(file, kind: str):
    if kind == "audio":
        return file.add_stream("aac", rate=44100, layout="mono")
    return _add_stream(file, size=OTHER_SIZE if kind == "other" else SIZE)


def _add_stream(file, codec="libx264", size=SIZE, pix_fmt="yuv420p", options=None):
    """Add a video stream; without B-frames, unless the encoder's options ask for them."""
    options = {"threads": "1", "bf": "0", **(options or {})}
    if codec == "libx265":
        options["x265-params"] = "log-level=none"
    stream = file.add_stream(codec, rate=Fraction(FPS), options=options)
    stream.width, stream.height = size
    stream.pix_fmt = pix_fmt
    return stream


def _encode(stream, numbers: Iterable[int]) -> list[av.Packet]:
    packets = []
    for index, number in enumerate(numbers):
        picture = draw_number(number, (stream.width, stream.height))
        frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = index, Fraction(1, FPS)
        packets += stream.encode(frame)
    return packets + stream.encode()


def _silence(stream) -> list[av.Packet]:
    packets = []
    for _ in range(60):
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.rate = stream.rate
        packets += stream.encode(frame)
    return packets + stream.encode()


# Changing what was written.


def then(*steps: Make) -> Make:
    """Make a file, then change it."""

    def make(path: Path) -> None:
        for step in steps:
            step(path)

    return make


def cut(fraction: float) -> Make:
    """Keep so much of the file."""
    return lambda path: os.truncate(path, int(path.stat().st_size * fraction))


def cut_before(number: int) -> Make:
    """Cut the file off before the video packet of that number."""
    return lambda path: os.truncate(path, _packets(path)[number][0])


def cut_within(number: int) -> Make:
    """Cut the file off in the middle of the video packet of that number."""

    def change(path: Path) -> None:
        start, size = _packets(path)[number]
        os.truncate(path, start + size // 2)

    return change


def cut_out(stop: int) -> Make:
    """Take the video packets before `stop` out of the file."""

    def change(path: Path) -> None:
        content, packets = path.read_bytes(), _packets(path)
        path.write_bytes(content[: packets[0][0]] + content[packets[stop][0] :])

    return change


def spoil(numbers: Iterable[int], how: Callable[[bytes], bytes]) -> Make:
    """Change the video packets of these numbers."""

    def change(path: Path) -> None:
        content, packets = bytearray(path.read_bytes()), _packets(path)
        for number in numbers:
            start, size = packets[number]
            content[start : start + size] = how(bytes(content[start : start + size]))
        path.write_bytes(content)

    return change


def zeros(packet: bytes) -> bytes:
    return bytes(len(packet))


def flipped_end(packet: bytes) -> bytes:
    """Flip the last bits: the headers stay whole, the picture does not."""
    return packet[:-4] + bytes(byte ^ 0xFF for byte in packet[-4:])


def append(content: bytes) -> Make:
    return lambda path: path.write_bytes(path.read_bytes() + content)


def replace(old: bytes, new: bytes) -> Make:
    def change(path: Path) -> None:
        content = path.read_bytes()
        assert old in content, f"{path}: no {old!r} to replace"
        path.write_bytes(content.replace(old, new))

    return change


def _packets(path: Path) -> list[tuple[int, int]]:
    """Where the packets of the video lie, in the order of the file: (start, size)."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


# Changing an MP4's boxes; its index stands behind the pictures, so these do not move.


def edit_box(where: str, edit: Callable[[bytes], bytes]) -> Make:
    """Change the content of the boxes at a path such as ``moov/trak/tkhd``."""
    kinds = [kind.encode() for kind in where.split("/")]
    return lambda path: path.write_bytes(_edit_box(path.read_bytes(), kinds, edit))


def _edit_box(content: bytes, where: Sequence[bytes], edit: Callable[[bytes], bytes]) -> bytes:
    result, position = b"", 0
    while position < len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        inside = content[position + 8 : position + size]
        if kind == where[0]:
            inside = edit(inside) if len(where) == 1 else _edit_box(inside, where[1:], edit)
        result, position = result + _box(kind, inside), position + size
    return result


def _box(kind: bytes, *contents: bytes) -> bytes:
    inside = b"".join(contents)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


def turn(path: Path) -> None:
    """Write a display matrix that turns the picture by 90°."""
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, SIZE[1] << 16, 0, 1 << 30)
    edit_box("moov/trak/tkhd", lambda header: header.replace(upright, turned))(path)


def edit_list(*edits: tuple[int, int]) -> Make:
    """Write an edit list of (milliseconds, first tick; -1 for a pause)."""
    entries = b"".join(struct.pack(">Iihh", *edit, 1, 0) for edit in edits)
    edit_list_box = _box(b"elst", bytes(4), struct.pack(">I", len(edits)), entries)
    return edit_box("moov/trak/edts", lambda _: edit_list_box)


def announce(table: str, count: int) -> Make:
    """Write another count into a table of the index."""
    where = f"moov/trak/mdia/minf/stbl/{table}"
    return edit_box(where, lambda box: box[:8] + struct.pack(">I", count) + box[12:])


def put_cover_first(path: Path) -> None:
    """Put a cover picture before all streams."""
    cover = path.with_suffix(".jpg")
    jpeg([HIDDEN])(cover)
    data = _box(b"data", struct.pack(">II", 13, 0), cover.read_bytes())
    cover.unlink()
    handler = _box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    meta = _box(b"meta", bytes(4), handler, _box(b"ilst", _box(b"covr", data)))
    size = 108  # of the movie's header, which comes first
    edit_box("moov", lambda moov: moov[:size] + _box(b"udta", meta) + moov[size:])(path)


# Files of other kinds.


def write(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def link(target: str) -> Make:
    return lambda path: path.symlink_to(target)


def nothing(path: Path) -> None:
    """Make no file."""


# The corpus.

NO_VIDEO = "cannot be read as a video"
NO_STREAM = "no video stream in it"
TOO_FEW = "frames announced"

FASTSTART = {"movflags": "faststart"}
FRAGMENTS = {
    "muxer": {"movflags": "frag_keyframe+empty_moov"},
    "options": {"g": "25", "sc_threshold": "0"},
}
WITH_B_FRAMES = {"bf": "3", "b_strategy": "0"}
INTERLACED = {"flags": "+ilme+ildct"}
# I P B B P B B … in the order of the file; every third frame shown, each keyframe, is no B-frame.
I_P_B_B = {"bf": "2", "b_strategy": "0", "g": "24", "sc_threshold": "0"} | {
    "x264-params": "b-pyramid=none:open-gop=0"
}
B_FRAMES = [number for number in range(72) if number % 24 > 1 and number % 24 % 3 != 1]
NOISE = random.Random(0).randbytes(100_000)
TITLE, GBK_TITLE = b"0123456789", "监控录像头".encode("gbk")
SUBTITLES = b"1\n00:00:01,000 --> 00:00:02,000\nA man walks in.\n\n"
PLAYLIST = b"#EXTM3U\n#EXTINF:10,\nhttp://192.0.2.1/video.ts\n#EXT-X-ENDLIST\n"

jpeg = partial(video, codec="mjpeg", pix_fmt="yuvj420p", container="mjpeg")
mjpeg = partial(video, codec="mjpeg", pix_fmt="yuvj420p")
ffv1 = partial(video, 30, codec="ffv1")
gif = partial(video, 30, codec="gif", pix_fmt="gray", container="gif")
titled = partial(video, 30, title=TITLE.decode())

LENGTHS = {
    "1-frame.mp4": Recipe(video(1), 1),
    "1-frame.mkv": Recipe(video(1), 1),
    "1-frame.ts": Recipe(video(1), 1),
    "1-frame.h264": Recipe(video(1), 1),
    "7-frames.mp4": Recipe(video(7), 7),
    "23-frames.mp4": Recipe(video(23), 23),
    "24-frames.mp4": Recipe(video(24), 24),
    "25-frames.mp4": Recipe(video(25), 25),
}

NAMES = {
    name: Recipe(video(30, container="mp4"), 30)
    for name in (
        "  spaces and\ttabs .mp4 ",
        "hash#question?percent%20%d%03d%s.mp4",
        "comma,semicolon;equals=.mp4",
        "two\nlines\rand more.mp4",
        "'single' \"double\" `back`.mp4",
        "監控录像🎥.mp4",
        "-option.mp4",
        "star*[1]{2}$HOME\\n.mp4",
        "concat:24-frames.mp4",
        "no ending",
    )
}

CONTAINERS = {
    "matroska.mkv": Recipe(video(60), 60),
    "vp9.webm": Recipe(video(60, codec="libvpx-vp9"), 60),
    "transport-stream.ts": Recipe(video(60), 60),
    "program-stream.mpg": Recipe(video(60, codec="mpeg2video"), 60),
    "mpeg4.avi": Recipe(video(60, codec="mpeg4"), 60),
    "flash.flv": Recipe(video(60), 60),
    "windows.wmv": Recipe(video(60, codec="wmv2"), 60),
    "quicktime.mov": Recipe(video(60), 60),
    "elementary.h264": Recipe(video(60), 60),
    "elementary.hevc": Recipe(video(60, codec="libx265"), 60),
    "animation.gif": Recipe(gif(), 30),
    "animation.apng": Recipe(video(30, codec="apng", pix_fmt="rgb24"), 30),
    "fragmented.mp4": Recipe(video(120, **FRAGMENTS), 120),
    # The header's index ends with the first fragment.
    "fragmented-later.mp4": Recipe(
        video(120, muxer={"movflags": "frag_keyframe"}, options={"g": "25"}), 120
    ),
    "really-mp4.avi": Recipe(video(60, container="mp4"), 60),
    "really-gif.mp4": Recipe(gif(), 30),
    "really-jpeg.mp4": Recipe(jpeg(1), 1),
}

PICTURES = {
    "odd-size.mkv": Recipe(ffv1(size=(97, 61)), 30),
    "odd-size.mp4": Recipe(video(30, pix_fmt="yuv444p", size=(97, 61)), 30),
    "8k.mp4": Recipe(video(1, size=(7680, 4320), options={"preset": "ultrafast"}), 1),
    "turned.mp4": Recipe(then(video(30), turn), 30),
    "10-bit-h264.mp4": Recipe(video(30, pix_fmt="yuv420p10le"), 30),
    "10-bit-hevc.mp4": Recipe(video(30, codec="libx265", pix_fmt="yuv420p10le"), 30),
    "10-bit-ffv1.mkv": Recipe(ffv1(pix_fmt="yuv420p10le"), 30),
    "grey.mp4": Recipe(video(30, pix_fmt="gray"), 30),
    "grey-16-bit.mkv": Recipe(ffv1(pix_fmt="gray16le"), 30),
    "with-alpha.mkv": Recipe(ffv1(pix_fmt="bgra"), 30),
    "interlaced.mp4": Recipe(video(30, options=INTERLACED), 30),
    "interlaced.mpg": Recipe(video(30, codec="mpeg2video", options=INTERLACED), 30),
    "b-frames.mp4": Recipe(video(60, options=WITH_B_FRAMES), 60),
    "b-frames.ts": Recipe(video(60, options=WITH_B_FRAMES), 60),
    "b-frames.avi": Recipe(video(60, options=WITH_B_FRAMES), 60),
    "one-intra-frame.mp4": Recipe(video(300, options={"g": "1000", "sc_threshold": "0"}), 300),
    "size-changes-at-24.ts": Recipe(parts((0, 24, SIZE), (24, 60, OTHER_SIZE)), 60),
    "size-changes-at-30.ts": Recipe(parts((0, 30, SIZE), (30, 60, OTHER_SIZE)), 60),
    "size-changes-at-30.h264": Recipe(parts((0, 30, OTHER_SIZE), (30, 60, SIZE)), 60),
}

TIMES = {
    "variable-rate.mp4": Recipe(video(60, times=lambda index: 10 * index**2), 60),
    "variable-rate.mkv": Recipe(video(60, times=lambda index: 10 * index**2), 60),
    "same-time-for-three.mkv": Recipe(video(60, times=lambda index: 120 * (index // 3)), 60),
    "same-time-for-all.mkv": Recipe(video(60, times=lambda index: 0), 60),
    "starts-below-0.mkv": Recipe(
        video(60, times=lambda at: 40 * at - 1000, muxer={"avoid_negative_ts": "disabled"}), 60
    ),
    "clock-starts-again.ts": Recipe(video(60, times=lambda index: 40 * index + 95_443_000), 60),
    "pause-first.mp4": Recipe(then(video(60), edit_list((500, -1), (2400, 0))), 60),
    "hidden-start.mp4": Recipe(
        then(video(with_hidden(0, 40, 60)), edit_list((2400, 40 * MEDIA_TICKS))), 60
    ),
    # B-frames: the first frame is shown two frames late.
    "hidden-start-b-frames.mp4": Recipe(
        then(
            video(with_hidden(0, 40, 60), options=WITH_B_FRAMES),
            edit_list((2400, 42 * MEDIA_TICKS)),
        ),
        60,
    ),
    "hidden-end.mp4": Recipe(then(video(with_hidden(60, 40, 0)), edit_list((2400, 0))), 60),
}

STREAMS = {
    "sound-first.mp4": Recipe(streams("audio", "video"), 60),
    "two-videos.mp4": Recipe(streams("video", "other"), 60),
    "two-videos.ts": Recipe(streams("audio", "video", "other"), 60),
    "cover-first.mp4": Recipe(then(video(60), put_cover_first), 60),
    "sound-only.mp4": Recipe(streams("audio"), None, NO_STREAM),
    "sound-with-cover.m4a": Recipe(then(streams("audio"), put_cover_first), None, NO_STREAM),
    "no-frames.mp4": Recipe(video(0), None, NO_STREAM),
    "unknown-codec.mp4": Recipe(then(video(60), replace(b"avc1", b"xyz1")), None, "no decoder"),
    "wrong-codec.mp4": Recipe(then(video(60), replace(b"avc1", b"mp4v")), None, TOO_FEW),
    "gbk-title.mp4": Recipe(then(titled(), replace(TITLE, GBK_TITLE)), 30),
    "gbk-title.mkv": Recipe(then(titled(), replace(TITLE, GBK_TITLE)), 30),
    "gbk-title.avi": Recipe(then(titled(codec="mpeg4"), replace(TITLE, GBK_TITLE)), 30),
}

TRUNCATED = {
    f"cut-at-{percent}-percent.mp4": Recipe(then(video(120), cut(percent / 100)), None, NO_VIDEO)
    for percent in (1, 10, 30, 50, 70, 90)
} | {
    "cut-in-the-index.mp4": Recipe(then(video(120, muxer=FASTSTART), cut(0.1)), None, NO_VIDEO),
    "cut-in-frame-0.mp4": Recipe(then(video(120, muxer=FASTSTART), cut_within(0)), None, TOO_FEW),
    "announces-30-more.mp4": Recipe(
        then(video(120, muxer=FASTSTART), cut_within(90)),
        None,
        "decoded 90 of the 120 frames announced",
    ),
    "announces-10-more.mp4": Recipe(
        then(video(120, muxer=FASTSTART), cut_before(110)),
        110,
        "decoded 110 of the 120 frames announced",
    ),
    "cut-in-a-fragment.mp4": Recipe(
        then(video(120, **FRAGMENTS), cut_before(65)),
        65,
        "decoded 65 of the 75 frames announced",
    ),
    "cut-in-frame-70.mkv": Recipe(then(video(120), cut_within(70)), 70),
    "cut-in-frame-70.flv": Recipe(then(video(120), cut_within(70)), 70),
    "cut-before-frame-70.ts": Recipe(then(video(120), cut_before(70)), 70),
    "cut-before-frame-70.avi": Recipe(then(video(120, codec="mpeg4"), cut_before(70)), 70),
    "cut-in-the-header.mkv": Recipe(then(video(120), cut(0.01)), None, NO_VIDEO),
    # Nothing can be decoded before the first intra frame, the 24th.
    "starts-between-intra-frames.ts": Recipe(
        then(video(with_hidden(0, 24, 60), options={"g": "24"}), cut_out(14)),
        60,
        "decoded 60 of the 70 frames announced",
    ),
}

DAMAGED = {
    "10-packets-of-zeros.mp4": Recipe(
        then(mjpeg(with_hidden(30, 10, 32)), spoil(range(30, 40), zeros)),
        62,
        "10 packet(s) could not be decoded; decoded 62 of the 72 frames announced",
    ),
    # The frames 30 … 39 are a group of their own: those behind it do not need them.
    "a-group-of-zeros.mp4": Recipe(
        then(
            video(with_hidden(30, 10, 80), options={"g": "10"}),
            spoil(range(30, 40), zeros),
        ),
        110,
        "10 packet(s) could not be decoded; decoded 110 of the 120 frames announced",
    ),
    "30-packets-of-zeros.mp4": Recipe(
        then(mjpeg(72), spoil(range(30, 60), zeros)),
        None,
        "decoded 42 of the 72 frames announced; 30 packet(s) could not be decoded",
    ),
    "two-thirds-to-come.mp4": Recipe(then(video(120), spoil(range(40, 120), zeros)), None, TOO_FEW),
    "flipped-bits.mp4": Recipe(then(video(72, options=I_P_B_B), spoil(B_FRAMES, flipped_end)), 72),
    "announces-millions.mp4": Recipe(then(video(60), announce("stts", 1 << 28)), 60),
    "sizes-of-millions.mp4": Recipe(then(video(60), announce("stsz", 1 << 28)), None, NO_VIDEO),
    "noise-at-the-end.mp4": Recipe(then(video(60), append(NOISE)), 60),
}

OTHER_FILES = {
    "empty.mp4": Recipe(write(b""), None, "the file is empty"),
    "text.mp4": Recipe(write(b"not a video\n" * 50), None, NO_VIDEO),
    "web-page.mp4": Recipe(write(b"<!DOCTYPE html><title>404</title>"), None, NO_VIDEO),
    "playlist.mp4": Recipe(write(PLAYLIST), None, NO_VIDEO),
    "subtitles.mp4": Recipe(write(SUBTITLES), None, NO_STREAM),
    "noise.mp4": Recipe(write(NOISE), None, NO_VIDEO),
    "zeros.mp4": Recipe(write(bytes(100_000)), None, NO_VIDEO),
    "folder.mp4": Recipe(Path.mkdir, None, "not a regular file"),
    "pipe.mp4": Recipe(os.mkfifo, None, "not a regular file"),
    "device.mp4": Recipe(link("/dev/zero"), None, "not a regular file"),
    "missing.mp4": Recipe(nothing, None, "no such file"),
    "link.mp4": Recipe(link("25-frames.mp4"), 25),
    "link-to-nothing.mp4": Recipe(link("missing.mp4"), None, "no such file"),
    "link-to-itself.mp4": Recipe(link("link-to-itself.mp4"), None, "no such file"),
    "long-name-" * 26 + ".mp4": Recipe(nothing, None, "File name too long"),
    "unreadable.mp4": Recipe(
        then(video(30), partial(Path.chmod, mode=0)), None, "Permission denied"
    ),
}

RECIPES: dict[str, Recipe] = (
    LENGTHS | NAMES | CONTAINERS | PICTURES | TIMES | STREAMS | TRUNCATED | DAMAGED | OTHER_FILES
)
