"""What `stress_damage` attacks: a small store with all that one can have, and what is made of it.

Deterministic by its seed. The videos are of different lengths; one has fewer frames than its
container promised, one failed, one failed and was planned again, one was killed in its middle and
resumed, one is still pending. Three runs wrote it, so there are several journals; the last run was
killed, so what it did stands in its journal alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe import ProbeConfig, run_probe
from hiprobe.store import DONE, FAILED, PlannedVideo, StoreWriter, VideoRecord
from hiprobe.store.hdf5 import export_hdf5

STORE, PROBE, RESULTS, HDF5 = "features.zarr", "probe.json", "results", "features.h5"
# The store as the first run left it, below the world's folder: for files that a bad copy mixes.
EARLIER = "earlier.zarr"
LAYERS, FEATURES, ROW_BLOCK = 3, 8, 4
THUMBNAIL_SIZE = (6, 8)
# Segments of the first run's videos, by id; `train` or `test` and the label follow from the order.
FIRST_RUN = {"long": 11, "exact": 4, "two": 2, "cut": 7, "bad": 3, "again": 2, "half": 6, "one": 1}
SECOND_RUN = {"new": 5, "again": 2, "late": 5, "pending": 6}
DECODED_FRAMES = {"cut": 5 * 24 - 7}


def make_world(folder: Path, seed: int) -> None:
    """Make store, probe, results and export in a new `folder`."""
    store = folder / STORE
    _first_run(store, seed)
    shutil.copytree(store, folder / EARLIER)
    _second_run(store, seed)
    _third_run(store, seed)
    run_probe(ProbeConfig(store)).save(folder / PROBE)
    run_evaluate(EvaluateConfig(store, folder / PROBE, folder / RESULTS, num_resamples=50))
    # No reader of ours reads it back.
    (folder / RESULTS / "report.html").unlink()
    export_hdf5(store, folder / HDF5)


def _first_run(store: Path, seed: int) -> None:
    writer = StoreWriter.create(
        store,
        layers=range(LAYERS),
        num_features=FEATURES,
        provenance={
            "model": {"id": "made-up", "class": "None", "weights_digest": f"sha256:{seed}"},
            "manifest": {"path": "manifest.csv", "digest": "sha256:0"},
            "prompt": "Is there anything unusual?",
        },
        row_block=ROW_BLOCK,
        thumbnail_size=THUMBNAIL_SIZE,
    )
    with writer:
        writer.add_videos([_plan(name, count, seed) for name, count in FIRST_RUN.items()])
        for video, (name, count) in enumerate(FIRST_RUN.items()):
            if name == "half":
                _write_blocks(writer, video, name, count, seed, blocks=[0])
            elif name in ("bad", "again"):
                _fail(writer, video)
            else:
                _write_video(writer, video, name, count, seed)
        writer.record("parity", {"segments": [["long", 3]]})


def _second_run(store: Path, seed: int) -> None:
    with StoreWriter(store) as writer:
        first = len(FIRST_RUN)
        writer.replace_failed(list(FIRST_RUN).index("again"))
        writer.add_videos([_plan(name, count, seed) for name, count in SECOND_RUN.items()])
        half = list(FIRST_RUN).index("half")
        _write_blocks(writer, half, "half", FIRST_RUN["half"], seed, blocks=[1])
        writer.finish_video(half, status=DONE, num_frames=FIRST_RUN["half"] * 24, fps=25.0)
        for video, (name, count) in enumerate(SECOND_RUN.items(), start=first):
            if name in ("new", "again"):
                _write_video(writer, video, name, count, seed)


def _third_run(store: Path, seed: int) -> None:
    """Finish one more video, begin another, and end without sealing: as after a kill."""
    writer = StoreWriter(store)
    positions = writer.index.positions()
    _write_video(writer, positions["late"], "late", SECOND_RUN["late"], seed)
    _write_blocks(writer, positions["pending"], "pending", SECOND_RUN["pending"], seed, blocks=[0])
    writer.close()


def _plan(name: str, count: int, seed: int) -> PlannedVideo:
    # Another seed gives other labels, so that a sister's tables differ from the store's.
    number = [*FIRST_RUN, *SECOND_RUN].index(name) + seed
    is_anomalous = number % 2 == 1
    record = VideoRecord(
        video_id=name,
        path=f"/videos/{seed}/{name}.mp4",
        split="train" if name in ("long", "exact", "two", "cut") else "test",
        label="anomalous" if is_anomalous else "normal",
        category="Fire" if is_anomalous else "",
        annotations=((seed % 4, 16 + seed % 5),) if is_anomalous else (),
    )
    ranges = [(start * 24, start * 24 + 24) for start in range(count)]
    return PlannedVideo(record, count * 24, 25.0, ranges)


def _write_video(writer: StoreWriter, video: int, name: str, count: int, seed: int) -> None:
    frames = DECODED_FRAMES.get(name, count * 24)
    count = -(-frames // 24)
    _write_blocks(writer, video, name, count, seed, blocks=range(-(-count // ROW_BLOCK)))
    writer.finish_video(video, status=DONE, num_frames=frames, fps=25.0)


def _write_blocks(
    writer: StoreWriter, video: int, name: str, count: int, seed: int, blocks: Iterable[int]
) -> None:
    rng = np.random.default_rng([seed, *name.encode()])
    states = rng.normal(size=(LAYERS, count, FEATURES)).astype(np.float32)
    pictures = rng.integers(0, 256, (count, *THUMBNAIL_SIZE, 3), dtype=np.uint8)
    for block in blocks:
        own = slice(block * ROW_BLOCK, block * ROW_BLOCK + ROW_BLOCK)
        writer.write_block(video, block, states[:, own], pictures[own])


def _fail(writer: StoreWriter, video: int) -> None:
    writer.finish_video(
        video, status=FAILED, num_frames=0, fps=float("nan"), error="moov atom not found"
    )
