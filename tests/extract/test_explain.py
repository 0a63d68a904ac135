"""Descriptions of intervals through real models' own `generate`."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from transformers import AutoModelForImageTextToText, AutoProcessor

from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.extract.backbone import chat_text, process_segments
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.explain import ExplainConfig, explain
from hiprobe.extract.generation import Describer
from hiprobe.extract.pipeline import extract
from hiprobe.extract.video import SegmentReader
from hiprobe.store import FeatureStore, HiProbeError, StoreError, VideoRecord, write_manifest
from hiprobe.store.results import KINDS, Interval, ResultVideo, read_intervals, write_json
from tests.conftest import forget_digests
from tests.extract.tiny_models import BUILDERS

CPU = BackboneConfig(str(TRAINED_MODEL), device="cpu", dtype="float32")


@pytest.fixture
def config(make_video, tmp_path):
    """A store of three videos, and results that say what is anomalous in each."""
    records = [
        VideoRecord(f"v{i}", str(make_video(f"{i}.mp4", num_frames=60 + i, seed=i)), "test", label)
        for i, label in enumerate(("anomalous", "normal", "anomalous"))
    ]
    write_manifest(tmp_path / "m.csv", records)
    extract(ExtractConfig(tmp_path / "m.csv", tmp_path / "s.zarr", CPU, parity=0))
    (tmp_path / "r").mkdir()
    write_intervals(tmp_path / "r", {"v0": (24, 48), "v1": None, "v2": (0, 24)})
    return ExplainConfig(
        tmp_path / "s.zarr", tmp_path / "r", CPU, prompts={}, keyframes=4, max_new_tokens=8
    )


def write_intervals(results, anomalous):
    videos = {}
    for index, (video_id, found) in enumerate(anomalous.items()):
        num_frames = 60 + index
        edges = [0, *(found or ()), num_frames]
        ranges = {"anomalous": [], "normal": []}
        for start, stop in itertools.pairwise(edges):
            if stop > start:
                kind = "anomalous" if (start, stop) == found else "normal"
                ranges[kind].append(Interval.of_frames(video_id, kind, start, stop, 25.0))
        videos[video_id] = ResultVideo("normal", "", 25.0, num_frames, (), ranges).to_json()
    write_json(results / "intervals.json", {"threshold": 0.5, "videos": videos})


def lines(config):
    text = (config.results / "descriptions.jsonl").read_text()
    return [json.loads(line) for line in text.split("\n") if line]


def test_every_interval_gets_the_text_that_generate_gives(config):
    summary = explain(config)
    header, *described = lines(config)
    assert summary.num_described == len(described) == 3 + 1 + 2
    assert (
        header["provenance"]["prompts"]["normal"]
        == (FeatureStore.open(config.store).provenance["prompt"])
    )
    model = AutoModelForImageTextToText.from_pretrained(TRAINED_MODEL, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(TRAINED_MODEL)
    videos = FeatureStore.open(config.store).videos
    for line in described:
        in_order = read_intervals(config.results)[line["video_id"]].in_order
        ranges = [interval.frames for interval in in_order]
        segments = SegmentReader(videos.loc[line["video_id"], "path"], ranges, 4)
        (segment,) = [one for one in segments if one.start_frame == line["start_frame"]]
        prompt = header["provenance"]["prompts"][line["kind"]]
        inputs = process_segments(processor, [chat_text(processor, prompt)], [segment], [25.0])
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        answer = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], True)
        assert line["text"] == answer.strip()
        assert line["text"]


@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_a_batch_says_what_single_segments_say(family, make_video, tmp_path):
    folder = BUILDERS[family](tmp_path / "model")
    describer = Describer(BackboneConfig(str(folder), device="cpu", dtype="float32"), 6)
    segments = list(SegmentReader(make_video(num_frames=60), [(0, 20), (20, 60)], 4))
    prompts = ["What happens?", "Is anything in this video abnormal, and if so, what is it?"]
    together = describer.describe(segments, prompts, 25.0)
    apart = [
        describer.describe([segment], [prompt], 25.0)[0]
        for segment, prompt in zip(segments, prompts, strict=True)
    ]
    assert together == apart


def test_it_goes_on_after_a_torn_line(config):
    explain(config)
    path = config.results / "descriptions.jsonl"
    whole = lines(config)
    path.write_text(path.read_text()[:-30])
    summary = explain(config)
    assert (summary.num_described, summary.num_kept) == (1, 5)
    assert lines(config) == whole


def test_odd_characters_in_a_text_are_kept(config):
    explain(config)
    path = config.results / "descriptions.jsonl"
    header, first, *others = path.read_text().split("\n")
    odd = json.dumps(json.loads(first) | {"text": "a\u2028b\x85c\x0cd"}, ensure_ascii=False)
    path.write_text("\n".join([header, odd, *others]))
    assert explain(config).num_kept == 6
    assert "a\u2028b\x85c\x0cd" in [line.get("text") for line in lines(config)]


def test_intervals_that_have_changed_are_described_anew(config):
    explain(config)
    write_intervals(config.results, {"v0": (24, 48), "v1": None, "v2": (24, 48)})
    summary = explain(config)
    assert (summary.num_described, summary.num_kept) == (3, 4)
    known = {(line["video_id"], line["start_frame"]) for line in lines(config)[1:]}
    assert known == {
        ("v0", 0),
        ("v0", 24),
        ("v0", 48),
        ("v1", 0),
        ("v2", 0),
        ("v2", 24),
        ("v2", 48),
    }


def test_descriptions_come_back_with_the_threshold(config):
    explain(config)
    before = (config.results / "intervals.json").read_text()
    write_intervals(config.results, {"v0": None, "v1": None, "v2": (24, 48)})
    explain(config)
    (config.results / "intervals.json").write_text(before)
    assert explain(config).num_described == 0


def test_a_video_that_has_become_shorter_fails(config, make_video):
    make_video("2.mp4", num_frames=20)
    summary = explain(config)
    assert "is another file than the store's states were made from" in summary.failures["v2"]


def test_only_what_is_asked_for(config):
    explain(replace(config, kinds=("anomalous",), only=("v0",)))
    assert [(line["video_id"], line["kind"]) for line in lines(config)[1:]] == [("v0", "anomalous")]
    with pytest.raises(HiProbeError, match="--only 'x': it has no such video"):
        explain(replace(config, only=("x",)))


def test_other_settings_are_refused_unless_overwritten(config):
    explain(config)
    other = replace(config, prompts={"normal": "What is this?"})
    with pytest.raises(HiProbeError, match=r"was made with another prompts.*--overwrite"):
        explain(other)
    assert explain(replace(other, overwrite=True)).num_kept == 0
    assert lines(config)[0]["provenance"]["prompts"]["normal"] == "What is this?"
    # Interrupted, the same command goes on: what has the same settings stays.
    assert explain(replace(other, overwrite=True)).num_kept == 6


def test_a_broken_video_does_not_stop_the_others(config):
    path = FeatureStore.open(config.store).videos.loc["v0", "path"]
    Path(path).write_bytes(b"no video")
    summary = explain(config)
    assert list(summary.failures) == ["v0"]
    assert {line["video_id"] for line in lines(config)[1:]} == {"v1", "v2"}


def test_what_is_missing_is_said(config, tmp_path):
    with pytest.raises(HiProbeError, match=r"no such file. Give a folder that `hiprobe evaluate"):
        explain(replace(config, results=tmp_path))
    content = (config.results / "intervals.json").read_text()
    (config.results / "intervals.json").write_text(content.replace("v2", "elsewhere"))
    with pytest.raises(HiProbeError, match=r"1 of its videos are not in .*'elsewhere'"):
        explain(config)


def test_a_store_that_does_not_record_its_prompt_needs_one(config):
    forget_digests(config.store)
    attributes = zarr.open_group(config.store, mode="r+").attrs
    recorded = attributes.asdict()
    attributes.put({key: recorded[key] for key in recorded if key not in ("prompt", "model")})
    with pytest.raises(StoreError, match=r"prompt. Give one with --normal-prompt\.$"):
        explain(replace(config, prompts={"anomalous": "What happens?"}))
    summary = explain(replace(config, prompts=dict.fromkeys(KINDS, "What happens?")))
    assert summary.num_described == 6
    assert "which model the scores are of is not recorded" in summary.warnings[0]


def test_another_model_than_the_scores_is_said(config, tmp_path):
    assert explain(config).warnings == []
    (config.results / "descriptions.jsonl").unlink()
    folder = BUILDERS["qwen2_5_vl"](tmp_path / "model")
    summary = explain(replace(config, backbone=replace(CPU, model=str(folder))))
    assert "the scores are of another model" in summary.warnings[0]
    assert np.isfinite(summary.num_described)
