"""Labels are corrected without extracting again; killed half way, they are all old or all new."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest
import zarr

from hiprobe.store import (
    FeatureStore,
    ManifestError,
    StoreError,
    StoreWriter,
    VideoRecord,
    durable_files,
    small_files,
    write_manifest,
)
from hiprobe.store.hdf5 import export_hdf5, import_hdf5
from hiprobe.store.merge import merge
from hiprobe.store.relabel import describe, relabel
from hiprobe.store.verify import verify
from tests.conftest import forget_digests


def records_of(path):
    """A manifest of just what the store says."""
    return [
        VideoRecord(
            str(video_id), row["path"], row["split"], row["label"], row["category"],
            row["annotations"],
        )
        for video_id, row in FeatureStore.open(path).videos.iterrows()
    ]  # fmt: skip


@pytest.fixture
def corrected(make_store, tmp_path):
    """A store, and a manifest that corrects two of its videos."""
    path = make_store(num_videos=6)
    records = records_of(path)
    records[0] = replace(records[0], label="anomalous", category="Brand", annotations=((10, 20),))
    records[3] = replace(records[3], split="train", label="normal", category="", annotations=())
    write_manifest(tmp_path / "right.csv", records)
    return path, tmp_path / "right.csv"


def labels(path):
    columns = ["split", "label", "category", "annotations"]
    return FeatureStore.open(path).videos[columns].to_dict("index")


def is_relabelled(path):
    """Whether a store has the new labels; anything between the two is a failure."""
    told = labels(path)
    changed = [told["video-00"]["label"] == "anomalous", told["video-00"]["category"] == "Brand",
               told["video-00"]["annotations"] == ((10, 20),), told["video-03"]["split"] == "train",
               told["video-03"]["annotations"] == ()]  # fmt: skip
    assert len(set(changed)) == 1, told
    return changed[0]


def test_a_store_gets_a_manifests_labels_and_keeps_its_states(corrected):
    path, manifest = corrected
    states = FeatureStore.open(path).layer(3)
    found = relabel(path, manifest)
    assert describe(found.changes) == [
        "video-00: label 'normal' → 'anomalous', category '' → 'Brand', annotations '' → '10:20'",
        "video-03: split 'test' → 'train', label 'anomalous' → 'normal', "
        "category 'Fall' → '', annotations '48:130' → ''",
    ]
    assert is_relabelled(path)
    np.testing.assert_array_equal(FeatureStore.open(path).layer(3), states)
    # Any other Zarr reader sees them too.
    assert zarr.open_group(path, mode="r")["category"][0] == "Brand"
    assert verify(path).problems == []
    assert relabel(path, manifest).changes == {}


def test_what_the_labels_were_is_kept_with_date_and_digest(corrected, tmp_path):
    path, manifest = corrected
    old = records_of(path)
    relabel(path, manifest)
    write_manifest(tmp_path / "again.csv", old)
    relabel(path, tmp_path / "again.csv")
    first, second = FeatureStore.open(path).provenance["relabelled"]
    assert first["before"]["video-03"] == {
        "split": "test", "label": "anomalous", "category": "Fall", "annotations": "48:130",
    }  # fmt: skip
    assert second["before"]["video-00"]["category"] == "Brand"
    assert first["manifest"]["digest"].startswith("sha256:") != second["manifest"]["digest"]
    assert first["date"][:2] == "20"
    assert "relabelling" not in FeatureStore.open(path).provenance
    assert not is_relabelled(path)


def test_videos_of_only_one_of_the_two_are_listed_and_stay(corrected, tmp_path):
    path, _ = corrected
    (record,) = [r for r in records_of(path) if r.video_id == "video-01"]
    manifest = tmp_path / "part.csv"
    other = VideoRecord("elsewhere", "x.mp4", "test", "normal")
    write_manifest(manifest, [other, replace(record, category="Brand")])
    before = labels(path)
    found = relabel(path, manifest)
    assert found.only_in_manifest == ["elsewhere"]
    assert found.only_in_store == [f"video-0{i}" for i in (0, 2, 3, 4, 5)]
    before["video-01"]["category"] = "Brand"
    assert labels(path) == before


def test_a_dry_run_changes_nothing(corrected):
    path, manifest = corrected
    files = {f: f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}
    assert set(relabel(path, manifest, dry_run=True).changes) == {"video-00", "video-03"}
    assert {f: f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()} == files


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (VideoRecord("a", "x", "test", "normal"), "has none of the 6 videos .*ids look like 'a'"),
        (VideoRecord("video-02", "x", "test", "normal", num_frames=7), "video-02: has 7 frames he"),
    ],
)
def test_a_manifest_of_other_videos_is_refused(corrected, tmp_path, record, message):
    path, _ = corrected
    write_manifest(tmp_path / "wrong.csv", [record])
    before = labels(path)
    with pytest.raises(ManifestError, match=message):
        relabel(path, tmp_path / "wrong.csv")
    assert labels(path) == before


def test_a_store_that_is_being_written_is_refused(corrected):
    path, manifest = corrected
    with StoreWriter(path), pytest.raises(StoreError, match="another process is writing"):
        relabel(path, manifest)


def test_an_older_store_without_digests_is_relabelled(corrected):
    path, manifest = corrected
    forget_digests(path)
    relabel(path, manifest)
    assert is_relabelled(path)
    assert verify(path).problems == []


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_at(step, monkeypatch):
    """Die at a single rename or journal line, the first is 0; gives whether that came."""
    left, came = [step], [False]
    rename, commit = durable_files.Path.replace, small_files.SmallFiles.commit

    def count():
        if not left[0]:
            came[0] = True
            raise Killed
        left[0] -= 1

    def renamed(self, target):
        count()
        return rename(self, target)

    def committed(self, announce, journals, **options):
        def announced(entry):
            count()
            announce(entry)

        return commit(self, announced, journals, **options)

    with monkeypatch.context() as patch:
        patch.setattr(durable_files.Path, "replace", renamed)
        patch.setattr(small_files.SmallFiles, "commit", committed)
        with suppress(Killed):
            yield came


def test_killed_anywhere_the_labels_are_all_old_or_all_new(corrected, tmp_path, monkeypatch):
    """After each single rename and each journal line: what is on the disk is read as a whole."""
    path, manifest = corrected
    outcomes = []
    for last in range(40):
        copy = tmp_path / f"copy-{last}"
        shutil.copytree(path, copy)
        with killed_at(last, monkeypatch) as came:
            relabel(copy, manifest)
        outcomes.append(is_relabelled(copy))
        assert verify(copy).problems == []
        # The same command goes on, and so does any other writer.
        if last % 2:
            StoreWriter(copy).close()
            assert is_relabelled(copy) == outcomes[-1]
            assert "relabelling" not in FeatureStore.open(copy).provenance
        relabel(copy, manifest)
        assert is_relabelled(copy)
        assert zarr.open_group(copy, mode="r")["category"][0] == "Brand"
        assert len(FeatureStore.open(copy).provenance["relabelled"]) == 1
        if not came[0]:
            break
    assert not came[0]
    # The new ones count from one moment on.
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) >= 2
    assert outcomes.count(True) >= 4


def test_copies_have_the_new_labels_even_of_a_change_that_was_broken_off(
    corrected, tmp_path, monkeypatch
):
    path, manifest = corrected

    def killed(self):
        if "relabelling" in self.provenance:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "_finish_relabelling", killed)
        with pytest.raises(Killed):
            relabel(path, manifest)
    assert "relabelling" in FeatureStore.open(path).provenance
    merge(tmp_path / "merged.zarr", [path])
    export_hdf5(path, tmp_path / "s.h5")
    import_hdf5(tmp_path / "s.h5", tmp_path / "imported.zarr")
    for copy in ("merged.zarr", "imported.zarr"):
        assert relabel(tmp_path / copy, manifest).changes == {}
        assert "relabelling" not in FeatureStore.open(tmp_path / copy).provenance


@pytest.mark.parametrize(
    "pending",
    [3, [], {}, {"video": [0]}, {"video": [99], "split": ["test"]}, {"video": [-1]},
     {"video": [0], "split": ["test"], "label": ["odd"], "category": [""], "annotations": [""]},
     {"video": [0], "split": ["test"], "label": ["normal"], "category": [7], "annotations": [""]},
     {"video": [0], "split": ["test"], "label": ["normal"], "category": [""], "annotations": ["x"]},
     {"video": [0], "split": [], "label": ["normal"], "category": [""], "annotations": [""]}],
)  # fmt: skip
def test_pending_labels_that_nobody_writes_are_damage(make_store, pending):
    path = make_store(num_videos=2)
    forget_digests(path)
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["relabelling"] = pending
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match=r"zarr.json: damaged"):
        FeatureStore.open(path)
