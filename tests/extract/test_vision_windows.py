"""Vision attention in batches of equal windows, against Transformers' own way, one by one."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from hiprobe.demo.model import TRAINED_MODEL, new_processor
from hiprobe.demo.training_data import TrainingBatches
from hiprobe.extract import vision_windows
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.video import SegmentReader
from hiprobe.extract.vision_windows import NAME, batch_windows
from tests.extract.tiny_models import BUILDERS

# Patches of frames, in pairs: windows of one size, of four sizes, of two videos.
GRIDS = {"equal": [[2, 16, 8]], "mixed": [[4, 20, 28]], "videos": [[2, 20, 28], [4, 16, 12]]}


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def checkpoint(request, tmp_path_factory):
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


def load(checkpoint, attention="sdpa"):
    options = {"dtype": torch.float32, "attn_implementation": attention}
    return AutoModel.from_pretrained(checkpoint, **options).eval()


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_tower_gives_what_it_gives_window_by_window(checkpoint, grid):
    stock, ours, grid = load(checkpoint), load(checkpoint), torch.tensor(grid)
    batch_windows(ours)
    features = ours.visual.patch_embed.proj.weight[0].numel()
    pixels = torch.randn(int(grid.prod(1).sum()), features, generator=torch.manual_seed(0))
    with torch.inference_mode():
        expected = stock.visual(pixels, grid_thw=grid).pooler_output
        found = ours.visual(pixels, grid_thw=grid).pooler_output
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_windows_of_one_length_are_one_call(tmp_path, make_video, monkeypatch):
    calls = []

    def counting(*args, original=vision_windows._attend_equal):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(vision_windows, "_attend_equal", counting)
    folder = BUILDERS["qwen2_5_vl"](tmp_path / "model")
    options = {"min_pixels": 128 * 28**2, "max_pixels": 768 * 28**2}
    video = make_video(num_frames=48, size=(320, 240))
    segments = list(SegmentReader(video, [(0, 24), (24, 48)], 8))
    backbone = Backbone(BackboneConfig(str(folder), device="cpu", **options))
    states = backbone.states(backbone.prepare(segments, 25.0))
    # A layer within windows, 4 x 4, 4 x 2, 2 x 4 and 2 x 2 tokens large; one across the frame.
    assert [count for count, *_ in calls] == [8, 8 * (2 + 3), 8 * 6, 8]
    stock = Backbone(BackboneConfig(str(folder), device="cpu", **options))
    stock._model.set_attn_implementation({"vision_config": "sdpa"})
    expected = stock.states(stock.prepare(segments, 25.0))
    assert len(calls) == 4
    np.testing.assert_allclose(states, expected, rtol=0, atol=1e-5)
    provenance = backbone.describe().provenance
    assert provenance == stock.describe().provenance
    assert provenance["model"]["attention"] == "sdpa"


def test_other_attention_and_other_models_stay_as_they_are(checkpoint, tmp_path):
    eager = load(checkpoint, "eager")
    batch_windows(eager)
    assert eager.config.vision_config._attn_implementation == "eager"
    other = load(BUILDERS["internvl"](tmp_path / "model"))
    batch_windows(other)
    assert NAME not in (
        other.config._attn_implementation,
        other.config.vision_config._attn_implementation,
    )


def test_it_trains_as_windows_one_by_one_do():
    batch = TrainingBatches(new_processor(), 1, seed=0)[0]
    gradients = []
    for is_ours in (False, True):
        model = AutoModelForImageTextToText.from_pretrained(TRAINED_MODEL, dtype=torch.float32)
        if is_ours:
            batch_windows(model)
        visual = model.model.visual
        visual(batch["pixel_values_videos"], batch["video_grid_thw"]).pooler_output.sum().backward()
        gradients.append(visual.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
