"""Descriptions: appended a line at a time, and readable whatever a kill left behind."""

import pytest

from hiprobe.store.descriptions import append_description, read_descriptions, start_descriptions
from hiprobe.store.results import Interval

PROVENANCE = {"model": {"weights_digest": "sha256:1"}}
FIRE = Interval.of_frames("a", "anomalous", 24, 48, 25.0)
CALM = Interval.of_frames("坏 b", "normal", 0, 24, None)
TEXTS = {FIRE: "A car burns.\nIt is black.\r\n\x0b\x85", CALM: "没什么 \u2028 nothing"}


def write(folder, texts=TEXTS):
    start_descriptions(folder, PROVENANCE, {})
    with (folder / "descriptions.jsonl").open("a", encoding="utf-8") as file:
        for interval, text in texts.items():
            append_description(file, interval, text)
    return folder / "descriptions.jsonl"


def test_what_was_appended_reads_back_in_its_order(tmp_path):
    assert read_descriptions(tmp_path) == (None, {})
    write(tmp_path)
    provenance, texts = read_descriptions(tmp_path)
    assert provenance == PROVENANCE
    assert [*texts.items()] == [*TEXTS.items()]


def test_the_file_has_the_bytes_that_it_always_had(tmp_path):
    path = write(tmp_path, {CALM: "没什么"})
    assert path.read_text(encoding="utf-8") == (
        '{"provenance": {"model": {"weights_digest": "sha256:1"}}}\n'
        '{"video_id": "坏 b", "kind": "normal", "start_frame": 0, "stop_frame": 24, '
        '"start_seconds": null, "stop_seconds": null, "text": "没什么"}\n'
    )


def test_a_file_torn_at_any_byte_gives_what_was_whole(tmp_path):
    """Also within a character of several bytes, and within the first line."""
    path = write(tmp_path)
    content = path.read_bytes()
    ends = [index for index, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content)):
        path.write_bytes(content[:length])
        provenance, texts = read_descriptions(tmp_path)
        num_whole = sum(length >= end for end in ends)
        assert (provenance is not None) == (num_whole >= 1)
        assert len(texts) == max(0, num_whole - 1)


def test_what_is_kept_is_written_anew_so_that_a_torn_line_swallows_nothing(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    provenance, texts = read_descriptions(tmp_path)
    start_descriptions(tmp_path, provenance, texts)
    with path.open("a", encoding="utf-8") as file:
        append_description(file, CALM, "again")
    assert read_descriptions(tmp_path) == (PROVENANCE, {FIRE: TEXTS[FIRE], CALM: "again"})
    assert not path.with_name("descriptions.jsonl.partial").exists()


@pytest.mark.parametrize("line", ["7", '"provenance"', "null", "[]", '{"text": "of what?"}', "{}"])
def test_lines_of_something_else_are_skipped(tmp_path, line):
    path = write(tmp_path)
    path.write_text(f"{line}\n{path.read_text(encoding='utf-8')}{line}\n", encoding="utf-8")
    assert read_descriptions(tmp_path) == (PROVENANCE, TEXTS)


def test_of_two_of_one_interval_the_later_one_counts(tmp_path):
    path = write(tmp_path)
    with path.open("a", encoding="utf-8") as file:
        append_description(file, FIRE, "Smoke.")
    assert read_descriptions(tmp_path)[1][FIRE] == "Smoke."
