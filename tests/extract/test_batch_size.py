"""How many segments go through a GPU at once, by a meter instead of a GPU."""

from itertools import pairwise

import pytest
import torch

from hiprobe.demo.model import build_random_model
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.batch_size import BatchSize
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.pipeline import extract
from hiprobe.extract.workplace import Here
from hiprobe.store import VideoRecord, write_manifest

CARD, WEIGHTS, PER_TOKEN = 24e9, 16e9, 150e3
SMALL, LARGE = (240, 320), (1080, 1920)
# Qwen2.5-VL's, for 8 keyframes.
TOKENS = {SMALL: 440, LARGE: 3100}


class Card:
    """A GPU's memory, with a model that takes so many bytes for a token."""

    def __init__(self, total=CARD, overhead=0.0):
        self.total, self.overhead = total, overhead
        self.tokens, self.largest = 0, 0

    def start(self):
        return int(WEIGHTS)

    def peak(self):
        return int(self.needed())

    def limit(self):
        return 0.9 * self.total

    def needed(self):
        return WEIGHTS + self.overhead + PER_TOKEN * self.tokens

    def passes(self, batch_size, frame_size):
        """Read, and run, a batch of what is asked for; return its size."""
        num_segments = batch_size.segments_for(frame_size)
        self.tokens = num_segments * TOKENS[frame_size]
        inputs = {"input_ids": torch.zeros(num_segments, TOKENS[frame_size])}
        batch_size.learn(frame_size, inputs, num_segments)
        batch_size.begins()
        if self.needed() > self.total:
            batch_size.failed(self.tokens)
        else:
            batch_size.succeeded(self.tokens)
        return num_segments


@pytest.fixture
def gpu():
    return torch.device("cuda")


@pytest.mark.parametrize("overhead", [0.0, 1e9])
def test_a_24_gb_card_with_16_gb_of_weights_grows_beyond_8(gpu, overhead):
    card = Card(overhead=overhead)
    batch_size = BatchSize(None, gpu, card)
    sizes = [card.passes(batch_size, SMALL) for _ in range(12)]
    assert sizes[0] == 8
    assert sizes == sorted(sizes)
    assert all(after <= 2 * before for before, after in pairwise(sizes))
    assert sizes[-1] == 64
    assert card.needed() < 0.9 * CARD


def test_a_batch_grows_until_the_memory_is_used(gpu):
    card = Card(total=20e9)
    batch_size = BatchSize(None, gpu, card)
    for _ in range(12):
        size = card.passes(batch_size, SMALL)
    assert 8 < size < 64
    assert 0.97 * 0.9 * 20e9 < card.needed() <= 0.9 * 20e9


def test_a_large_video_in_between_does_not_lower_the_batch_of_small_ones(gpu):
    card = Card()
    batch_size = BatchSize(None, gpu, card)
    sizes = [card.passes(batch_size, size) for size in (*[SMALL] * 4, *[LARGE] * 3, SMALL)]
    assert sizes[3] == sizes[-1] == 64
    first, second, third = sizes[4:7]
    assert first <= 8  # guessed by its pixels
    assert second == third == int(0.9 * CARD - WEIGHTS) // int(PER_TOKEN) // TOKENS[LARGE]


def test_tokens_that_did_not_fit_are_not_tried_again(gpu):
    card = Card(total=19.5e9)
    batch_size = BatchSize(None, gpu, card)
    assert [card.passes(batch_size, LARGE) for _ in range(3)] == [8, 4, 3]
    # The same tokens are more segments of a smaller size.
    for _ in range(5):
        assert 3 < card.passes(batch_size, SMALL) <= 8 * TOKENS[LARGE] / 2 / TOKENS[SMALL]


def test_a_size_that_was_asked_for_stays(gpu):
    card = Card()
    batch_size = BatchSize(16, gpu, card)
    assert [card.passes(batch_size, size) for size in (SMALL, LARGE, SMALL)] == [16, 16, 16]
    assert [Card().passes(BatchSize(None, torch.device("cpu")), SMALL)] == [8]


def test_a_run_fills_the_card(tmp_path, make_video, monkeypatch):
    """With a real model, whose tokens are counted, and clips around a larger video."""
    sizes = {"a": (96, 64), "large": (192, 128), "b": (96, 64)}
    records = [
        VideoRecord(name, str(make_video(f"{name}.mp4", 24 * 60, size)), "train", "normal")
        for name, size in sizes.items()
    ]
    write_manifest(tmp_path / "m.csv", records)
    backbone = BackboneConfig(str(build_random_model(tmp_path / "model")), device="cpu")
    job = ExtractConfig(tmp_path / "m.csv", tmp_path / "s.zarr", backbone, num_readers=1, parity=0)
    card, seen = Card(), []

    class Watched(Backbone):
        def launch(self, inputs):
            card.tokens = inputs["input_ids"].numel()
            seen.append(tuple(inputs["input_ids"].shape))
            return super().launch(inputs)

    monkeypatch.setattr(
        "hiprobe.extract.workplace.BatchSize",
        lambda size, device: BatchSize(size, torch.device("cuda"), card),
    )
    assert extract(job, workplace=Here(job, Watched(backbone))).num_done == 3
    counts = [count for count, _ in seen]
    assert counts[0] == 8
    assert max(counts) > 16
    assert sum(counts) == 180
