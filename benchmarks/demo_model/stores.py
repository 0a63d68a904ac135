"""Feature stores to compare: of the trained model, of random weights, and of pixel statistics."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from hiprobe.demo.clips import plan_clips, write_clips
from hiprobe.demo.model import TRAINED_MODEL, build_random_model
from hiprobe.demo.questions import INCIDENTS, question
from hiprobe.extract.backbone import BackboneConfig
from hiprobe.extract.pipeline import ExtractConfig, extract
from hiprobe.extract.segments import NUM_KEYFRAMES, SEGMENT_FRAMES, segment_ranges
from hiprobe.extract.video import SegmentReader, inspect_video
from hiprobe.manifest.benchmarks import ucf_crime
from hiprobe.manifest.folder import folder_manifest
from hiprobe.store import (
    DONE,
    FeatureStore,
    PlannedVideo,
    StoreWriter,
    VideoRecord,
    read_manifest,
    write_manifest,
)
from hiprobe.store.taps import TAPS

FEATURES = ("trained", "random", "pixels")
# Neither the demo's default clips (seed 0) nor any that the model was trained on.
CLIPS_SEED = 1
PIXELS_SIZE = (84, 56)


def make_manifests(folder: Path, shared_data: Path, num_clips: int) -> dict[str, Path]:
    """Make the manifests of all footage that is there: generated clips, fights, UCF-Crime."""
    folder.mkdir(parents=True, exist_ok=True)
    manifests = {"generated": folder / "generated.csv"}
    clips = folder / f"clips-{num_clips}"
    if not (clips / "annotations.csv").exists():
        write_clips(plan_clips(num_clips, CLIPS_SEED), clips)
    draft = folder_manifest(clips, inspect=inspect_video, annotations=clips / "annotations.csv")
    write_manifest(manifests["generated"], draft.records)
    videos, annotations = shared_data / "videos", shared_data / "annotations"
    if videos.is_dir():
        manifests["fights"] = folder / "fights.csv"
        draft = folder_manifest(videos / "fights", inspect=inspect_video, whole_video=True)
        write_manifest(manifests["fights"], draft.records)
        manifests["ucf_crime"] = folder / "ucf_crime.csv"
        draft = ucf_crime(annotations / "ucf_crime_temporal.txt", root=videos / "ucf_crime_test")
        write_manifest(manifests["ucf_crime"], draft.records)
    return manifests


def make_stores(folder: Path, manifest: Path, name: str) -> dict[str, FeatureStore]:
    """Make, or open, the three stores of some footage; the trained model's has all taps."""
    random = folder / "random-model"
    if not random.exists():
        build_random_model(random)
    stores = {}
    prompts = (("incident", question(INCIDENTS)),)
    for features, config in (
        ("trained", BackboneConfig(str(TRAINED_MODEL), further_prompts=prompts, taps=TAPS[1:])),
        ("random", BackboneConfig(str(random))),
    ):
        path = folder / f"{name}-{features}.zarr"
        extract(ExtractConfig(manifest, path, config, batch_size=16))
        stores[features] = FeatureStore.open(path)
    path = folder / f"{name}-pixels.zarr"
    if not path.exists():
        extract_pixel_statistics(manifest, path)
    stores["pixels"] = FeatureStore.open(path)
    return stores


def extract_pixel_statistics(manifest: Path, path: Path) -> None:
    """Write a store whose one layer holds `pixel_statistics` instead of a model's states."""
    plans = [_plan(record) for record in read_manifest(manifest)]
    writer = StoreWriter.create(
        path,
        layers=[1],
        num_features=len(pixel_statistics(np.zeros((2, *PIXELS_SIZE[::-1], 3), np.uint8))),
        provenance={
            "model": {"id": "pixel statistics", "class": "None", "weights_digest": "none"},
            "libraries": {"hiprobe": version("hiprobe")},
        },
    )
    with writer:
        writer.add_videos(plans)
        for video, plan in enumerate(plans):
            reader = SegmentReader(plan.record.path, list(plan.segments), NUM_KEYFRAMES)
            rows = np.stack([pixel_statistics(segment.keyframes) for segment in reader])
            for block, start in enumerate(range(0, len(rows), writer.row_block)):
                states = rows[None, start : start + writer.row_block].astype(np.float32)
                writer.write_block(video, block, states)
            writer.finish_video(video, status=DONE, num_frames=plan.num_frames, fps=plan.fps)


def pixel_statistics(keyframes: np.ndarray) -> np.ndarray:
    """Describe a segment by what its pixels and their changes are, without any model.

    Parameters
    ----------
    keyframes : (K, height, width, 3) uint8

    Returns
    -------
    (38,) float64
        Mean and deviation of the brightness; means of the channels; mean and 99th percentile of
        saturation and of redness; of the changes between keyframes: mean over all, their
        deviation and maximum over time, the 50th, 90th and 99th percentile, the shares above 10,
        20 and 40, and the mean in each of 3 x 3 fields; deviation over time of the brightness of
        each field and of the whole.
    """
    pictures = np.stack([np.asarray(Image.fromarray(f).resize(PIXELS_SIZE)) for f in keyframes])
    colour = pictures.astype(np.float64)
    grey = colour.mean(axis=3)
    change = np.abs(np.diff(grey, axis=0))
    per_time = change.mean(axis=(1, 2))
    saturation = colour.max(axis=3) - colour.min(axis=3)
    redness = colour[..., 0] - colour[..., 1:].mean(axis=3)
    values = [grey.mean(), grey.std(), *colour.mean(axis=(0, 1, 2))]
    for map_ in (saturation, redness):
        values += [map_.mean(), np.percentile(map_, 99)]
    values += [per_time.mean(), per_time.std(), per_time.max()]
    values += [
        *np.percentile(change, (50, 90, 99)),
        *((change > bar).mean() for bar in (10, 20, 40)),
    ]
    values += _field_means(change.mean(axis=0))
    values += [*np.std([_field_means(picture) for picture in grey], axis=0)]
    return np.array([*values, grey.mean(axis=(1, 2)).std(), change.mean(axis=0).max()])


def _field_means(picture: np.ndarray) -> list[float]:
    return [
        float(field.mean())
        for band in np.array_split(picture, 3, axis=0)
        for field in np.array_split(band, 3, axis=1)
    ]


def _plan(record: VideoRecord) -> PlannedVideo:
    info = inspect_video(record.path)
    ranges: Sequence[tuple[int, int]] = segment_ranges(info.num_frames, SEGMENT_FRAMES)
    return PlannedVideo(record, info.num_frames, info.fps, ranges)
