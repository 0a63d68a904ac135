"""Fixtures that several folders share: real videos, generated videos, a filled store."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from hiprobe.store import DONE, PlannedVideo, StoreWriter, VideoRecord
from hiprobe.store.journal import encode, read_journal

# How long an example takes says nothing on a busy machine.
settings.register_profile("hiprobe", deadline=None)
settings.load_profile("hiprobe")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real videos and annotations, kept outside the repository."""
    path = Path(os.environ.get("HIPROBE_SHARED_DATA", REPOSITORY.parent / "shared/data"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}: set HIPROBE_SHARED_DATA")
    return path


@pytest.fixture
def make_video(tmp_path):
    """Make a small real MP4 of moving noise."""

    def make(name="video.mp4", num_frames=60, size=(96, 64), fps=25, seed=0) -> Path:
        import av

        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        width, height = size
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for index in range(num_frames):
                frame = av.VideoFrame.from_ndarray(np.roll(picture, 2 * index, axis=1))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make


@pytest.fixture
def make_store(tmp_path):
    """Make stores in the test's folder, as `write_store` does."""

    def make(name="features.zarr", **options) -> Path:
        return write_store(tmp_path / name, **options)

    return make


def write_store(
    path,
    num_videos=24,
    num_layers=5,
    num_features=16,
    best_layer=3,
    labels=("normal", "anomalous"),
    seed=0,
    provenance=None,
    answers=None,
    taps=(),
    mark=lambda tap, states, segments: None,
) -> Path:
    """Make a store whose anomalous videos differ in layer `best_layer`.

    With ``provenance={}`` it has what storage_schema.md says MUST be there, and no more. ``taps``
    are random; ``mark(tap, states, segments)`` changes an anomalous video's segments in place.
    """
    rng = np.random.default_rng(seed)
    if provenance is None:
        provenance = {
            "model": {"id": "made-up", "class": "None", "weights_digest": "sha256:0"},
            "manifest": {"path": path.name, "digest": path.name},
        }
    writer = StoreWriter.create(
        path,
        layers=range(num_layers),
        num_features=num_features,
        provenance=provenance,
        row_block=8,
        taps=taps,
        answers=answers,
    )
    with writer:
        plans = [_plan(index, labels) for index in range(num_videos)]
        writer.add_videos(plans)
        for video, plan in enumerate(plans):
            states = rng.normal(size=(num_layers, len(plan.segments), num_features))
            states[0] = 1.0
            for start, stop in plan.record.annotations:
                states[best_layer, start // 24 : -(-stop // 24), :4] += 2.5
            of_taps = {tap.name: _tap_states(rng, tap, plan, mark) for tap in taps}
            for block in range(0, len(plan.segments), 8):
                rows = slice(block, block + 8)
                own = {name: one[:, rows] for name, one in of_taps.items()}
                writer.write_block(video, block // 8, states[:, rows], taps=own)
            writer.finish_video(video, status=DONE, num_frames=plan.num_frames, fps=plan.fps)
    return path


def _tap_states(rng, tap, plan, mark):
    """A tap's states of one video: (layer, segment, feature) float32."""
    shape = (len(tap.layers), len(plan.segments), tap.num_features)
    states = rng.normal(size=shape).astype(np.float32)
    for start, stop in plan.record.annotations:
        mark(tap, states, slice(start // 24, -(-stop // 24)))
    return states


def forget_digests(path):
    """Turn a store into one of a program that keeps no digests: anybody may edit it then."""
    lines = [
        encode({name: value for name, value in entry.items() if name not in ("crc", "thumbnail")})
        for entry in read_journal(path / "journal")
        if entry["event"] in ("block", "video")
    ]
    for journal in (path / "journal").glob("*.jsonl"):
        journal.unlink()
    (path / "journal/1795468378995746872-box-21184.jsonl").write_bytes(b"".join(lines))


def _plan(index: int, labels: tuple[str, ...]) -> PlannedVideo:
    num_frames = 200 + 13 * index
    label = labels[index % len(labels)]
    record = VideoRecord(
        video_id=f"video-{index:02d}",
        path=f"/nowhere/{index}.mp4",
        split="train" if index % 4 < 2 else "test",
        label=label,
        category="" if label == "normal" else ("Fire", "Fall")[index // 2 % 2],
        annotations=((48, 130),) if label == "anomalous" else (),
    )
    ranges = [(start, min(start + 24, num_frames)) for start in range(0, num_frames, 24)]
    return PlannedVideo(record, num_frames, 25.0, ranges)
