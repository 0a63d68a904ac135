"""The results' folder and probe.json: written as docs/file-formats.md has it, and read back."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from hiprobe.store import HiProbeError, Probe
from hiprobe.store.descriptions import append_description, start_descriptions
from hiprobe.store.layer_tables import LayerTables
from hiprobe.store.results import (
    Interval,
    Results,
    ResultVideo,
    known_fps,
    read_intervals,
    write_results,
)
from tests.conftest import REPOSITORY

DOCUMENT = (REPOSITORY / "docs/file-formats.md").read_text(encoding="utf-8")
EXAMPLE = dict(re.findall(r"`([\w./]+)`\n\n```\w+\n(.*?)```", DOCUMENT, re.DOTALL))

METRICS = {
    "smoothed": {"auc": 0.5, "auc_ci": None},
    "threshold": 0.5,
    "ground_truth": {"length": "true"},
    "provenance": {"options": {"split": "测试"}},
}
SEGMENTS = pd.DataFrame(
    [
        ("a", 0, 0, 24, 0.1, 0.2, False),
        ("a", 1, 24, 48, 0.9, 0.75, True),
        ("a", 2, 48, 60, 0.1 + 0.2, 0.3, False),
        ("b", 0, 0, 24, 0.05, 0.05, False),
    ],
    columns=["video_id", "segment", "start_frame", "stop_frame", "score", "smoothed", "anomalous"],
)
THUMBNAILS = {"a": [{"frame": 36, "score": 0.75, "jpeg": "/9j/"}], "b": []}


def of_frames(video_id, fps, **ranges):
    return {
        kind: tuple(Interval.of_frames(video_id, kind, *frames, fps) for frames in ranges[kind])
        for kind in ("anomalous", "normal")
    }


VIDEOS = {
    "a": ResultVideo(
        label="anomalous",
        category="Fire",
        fps=25.0,
        num_frames=60,
        annotations=((24, 48),),
        intervals=of_frames("a", 25.0, anomalous=[(24, 48)], normal=[(0, 24), (48, 60)]),
    ),
    "b": ResultVideo(
        "normal", "", None, 24, (), of_frames("b", None, anomalous=[], normal=[(0, 24)])
    ),
}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    write_results(
        folder,
        metrics=METRICS,
        threshold=0.5,
        videos=VIDEOS,
        segments=SEGMENTS,
        thumbnails=THUMBNAILS,
    )
    return folder


def test_the_worked_example_is_what_the_code_writes(results):
    probe = Probe(
        store={
            "path": "/data/features.zarr",
            "provenance": {
                "schema_version": 1,
                "prompt": "Is anything abnormal happening in this video? Describe it.",
            },
        },
        layer=1,
        layers={"saliency": [None, 1.5]},
        scorer={
            "kind": "logistic",
            "weight": [0.5, -2.0],
            "bias": 0.25,
            "l2": 1.0,
            "num_iterations": 7,
        },
        threshold={"mean": 0.4, "std": 0.5, "kappa": 0.2, "value": 0.5},
        training={"video_ids": ["c", "d"]},
    )
    probe.save(results.parent / "probe.json")
    start_descriptions(results, {"prompts": {"anomalous": "What happens?"}}, {})
    with (results / "descriptions.jsonl").open("a") as file:
        append_description(file, VIDEOS["a"].intervals["anomalous"][0], "A car burns.")
    summary = {"dlsp_layer": 1, "best_cv_layer": 1}
    LayerTables(pd.DataFrame(), pd.DataFrame(), summary).write(results / "layers")
    assert len(EXAMPLE) == 6
    for name, documented in EXAMPLE.items():
        assert (results.parent / name).read_text(encoding="utf-8").strip() == documented.strip(), (
            name
        )
    assert Probe.load(results.parent / "probe.json") == probe


def test_every_field_has_its_line_on_the_page():
    documented = set(re.findall(r"`(\w+)`", DOCUMENT))
    names = {name for name in ResultVideo.__dataclass_fields__ if name != "intervals"}
    assert names | set(Probe.__dataclass_fields__) | set(SEGMENTS.columns) <= documented


def test_results_read_as_they_were_written(results):
    again = Results.read(results)
    assert (again.folder, again.metrics, again.threshold) == (results, METRICS, 0.5)
    assert again.videos == VIDEOS == read_intervals(results)
    assert again.thumbnails == THUMBNAILS
    pd.testing.assert_frame_equal(again.segments, SEGMENTS.astype({"anomalous": np.int64}))
    assert [one.frames for one in again.videos["a"].in_order] == [(0, 24), (24, 48), (48, 60)]


def test_scores_have_the_bytes_that_they_always_had(results):
    lines = (results / "scores.csv").read_bytes().split(b"\r\n")
    assert lines[3] == b"a,2,48,60,0.30000000000000004,0.3,0"
    assert lines[-1] == b""


def test_names_that_we_do_not_know_are_left_alone(results):
    content = json.loads((results / "intervals.json").read_text())
    content["videos"]["a"]["anomalous"][0]["confidence"] = 1
    content["videos"]["a"]["weather"] = "rain"
    (results / "intervals.json").write_text(json.dumps(content))
    assert Results.read(results).videos == VIDEOS


def test_a_video_may_be_called_na_and_a_number(tmp_path):
    videos = {"NA": VIDEOS["b"], "007": VIDEOS["b"]}
    segments = SEGMENTS.iloc[[3, 3]].assign(video_id=["NA", "007"])
    write_results(tmp_path, metrics=METRICS, threshold=0.5, videos=videos, segments=segments)
    assert Results.read(tmp_path).segments["video_id"].tolist() == ["NA", "007"]
    assert Results.read(tmp_path).thumbnails == {}


def test_metrics_come_last_and_what_is_stale_goes_first(results):
    (results / "report.html").touch()
    with pytest.raises(KeyError):
        write_results(
            results,
            metrics=METRICS,
            threshold=0.5,
            videos=VIDEOS,
            segments=SEGMENTS.drop(columns="score"),
        )
    assert {path.name for path in results.iterdir()} == {"scores.csv", "intervals.json"}
    with pytest.raises(HiProbeError, match=r"metrics\.json: no such file\. Give a folder that"):
        Results.read(results)


@pytest.mark.parametrize(
    "name", ["metrics.json", "intervals.json", "scores.csv", "thumbnails.json"]
)
@pytest.mark.parametrize("content", ["", "[1]", '{"videos": {"a": 1}}', "\0"])
def test_damage_is_one_message(results, name, content):
    (results / name).write_text(content)
    with pytest.raises(HiProbeError, match=r"not whole results of this hiprobe .* Evaluate again"):
        Results.read(results)
    if name == "intervals.json":
        with pytest.raises(HiProbeError, match=r"intervals\.json: damaged, .* Evaluate again"):
            read_intervals(results)


def test_a_folder_without_results_says_what_to_give(tmp_path):
    for read in (Results.read, read_intervals):
        with pytest.raises(
            HiProbeError, match=r"no such file\. Give a folder that `hiprobe evaluate`"
        ):
            read(tmp_path / "none")


def test_seconds_are_null_where_the_frame_rate_is_not_known():
    assert known_fps(float("nan")) is None
    assert known_fps(np.float64(29.97)) == 29.97
    one = Interval.of_frames("a", "normal", 1, 30, 29.97)
    assert (one.start_seconds, one.stop_seconds) == (0.033, 1.001)


def test_layer_tables_survive(tmp_path):
    assert LayerTables.read(tmp_path) is None
    table = pd.DataFrame(
        {"saliency": [np.nan, 0.1 + 0.2], "cv_auc": [0.5, 1.0]},
        index=pd.Index([0, 4], name="layer"),
    )
    embeddings = pd.DataFrame(
        {"layer": [4, 4], "sample": [0, 1], "video_id": ["NA", "007"], "x": [0.5, 1.5]}
    )
    tables = LayerTables(table, embeddings, {"dlsp_layer": 4})
    names = [path.name for path in tables.write(tmp_path)]
    assert names == ["layers.csv", "tsne.csv", "summary.json"]
    again = LayerTables.read(tmp_path)
    pd.testing.assert_frame_equal(again.table, table)
    pd.testing.assert_frame_equal(again.embeddings, embeddings)
    assert again.summary == tables.summary
    (tmp_path / "tsne.csv").unlink()
    with pytest.raises(HiProbeError, match=r"not whole tables of layers .* `hiprobe layers`"):
        LayerTables.read(tmp_path)


def tamper(results, name, old, new):
    text = (results / name).read_bytes().decode()
    assert old in text
    (results / name).write_bytes(text.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("intervals.json", '"num_frames": 60', '"num_frames": 3000000000', "num_frames is 30000"),
        ("intervals.json", '"num_frames": 60', '"num_frames": 50', "an interval stops at 60 of 50"),
        ("intervals.json", '"num_frames": 60', '"num_frames": "60"', "num_frames is '60'"),
        ("intervals.json", '"fps": 25.0', '"fps": 0', "fps is 0"),
        ("intervals.json", '"fps": 25.0', '"fps": NaN', "fps is nan"),
        ("intervals.json", '"start_frame": 24', '"start_frame": 99', "stops at or before"),
        ("intervals.json", '"annotations": "24:48"', '"annotations": 7', "annotations is 7"),
        ("intervals.json", '"annotations": "24:48"', '"annotations": "4:1"', "stops at or before"),
        ("intervals.json", '"category": "Fire"', '"category": {}', "category is an object"),
        ("intervals.json", '"threshold": 0.5', '"threshold": null', "threshold is None"),
        ("intervals.json", '"a": {', '"z": {', "its videos are not those of intervals.json"),
        ("metrics.json", '"threshold": 0.5', '"threshold": "x"', "threshold is 'x'"),
        ("metrics.json", '"ground_truth": {', '"ground_truth": 1, "other": {', "ground_truth is 1"),
        ("metrics.json", '"provenance": {', '"provenances": {', "'provenance' is missing"),
        ("metrics.json", '"threshold": 0.5', '"threshold": 0.5, "num_segments": 5', "has 4 rows"),
        ("scores.csv", "a,1,24,48", "a,1,20,48", "two of a video overlap"),
        ("scores.csv", "a,2,48,60", "a,2,48,3000000000", "beyond their video"),
        ("scores.csv", "a,2,48,60", "a,2,48,1e400", "stop_frame holds something else"),
        ("scores.csv", "0.9,0.75", "nan,0.75", "score holds a score that is not finite|string"),
        ("scores.csv", "0.9,0.75", "0.9,inf", "smoothed holds a score that is not finite"),
        ("scores.csv", "segment,start", "start_frame,start", "stands there more than once|missing"),
        ("scores.csv", "score,smoothed", "score,score", "stands there more than once|missing"),
        ("scores.csv", "b,0,0,24", "c,0,0,24", "its videos are not those"),
        ("thumbnails.json", "/9j/", '\\" onerror=\\"x', "jpeg is no base64"),
        ("thumbnails.json", '"score": 0.75', '"score": "x"', "score is 'x'"),
    ],
)
def test_results_that_cannot_be_right_are_refused(results, name, old, new, message):
    tamper(results, name, old, new)
    with pytest.raises(HiProbeError, match=message) as raised:
        Results.read(results)
    assert str(results / name) in str(raised.value) or "scores.csv: damaged" in str(raised.value)


@pytest.mark.parametrize("name", ["metrics.json", "intervals.json", "thumbnails.json"])
def test_results_that_are_cut_are_refused(results, name):
    whole = (results / name).read_bytes()
    for share in (0.2, 0.6, 0.95):
        (results / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(HiProbeError, match=f"{name}: damaged"):
            Results.read(results)
