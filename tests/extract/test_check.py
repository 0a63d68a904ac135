"""`hiprobe check` tells a right model from a wrong one, on a CPU as on a GPU."""

import json

import numpy as np
import pytest
import torch

from benchmarks.full_size_models import SHAPES
from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.extract import check as check_module
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.check import CheckConfig, check
from hiprobe.extract.check_inputs import readable, take_samples
from hiprobe.extract.check_numbers import (
    Agreement,
    count_non_finite,
    finite_finding,
    sentencepiece_finding,
)
from hiprobe.extract.check_projection import ManifestShares, project, time_sizes
from hiprobe.extract.config import BackboneConfig
from hiprobe.store import ManifestError, VideoRecord, write_manifest
from tests.cli.test_cli import hiprobe
from tests.extract.test_internvl_chat import build as build_internvl_chat
from tests.extract.tiny_models import build_internvl

CPU = BackboneConfig(str(TRAINED_MODEL), device="cpu")


def statuses(report):
    return {finding.name: finding.status for finding in report.findings}


def test_the_demo_model_passes_with_all_figures(tmp_path, make_video):
    videos = [make_video("a.mp4", 240, (96, 64)), make_video("b [x].mp4", 30, (128, 96))]
    records = [VideoRecord(str(n), str(path), "train", "normal") for n, path in enumerate(videos)]
    write_manifest(tmp_path / "m.csv", records)
    result = hiprobe(
        *("check", str(TRAINED_MODEL), "a.mp4", "b [x].mp4", "--device", "cpu"),
        *("--manifest", "m.csv"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "(cpu)" in result.stdout
    assert "<|video_pad|>×" in result.stdout
    assert "b [x].mp4 (128×96, 25 fps)" in result.stdout
    assert "12 segments of the manifest" in " ".join(result.stdout.split())
    content = json.loads((tmp_path / "check.json").read_text())
    assert content["schema"] == "hiprobe-check-1"
    assert {one["status"] for one in content["findings"]} == {"passed"}
    assert len(content["findings"]) == 4
    assert [row["batch_size"] for row in content["batches"]] == [1, 2, 4, 8, 16]
    assert content["kernels"]["attention"]
    assert content["description"]
    assert content["projection"]["max_bytes"] == 12 * 11 * 128 * 4
    for name in ("generate", "one_at_a_time", "float32"):
        assert list(content["agreement"][name]["relative_l2"]) == [str(one) for one in range(11)]
    # Half precision does change something: two models were really compared.
    assert 1e-4 < content["agreement"]["float32"]["relative_l2"]["10"] < 0.1


def test_states_that_are_wrong_or_depend_on_the_batch_fail(monkeypatch):
    class Wrong(Backbone):
        def launch(self, inputs):
            if (size := len(inputs["input_ids"])) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            states = super().launch(inputs)()
            wrong = {name: one * (1.01 if size == 1 else 1.02) for name, one in states.items()}
            return lambda: wrong

    monkeypatch.setattr(check_module, "Backbone", Wrong)
    report = check(CheckConfig(CPU))
    assert [finding.name for finding in report.failed] == [
        "a batch gives what one segment at a time gives",
        "states are generate's",
    ]
    assert report.agreement["generate"].relative_l2["5"] == pytest.approx(0.01, rel=1e-3)
    assert [row["fits"] for row in report.batches] == [True, True, True, False]


def test_an_error_of_one_step_is_a_finding_and_the_others_are_made(tmp_path, monkeypatch):
    def broken(backbone, sample):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(check_module, "kernels", broken)
    report = check(CheckConfig(BackboneConfig(str(build_internvl(tmp_path / "m")), device="cpu")))
    assert [finding.name for finding in report.failed] == ["kernels can be listed"]
    assert "illegal memory access" in report.failed[0].text
    assert len(report.batches) == 5
    assert "<IMG_CONTEXT>×4" in report.inputs[0]["text"]


def test_a_model_that_cannot_be_loaded_is_exit_code_1_without_a_traceback(tmp_path):
    result = hiprobe("check", "nowhere", "--device", "cpu", cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "check.json").exists()


def test_segments_are_taken_from_all_over_the_beginning(make_video):
    (sample,) = take_samples([make_video("v.mp4", 24 * 12)], 24, 8, 4)
    assert [segment.index for segment in sample.segments] == [0, 3, 6, 9]
    (short,) = take_samples([make_video("w.mp4", 30)], 24, 8, 4)
    assert [segment.index for segment in short.segments] == [0, 1]
    made_up = take_samples([], 24, 8, 4)[0].segments
    assert not np.array_equal(made_up[0].keyframes[0], made_up[1].keyframes[0])
    assert not np.array_equal(made_up[0].keyframes[0], made_up[0].keyframes[1])


def test_runs_of_one_token_are_counted():
    tokenizer = Backbone(CPU).tokenizer
    pad = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    ids = [*tokenizer.encode("What?"), *[pad] * 7, *tokenizer.encode("So.")]
    assert readable(tokenizer, ids) == "What?<|video_pad|>×7So."


def test_agreement_is_held_against_the_distance_between_segments():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3, 4, 16))
    states[0] = 1.0
    near, far = states + 0.01, states + rng.normal(size=states.shape) * 3
    layers = (0, 1, 2)
    assert Agreement.of(layers, near, states, None).finding("x").status == "passed"
    assert Agreement.of(layers, far, states, None).finding("x").status == "FAILED"
    assert Agreement.of(layers, near, states, 1e-4).finding("x").status == "FAILED"
    one = Agreement.of(layers, near[:, :1], states[:, :1], None)
    assert one.finding("x").status == "skipped"
    near[1, 2, 3] = np.nan
    assert Agreement.of(layers, near, states, 1.0).finding("x").status == "FAILED"
    assert "1 in layer 1" in finite_finding(count_non_finite(layers, near), near.size).text


def test_tokens_of_a_converted_tokenizer_are_held_against_sentencepiece(tmp_path):
    build_internvl_chat(tmp_path)
    tokenizer = Backbone(BackboneConfig(str(tmp_path), device="cpu")).tokenizer
    assert sentencepiece_finding(tokenizer, "Is anything wrong?").status == "passed"
    tokenizer.encode = lambda text, **options: [1, 2]
    assert sentencepiece_finding(tokenizer, "Is anything wrong?").status == "FAILED"
    assert sentencepiece_finding(Backbone(CPU).tokenizer, "Is anything wrong?") is None


def test_a_manifest_is_weighed_by_its_videos_own_sizes_and_lengths(tmp_path, make_video):
    videos = [make_video("a.mp4", 240, (320, 240)), make_video("b.mp4", 30, (640, 360)),
              make_video("c.mp4", 24, (640, 360)), tmp_path / "broken.mp4"]  # fmt: skip
    videos[3].write_text("no video")
    records = [VideoRecord(path.stem, str(path), "train", "normal") for path in videos]
    write_manifest(tmp_path / "m.csv", records)
    shares = ManifestShares.of(tmp_path / "m.csv", 24)
    assert [(one.num_videos, one.num_segments) for one in shares.sizes] == [(1, 10), (2, 3)]
    (why,) = shares.unreadable
    assert "broken.mp4" in why

    # The user shows one of the sizes; the other is timed too, for it is more tokens.
    (qwen,) = [shape for shape in SHAPES if shape.name == "Qwen2.5-VL-7B"]
    qwen.save(tmp_path / "model", torch.device("cpu"), torch.float32, tiny=True)
    backbone = Backbone(BackboneConfig(str(tmp_path / "model"), device="cpu"))
    samples = take_samples(videos[:1], 24, 8, 1)
    rows = time_sizes(backbone, samples, shares, (1, 2))
    tokens = sorted({row["tokens_per_segment"] for row in rows})
    assert tokens == [one.tokens_per_segment for one in shares.sizes]
    assert tokens[1] - tokens[0] == 1196 - 560

    for row in rows:
        row["seconds_per_segment"] = row["batch_size"] * (1.0 if row["width"] == 320 else 4.0)
        row["prepare_seconds_per_segment"] = 1.5
    plan = project(samples, shares, rows, 1000)
    assert plan["hours"] == pytest.approx((10 * 1 + 3 * 4) / 3600)
    assert plan["seconds_per_segment"] == pytest.approx(22 / 13)
    assert (plan["num_segments"], plan["num_videos"], plan["max_bytes"]) == (13, 3, 13_000)
    assert plan["readers"] == 2
    # In between, by the tokens.
    shares.sizes[1].tokens_per_segment = sum(tokens) // 2
    between = project(samples, shares, rows, 1000)["sizes"][1]["seconds_per_segment"]
    assert between == pytest.approx(2.5, abs=0.01)

    write_manifest(tmp_path / "n.csv", records[3:])
    with pytest.raises(ManifestError, match="no video of it can be opened"):
        ManifestShares.of(tmp_path / "n.csv", 24)


def test_no_layer_of_that_number_is_one_message_before_anything_is_computed(tmp_path):
    result = hiprobe(
        "check", str(TRAINED_MODEL), "--device", "cpu", "--layers", "0,99", cwd=tmp_path
    )
    assert result.returncode == 1
    assert "no layer 99; it has layers 0 (embedding) to 10" in result.stderr
    assert "Traceback" not in result.stderr
