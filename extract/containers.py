"""Opening video files: containers of one file only, whatever they are called.

FFmpeg looks into a file to tell what it is. Left alone, it follows playlists to other files and
to the network, whatever the file's name ends with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.error
from av.stream import Disposition

from hiprobe.store import VideoError

# FFmpeg's names. Left out is all that opens what else a file names (concat, hls, dash, imf, sdp,
# image2, vobsub, mlv), that opens devices or that computes (lavfi, vapoursynth).
DEMUXERS = (
    # video of our days
    *("mov", "mp4", "matroska", "webm", "mpegts", "mpegtsraw", "mpeg", "avi", "flv", "live_flv"),
    *("asf", "asf_o", "ogg", "mxf", "gxf", "wtv", "dv", "rm", "ivr", "nut", "nsv", "nuv", "swf"),
    *("3gp", "3g2", "mj2", "f4v", "ty", "pva", "pmp", "kux", "ivf", "yuv4mpegpipe", "r3d", "cine"),
    # recorders and cameras
    *("dhav", "ifv", "mgsts", "lmlm4", "lvf", "lxf", "luodat", "mxg", "nc", "frm", "vivo", "iv8"),
    *("vividas", "mods", "moflex", "mtv", "mv", "sdr2", "ser", "smjpeg", "mpjpeg", "psxstr", "xmv"),
    # streams without a container
    *("h264", "hevc", "vvc", "av1", "obu", "m4v", "mpegvideo", "h261", "h263", "mjpeg"),
    *("mjpeg_2000", "vc1", "vc1test", "dirac", "dnxhd", "cavsvideo", "avs2", "avs3", "evc", "ipu"),
    # moving and still pictures
    *("gif", "gif_pipe", "apng", "apv", "webp_pipe", "webp_anim", "jpeg_pipe", "jpegls_pipe"),
    *("jpegxl_anim", "jpegxl_pipe", "j2k_pipe", "png_pipe", "bmp_pipe", "tiff_pipe", "ppm_pipe"),
    *("pgm_pipe", "pbm_pipe", "pam_pipe", "dds_pipe", "dpx_pipe", "exr_pipe", "hdr_pipe"),
    *("psd_pipe", "qoi_pipe", "sgi_pipe", "flic", "ico"),
    # old ones
    *("4xm", "anm", "argo_brp", "avs", "bethsoftvid", "bfi", "bink", "bmv", "c93", "cdxl"),
    *("dsicin", "dxa", "ea", "film_cpk", "filmstrip", "gdv", "hnm", "idcin", "iff", "ipmovie"),
    *("jv", "mm", "mvi", "paf", "pdv", "rl2", "roq", "rpl", "sga", "siff", "smk", "smush", "thp"),
    *("tiertexseq", "tmv", "vmd", "wc3movie", "wsvqa", "yop"),
    # no video, and better called so by their streams
    *("mp3", "wav", "flac", "aac", "ac3", "eac3", "aiff", "amr", "caf", "w64", "ape", "wv", "dts"),
    *("srt", "ass", "webvtt", "microdvd", "subviewer", "sami"),
)
OPTIONS = {
    "format_whitelist": ",".join(DEMUXERS),
    "protocol_whitelist": "file",
    # An MP4 may name other files for its tracks' data. FFmpeg's defaults today; they must stay so.
    "enable_drefs": "0",
    "use_absolute_path": "0",
}


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """Open a container with its video stream; whatever goes wrong is a `VideoError`.

    Yields
    ------
    (av.container.InputContainer, av.video.stream.VideoStream)
        The stream is the first one that is no cover picture.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise VideoError(f"{path}: no such file.")
        if not path.is_file():
            raise VideoError(f"{path}: not a regular file.")
        if not path.stat().st_size:
            raise VideoError(f"{path}: the file is empty.")
        # Absolute, or FFmpeg takes `a:b.mp4` for a protocol. Titles may be in any encoding.
        with av.open(str(path.absolute()), options=OPTIONS, metadata_errors="replace") as container:
            yield container, _video_stream(path, container)
    except MemoryError as error:  # of FFmpeg's too, which is an OSError as well
        raise VideoError(
            f"{path}: there is not enough memory to decode it. Free some, take fewer --readers, or "
            "re-encode it with smaller frames."
        ) from error
    except av.error.ArgumentError as error:
        raise VideoError(
            f"{path}: cannot be read as a video: FFmpeg knows it as nothing that is read here. "
            "Playlists and image sequences are not read: give the video file itself."
        ) from error
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(
            f"{path}: cannot be read as a video: {error.strerror or error}. "
            "Check that it plays, or leave it out of the manifest."
        ) from error


def _video_stream(path: Path, container: Any) -> Any:
    """Find the first video stream that is not a cover picture."""
    kinds = set()
    for stream in container.streams:
        if stream.disposition & Disposition.attached_pic:
            kinds.add("picture")
        elif stream.type != "video":
            kinds.add(stream.type)
        elif stream.codec_context is None:
            raise VideoError(f"{path}: no decoder for its video stream. Re-encode it.")
        else:
            return stream
    found = f"{', '.join(sorted(kinds))} streams only" if kinds else "no streams at all"
    raise VideoError(f"{path}: no video stream in it; it has {found}.")
