"""The settings of the study: which footage a probe is trained on, and which it is tested on."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.demo_model.stores import make_manifests, make_stores
from hiprobe.demo.clips import plan_clips, write_clips
from hiprobe.demo.inputs import DemoInputs
from hiprobe.demo.training_data import HELD_OUT_EVENTS, TRAINED_EVENTS
from hiprobe.extract.video import inspect_video
from hiprobe.manifest.folder import folder_manifest
from hiprobe.probe.samples import choose_videos
from hiprobe.store import FeatureStore, VideoRecord, write_manifest

MODELS = ("trained", "random")
NUM_STUDY_CLIPS = 240

Stores = dict[str, dict[str, FeatureStore]]


@dataclass(frozen=True)
class Setting:
    """One question: so many videos of some footage train, others test.

    Attributes
    ----------
    name, title : str
    train : str
        The footage to draw from.
    num_videos : int
        Few-shot videos a draw.
    test : str or None
        The footage to test on; None: the same.
    has_split : bool
        Whether training videos are drawn from its training split and its test split is tested
        on. Otherwise they are drawn from all videos, and the others are tested on.
    categories : tuple of str
        Kinds of anomalies to train on; empty: all.
    test_categories : tuple of str
        Kinds to test on; empty: all.
    """

    name: str
    title: str
    train: str
    num_videos: int
    test: str | None = None
    has_split: bool = False
    categories: tuple[str, ...] = ()
    test_categories: tuple[str, ...] = ()

    def draw(self, train: FeatureStore, test: FeatureStore, seed: int) -> tuple[list, list]:
        """Draw the training videos of one seed, and name those to test on."""
        pool = train.videos
        if self.has_split:
            pool = pool[pool["split"] == "train"]
        if self.categories:
            pool = pool[pool["category"].isin(["", *self.categories])]
        drawn = choose_videos(pool["label"], 1.0, seed, self.num_videos)
        tested = test.videos
        if self.has_split and self.test is None:
            tested = tested[tested["split"] == "test"]
        if self.test_categories:
            tested = tested[tested["category"].isin(["", *self.test_categories])]
        # Ids of other footage say nothing of these videos.
        own = set(drawn) if self.test is None else set()
        return drawn, [one for one in tested.index if one not in own]


SETTINGS = (
    Setting("clips16", "Generated clips, 16 videos", "generated", 16, has_split=True),
    Setting("clips24", "Generated clips, 24 videos", "generated", 24, has_split=True),
    Setting("clips80", "Generated clips, 80 videos", "generated", 80, has_split=True),
    Setting(
        "unseen24",
        "Generated clips, kinds of anomalies never trained on, 24 videos",
        "generated",
        24,
        has_split=True,
        categories=TRAINED_EVENTS,
        test_categories=HELD_OUT_EVENTS,
    ),
    Setting("demo16", "The demo's clips, 16 videos", "demo", 16, has_split=True),
    Setting("fights24", "Real fights, 24 videos", "fights", 24),
    Setting("fights32", "Real fights, 32 videos", "fights", 32),
    Setting("ped2", "UCSD Ped2, 22 videos", "ped2", 22),
    Setting(
        "ucf_from_fights",
        "Six UCF-Crime videos, probe trained on 24 real fights",
        "fights",
        24,
        test="ucf_crime",
    ),
)


def settings_of(stores: Stores) -> Iterator[Setting]:
    """Those whose footage is there."""
    for setting in SETTINGS:
        if {setting.train, setting.test or setting.train} <= set(stores):
            yield setting


def make_study_stores(folder: Path, shared_data: Path) -> Stores:
    """Make, or open, the stores of all footage that is there, by footage and model."""
    manifests = make_manifests(folder, shared_data, NUM_STUDY_CLIPS)
    manifests["demo"] = _demo_manifest(folder)
    if (shared_data / "videos" / "ucsd_ped2").is_dir():
        manifests["ped2"] = _ped2_manifest(folder, shared_data)
    return {name: make_stores(folder, path, name) for name, path in manifests.items()}


def _demo_manifest(folder: Path) -> Path:
    """The clips of `hiprobe demo`, with its default seed."""
    clips, manifest = folder / "clips-demo", folder / "demo.csv"
    if not (clips / "annotations.csv").exists():
        write_clips(plan_clips(DemoInputs.num_clips, DemoInputs.seed), clips)
    draft = folder_manifest(clips, inspect=inspect_video, annotations=clips / "annotations.csv")
    write_manifest(manifest, draft.records)
    return manifest


def _ped2_manifest(folder: Path, shared_data: Path) -> Path:
    """UCSD Ped2: its training videos are normal, each of its test videos has an anomaly."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    rows = {}
    with (shared_data / "annotations" / "ucsd_ped2.csv").open() as file:
        for row in csv.DictReader(file):
            rows[row["video_id"]] = row
            own = ranges.setdefault(row["video_id"], [])
            if row["start"]:
                own.append((int(row["start"]), int(row["stop"])))
    records = [
        VideoRecord(
            video_id=video_id,
            path=shared_data / "videos" / "ucsd_ped2" / Path(row["path"]).name,
            split=row["split"],
            label="anomalous" if ranges[video_id] else "normal",
            category="",
            annotations=tuple(ranges[video_id]),
        )
        for video_id, row in rows.items()
    ]
    manifest = folder / "ped2.csv"
    write_manifest(manifest, records)
    return manifest
