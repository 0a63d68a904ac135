"""The one meaning of `--manifest`: which videos take part, and with which labels."""

from dataclasses import replace

import pytest

from hiprobe.store import (
    FAILED,
    FeatureStore,
    ManifestError,
    PlannedVideo,
    StoreWriter,
    VideoRecord,
    write_manifest,
)
from hiprobe.store.labels import labelled_videos


@pytest.fixture
def store(make_store):
    path = make_store(num_videos=8)
    with StoreWriter(path) as writer:
        records = [VideoRecord(name, f"/{name}.mp4", "test", "normal") for name in ("bad", "later")]
        writer.add_videos(
            [PlannedVideo(records[0], 0, 25.0, ()), PlannedVideo(records[1], 24, 25.0, [(0, 24)])]
        )
        writer.finish_video(8, status=FAILED, num_frames=0, fps=25.0, error="/bad.mp4: broken")
    return FeatureStore.open(path)


def records_of(store, split="test"):
    return [
        VideoRecord(
            video_id,
            **{name: row[name] for name in ("path", "split", "label", "category", "annotations")},
        )
        for video_id, row in store.videos[store.videos["split"] == split].iterrows()
    ]


def manifest_of(store, records):
    write_manifest(path := store.path.parent / "labels.csv", records)
    return path


def test_without_a_manifest_they_are_the_stores(store):
    videos, warnings = labelled_videos(store, "test")
    assert videos.index.tolist() == ["video-02", "video-03", "video-06", "video-07"]
    assert videos["label"].tolist() == ["normal", "anomalous"] * 2
    assert warnings == [
        "bad is failed and takes no part: /bad.mp4: broken",
        "later is pending and takes no part",
    ]
    assert labelled_videos(store, "train")[1] == []


def test_a_manifest_gives_labels_splits_categories_and_annotations(store):
    records = [replace(record, split="train") for record in records_of(store)[:1]]
    records.append(
        VideoRecord("video-00", "/x.mp4", "test", "anomalous", "Fall", ((0, 24), (30, 40)))
    )
    videos, warnings = labelled_videos(store, "test", manifest_of(store, records))
    assert videos.index.tolist() == ["video-00"]
    row = videos.loc["video-00"]
    assert (row["label"], row["category"]) == ("anomalous", "Fall")
    assert row["annotations"] == ((0, 24), (30, 40))
    assert row["path"] == "/nowhere/0.mp4"  # of the store: what was extracted
    assert warnings == [
        "5 test videos of the store are not in labels.csv and take no part, for example video-03"
    ]
    videos, _ = labelled_videos(store, "train", manifest_of(store, records))
    assert videos.index.tolist() == ["video-02"]


def test_the_order_is_the_stores(store):
    records = records_of(store)
    videos, _ = labelled_videos(store, "test", manifest_of(store, records[::-1]))
    assert videos.index.tolist() == [record.video_id for record in records[:4]]


def test_a_manifest_of_other_videos_is_refused_with_all_of_them(store):
    records = [replace(records_of(store)[0], num_frames=99)]
    records += [VideoRecord(f"new-{i}", "/x.mp4", "test", "normal") for i in range(2)]
    records.append(VideoRecord("elsewhere", "/x.mp4", "train", "normal"))  # of the other split
    manifest = manifest_of(store, records)
    with pytest.raises(ManifestError) as error:
        labelled_videos(store, "test", manifest)
    assert str(error.value) == (
        f"{manifest}: 3 test video(s) do not fit {store.path}:\n"
        "  video-02: has 99 frames here, 226 in the store\n"
        "  new-0: not in the store\n"
        "  new-1: not in the store\n"
        "Extract these videos, or correct the manifest."
    )


def test_the_length_of_an_unfinished_video_says_nothing(store):
    records = [
        replace(record, num_frames=50) for record in records_of(store) if "-" not in record.video_id
    ]
    videos, warnings = labelled_videos(store, "test", manifest_of(store, records))
    assert videos.empty
    assert len(warnings) == 3


def test_a_split_without_videos_is_empty(store):
    records = [replace(record, split="train") for record in records_of(store)]
    videos, _ = labelled_videos(store, "test", manifest_of(store, records))
    assert videos.empty
    assert "annotations" in videos.columns
