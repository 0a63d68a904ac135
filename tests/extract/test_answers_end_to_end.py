"""From videos to p(yes): `probe --method answers|ordinal` scores what the model would say."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForImageTextToText

from hiprobe.demo.model import byte_tokenizer
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.segments import segment_ranges
from hiprobe.extract.video import SegmentReader
from hiprobe.store import FeatureStore, VideoRecord, write_manifest
from tests.cli.test_cli import hiprobe
from tests.extract import tiny_models

CORPUS = ("Yes", "No", " yes", " no", "Is it? Yes or No.") * 20
PROMPTS = {"severity-10": "At least 0.1?", "severity-60": "At least 0.6?", "plain": "Is it odd?"}


@pytest.fixture
def folder(tmp_path, make_video, monkeypatch):
    def tokenizer(special_tokens, **options):
        return byte_tokenizer(special_tokens, CORPUS, 340, **options)

    monkeypatch.setattr(tiny_models, "byte_tokenizer", tokenizer)
    tiny_models.build_llava_onevision(tmp_path / "model")
    records = [
        VideoRecord(f"v{seed}", str(make_video(f"{seed}.mp4", 60 + 10 * seed, seed=seed)),
                    "test", "anomalous" if seed else "normal", annotations=((0, 20),) * (seed > 0))
        for seed in range(2)
    ]  # fmt: skip
    write_manifest(tmp_path / "m.csv", records)
    return tmp_path


def own_p_yes(folder, path, num_frames, prompt):
    """By the whole model's logits, and its tokenizer alone."""
    model = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32)
    backbone = Backbone(BackboneConfig(str(folder / "model"), device="cpu", prompt=prompt))
    segments = [*SegmentReader(path, segment_ranges(num_frames, 24), 8)]
    with torch.inference_mode():
        logits = model.eval()(**backbone.prepare(segments, 25.0)).logits[:, -1].double()
    vocabulary = backbone.tokenizer.get_vocab()
    both = [[vocabulary[word] for word in words if word in vocabulary]
            for words in (("Yes", "ĠYes", "yes", "Ġyes"), ("No", "ĠNo", "no", "Ġno"))]  # fmt: skip
    assert all(len(one) > 1 for one in both)
    weights = [logits[:, one].exp().sum(dim=1) for one in both]
    return (weights[0] / (weights[0] + weights[1])).numpy()


def test_scores_are_the_models_own_answers_in_evaluate_and_detect(folder):
    options = [part for name, text in PROMPTS.items() for part in ("--prompt", f"{name}={text}")]
    base = ["--model", "model", "--device", "cpu"]
    made = hiprobe("extract", "m.csv", "s.zarr", *base, *options, "--parity", "0", cwd=folder)
    assert made.returncode == 0, made.stderr
    videos = FeatureStore.open(folder / "s.zarr").videos
    for method, more, prompts in (
        ("answers", ["--prompt", "plain"], ["plain"]),
        ("ordinal", [], ["severity-10", "severity-60"]),
    ):
        made = hiprobe("probe", "s.zarr", "p.json", "--method", method, *more, cwd=folder)
        assert made.returncode == 0, made.stderr
        assert "threshold 0.5000: yes is as likely as no" in made.stdout
        assert hiprobe("evaluate", "s.zarr", "p.json", "r", cwd=folder).returncode == 0
        scores = pd.read_csv(folder / "r/scores.csv")
        for video_id, video in videos.iterrows():
            path = Path(video["path"])
            expected = np.mean([own_p_yes(folder, path, video["num_frames"], PROMPTS[name])
                                for name in prompts], axis=0)  # fmt: skip
            own = scores.loc[scores["video_id"] == video_id, "score"]
            np.testing.assert_allclose(own, expected, rtol=0, atol=1e-4)
        found = hiprobe("detect", str(path), "p.json", *base, "--out", "d.json", cwd=folder)
        assert found.returncode == 0, found.stderr
        detected = [one["score"] for one in json.loads((folder / "d.json").read_text())["segments"]]
        np.testing.assert_allclose(detected, own, rtol=0, atol=1e-4)
