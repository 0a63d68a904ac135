import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiprobe.store import (
    ManifestError,
    VideoRecord,
    format_annotations,
    merge_ranges,
    parse_annotations,
    read_manifest,
    write_manifest,
)

HEADER = "video_id,path,split,label,category,annotations,num_frames\n"
ODD_NAMES = [
    "a,b",
    'say "hi"',
    "two\nlines",
    "dos\r\nlines",
    "line\u2028separator",
    "视频#1",
    "space d",
    "é=ü",
]


def test_odd_names_survive_a_round_trip(tmp_path):
    records = [
        VideoRecord(
            name,
            str(tmp_path / f"{name}.mp4"),
            "test",
            "anomalous",
            "x",
            ((1, 5), (7, 9)),
            10,
            29.97,
        )
        for name in ODD_NAMES
    ]
    write_manifest(tmp_path / "manifest.csv", records)
    assert read_manifest(tmp_path / "manifest.csv") == records


def test_paths_resolve_against_the_manifests_folder(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text(HEADER + "a,clips/a.mp4,train,normal,,,\nb,/abs/b.mp4,train,normal,,,\n")
    assert [record.path for record in read_manifest(path)] == [
        str(tmp_path / "clips/a.mp4"),
        "/abs/b.mp4",
    ]


def test_json_lines(tmp_path):
    path = tmp_path / "manifest.jsonl"
    row = {"path": "a.mp4", "split": "test", "label": "anomalous", "annotations": "1:2"}
    lines = [
        json.dumps(row | {"video_id": name, "num_frames": 5}, ensure_ascii=False)
        for name in ODD_NAMES
    ]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    records = read_manifest(path)
    assert [record.video_id for record in records] == ODD_NAMES
    assert {(record.annotations, record.num_frames) for record in records} == {(((1, 2),), 5)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.jsonl", '{"video_id":', "line 1 is not JSON"),
        ("m.jsonl", "[1]", r"line 1 is not a JSON object, got '\[1\]'"),
        ("m.csv", HEADER + 'a,"a.mp4,test,normal,,,\n' + "x" * 200_000, "quotation mark"),
        ("m.csv", "é".encode("latin-1"), "cannot read it as UTF-8 text"),
    ],
)
def test_unreadable_manifests_say_why(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,a.mp4,train,weird,,,", "label is 'weird', expected normal or anomalous"),
        ("a,a.mp4,val,normal,,,", "split is 'val', expected train or test"),
        ("a,,train,normal,,,", "path is empty"),
        (",a.mp4,train,normal,,,", "video_id is empty"),
        ("a,a.mp4,test,anomalous,,12,", "annotation '12' is not start_frame:stop_frame"),
        ("a,a.mp4,test,anomalous,,9:3,", "annotation '9:3' stops at or before its start"),
        ("a,a.mp4,test,anomalous,,1:5;4:9,", "annotations overlap at frame 4"),
        ("a,a.mp4,test,anomalous,,90:95,80", "annotation 90:95 lies beyond the video's 80 frames"),
        ("a,a.mp4,test,normal,,1:5,", "label is 'normal' but the line has annotations"),
        ("a,a.mp4,test,normal,,,many", "num_frames is 'many', expected a number above 0"),
        ("a,a.mp4,test,normal,,,5,6", "1 field(s) too many"),
        ("ok,a.mp4,test,normal,,,", "video_id 'ok' was already used in line 2"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "manifest.csv"
    path.write_text(f"{HEADER}ok,ok.mp4,test,normal,,,\n{line}\n")
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    assert f"line 3: {message}" in str(error.value)


def test_all_bad_lines_are_listed_at_once(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text(HEADER + "".join(f"{i},a.mp4,test,bad,,,\n" for i in range(30)))
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    assert "30 bad line(s)" in str(error.value)
    assert "line 2:" in str(error.value)
    assert "… and 10 more" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such manifest"),
        ("", "the header lacks video_id, path, split, label"),
        ("video_id,path,split\n", "the header lacks label"),
        (HEADER, "no videos in it"),
    ],
)
def test_no_manifest_at_all(tmp_path, content, message):
    path = tmp_path / "manifest.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)


ranges = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 50)), max_size=8).map(
    lambda pairs: merge_ranges((start, start + length) for start, length in pairs)
)


@given(ranges)
def test_annotations_survive_a_round_trip(annotations):
    assert parse_annotations(format_annotations(annotations)) == annotations


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6))
def test_merged_ranges_cover_the_same_frames(pairs):
    given_ranges = [(start, start + length) for start, length in pairs]
    merged = merge_ranges(given_ranges)
    assert {f for a, b in merged for f in range(a, b)} == {
        f for a, b in given_ranges for f in range(a, b)
    }
    assert all(a < b for (_, a), (b, _) in itertools.pairwise(merged))
