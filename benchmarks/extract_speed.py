"""How fast is extraction against its own limit and against the usual ways? ``make bench-extract``.

On real UCF-Crime videos (generated clips where they are missing), with the demo's model and with a
random Qwen2.5-VL of about 100 M parameters, in one process and interleaved:

- ``ours``: `hiprobe.extract.pipeline.extract`, from the video files to a sealed store.
- ``bare_forward``: forward passes of the model as Transformers has it, without LM head and cache,
  on tensors that are ready.
- ``usual_loop``: from the video files too, one segment at a time: decode, preprocess,
  ``generate(max_new_tokens=1, output_hidden_states=True)``, ``torch.save``.
- ``full_outputs``: the same in batches, through ``output_hidden_states=True``, all tokens of all
  layers.

``qwen_vision_windows_speedup`` is the vision tower of the larger model on frames of 320 x 240
pixels: its windows one by one, as Transformers has it, over `hiprobe.extract.vision_windows`.

``top_layer_one_token_speedup`` is the same model's forward pass with all positions in the highest
wanted layer over that with one, for all layers; ``early_exit_…`` for layers up to a quarter.

``all_taps_over_one`` is the same model's pass with all four taps over that with ``hidden_states``
alone; ``four_prompts_over_one`` with four prompts over that with one, on frames as large as they
are (320 x 240 in UCF-Crime).

``cluster_over_single_process`` is a cluster's one worker over this process, on 200 clips of two
segments, with the demo's model; both have loaded it.

The ratios are medians over rounds. Peak memory is that of child processes which extract a
short and an hour-long video.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import torch
from in_turns import seconds_in_turns
from memory import peak_bytes
from transformers import AutoModel, AutoModelForImageTextToText, Qwen2_5_VLConfig

from hiprobe.demo.clips import plan_clips, write_clips
from hiprobe.demo.model import TRAINED_MODEL, VOCABULARY, new_model, new_processor
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.cluster import Cluster
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.pipeline import extract
from hiprobe.extract.segments import NUM_KEYFRAMES, SEGMENT_FRAMES, segment_ranges
from hiprobe.extract.video import SegmentReader, inspect_video
from hiprobe.extract.vision_windows import batch_windows
from hiprobe.extract.workplace import Here, Workplace
from hiprobe.store import VideoRecord, write_manifest
from hiprobe.store.taps import TAPS

BATCH_SIZE = 8
ROUNDS = 3
MAX_SEGMENTS = 72
# Of words that the demo's tokenizer has: elsewhere it spells. Some 10 tokens each, as with Qwen's.
PROMPTS = (
    "Is a person lying on the ground in this video?",
    "Is a car burning on the road in this video?",
    "Is a crowd running on the street in this video?",
    "Describe two people fighting in this video.",
)
QWEN_PIXELS = (128 * 28**2, 768 * 28**2)
NUM_SHORT_CLIPS, SHORT_FRAMES = 200, 2 * SEGMENT_FRAMES
REAL_VIDEOS = ("Burglary033_x264.mp4", "Explosion021_x264.mp4", "Normal_Videos_641_x264.mp4")
LARGE_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 640,
    "intermediate_size": 2240,
    "num_hidden_layers": 16,
    "num_attention_heads": 10,
    "num_key_value_heads": 5,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 8, 8]},
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
LARGE_VISION = {
    "depth": 8,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_heads": 6,
    "out_hidden_size": 640,
    "fullatt_block_indexes": [3, 7],
}


def build_large_model(folder: Path, pixels: tuple[int, int] = (112 * 112, 168 * 168)) -> Path:
    """Write a random Qwen2.5-VL of about 100 M parameters that sees frames of so many pixels."""
    processor = new_processor()
    for part in (processor.image_processor, processor.video_processor):
        part.size = {"shortest_edge": pixels[0], "longest_edge": pixels[1]}
    config = Qwen2_5_VLConfig.from_dict(
        new_model(processor.tokenizer, 0).config.to_dict()
        | {"text_config": LARGE_TEXT}
        | {"vision_config": LARGE_VISION}
    )
    model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


class Footage:
    """Some real videos, cut to a number of segments in all."""

    def __init__(self, folder: Path) -> None:
        shared = Path(os.environ.get("HIPROBE_SHARED_DATA", "../shared/data"))
        paths = [shared / "videos/ucf_crime_test" / name for name in REAL_VIDEOS]
        self.is_real = all(path.exists() for path in paths)
        if not self.is_real:
            write_clips(plan_clips(4, seed=3), folder / "videos")
            paths = sorted((folder / "videos").rglob("*.mp4"))
        num_frames = MAX_SEGMENTS * SEGMENT_FRAMES // len(paths)
        self.paths = [_cut(path, folder / path.name, num_frames) for path in paths]
        self.infos = [inspect_video(path) for path in self.paths]
        self.num_segments = sum(-(-info.num_frames // SEGMENT_FRAMES) for info in self.infos)
        self.manifest = folder / "manifest.csv"
        records = [VideoRecord(p.stem, str(p), "test", "anomalous") for p in self.paths]
        write_manifest(self.manifest, records)

    def inputs(self, backbone: Backbone, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        """Decode and prepare what the model is to see, batch by batch, in this thread."""
        for path, info in zip(self.paths, self.infos, strict=True):
            ranges = segment_ranges(info.num_frames, SEGMENT_FRAMES)
            segments = iter(SegmentReader(path, ranges, NUM_KEYFRAMES))
            while batch := list(islice(segments, batch_size)):
                yield backbone.prepare(batch, info.fps)


def _cut(path: Path, out: Path, num_frames: int) -> Path:
    """Copy the first packets of a video, one a frame."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for count, packet in enumerate(source.demux(source.streams.video[0])):
            if count >= num_frames or packet.dts is None:
                break
            packet.stream = stream
            target.mux(packet)
    return out


def time_ways(model: Path, footage: Footage, folder: Path) -> dict[str, list[float]]:
    """Seconds of each way, one a round."""
    backbone = Backbone(BackboneConfig(str(model), device="cpu"))
    whole = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    bare = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    ready = list(footage.inputs(backbone, BATCH_SIZE))
    states = folder / "states"

    def ours() -> None:
        shutil.rmtree(folder / "store.zarr", ignore_errors=True)
        config = ExtractConfig(footage.manifest, folder / "store.zarr", backbone.config,
                               batch_size=BATCH_SIZE, parity=0)  # fmt: skip
        # The model is loaded already in the other ways: its loading is not timed here either.
        extract(config, workplace=Here(config, backbone))

    @torch.inference_mode()
    def bare_forward() -> None:
        for inputs in ready:
            bare(**inputs, use_cache=False)

    @torch.inference_mode()
    def usual_loop() -> None:
        states.mkdir(exist_ok=True)
        for number, inputs in enumerate(footage.inputs(backbone, 1)):
            output = whole.generate(
                **inputs, max_new_tokens=1, do_sample=False, output_hidden_states=True,
                return_dict_in_generate=True,
            )  # fmt: skip
            first = torch.stack([state[:, -1] for state in output.hidden_states[0]])
            torch.save(first, states / f"{number}.pt")

    @torch.inference_mode()
    def full_outputs() -> None:
        states.mkdir(exist_ok=True)
        for number, inputs in enumerate(footage.inputs(backbone, BATCH_SIZE)):
            output = whole(**inputs, output_hidden_states=True)
            first = torch.stack([state[:, -1] for state in output.hidden_states])
            torch.save(first, states / f"batch-{number}.pt")

    ways = (ours, bare_forward, usual_loop, full_outputs)
    return seconds_in_turns({way.__name__: way for way in ways}, ROUNDS)


@torch.inference_mode()
def windows_speedup(model: Path) -> float:
    """Vision tower's seconds, stock over ours, for two segments; the first round warms up."""
    stock, ours = (AutoModel.from_pretrained(model, dtype=torch.float32).eval() for _ in range(2))
    batch_windows(ours)
    # A frame of 320 x 240 pixels becomes 20 x 28 patches; 8 of them, four pairs.
    grid = torch.tensor([[NUM_KEYFRAMES // 2, 20, 28]] * 2)
    pixels = torch.randn(
        int(grid.prod(1).sum()), stock.visual.patch_embed.proj.weight[0].numel(),
        generator=torch.manual_seed(0),
    )  # fmt: skip
    return _ratio(
        partial(stock.visual, pixels, grid_thw=grid),
        partial(ours.visual, pixels, grid_thw=grid),
        ROUNDS,
    )


def top_layer_speedup(model: Path, footage: Footage, layers: tuple[int, ...] | None) -> float:
    """Seconds of forward passes without `cut_top_block`, over those with it."""
    config = BackboneConfig(str(model), layers=layers, device="cpu")
    cut = Backbone(config)
    with mock.patch("hiprobe.extract.forward_pass.cut_top_block"):
        uncut = Backbone(config)
    ready = list(islice(footage.inputs(cut, BATCH_SIZE), 2))

    def run(backbone: Backbone) -> None:
        for inputs in ready:
            backbone.states(inputs)

    return _ratio(partial(run, uncut), partial(run, cut), 2 * ROUNDS)


def further_over_one(model: Path, footage: Footage, **further: Any) -> float:
    """Seconds of forward passes that give more than ``hidden_states``, over those that do not."""
    config = BackboneConfig(str(model), prompt=PROMPTS[0], device="cpu")
    plain, more = Backbone(config), Backbone(replace(config, **further))
    ready = list(islice(footage.inputs(plain, BATCH_SIZE), 2))

    def run(backbone: Backbone) -> None:
        for inputs in ready:
            backbone.all_states(inputs)

    return _ratio(partial(run, more), partial(run, plain), 2 * ROUNDS)


def cluster_over_single(folder: Path) -> float:
    """Seconds of one worker of a cluster over those of this process, on many short clips."""
    folder.mkdir()
    write_clips(plan_clips(8, seed=4), folder / "whole")
    whole = sorted((folder / "whole").rglob("*.mp4"))
    clips = [
        _cut(whole[number % len(whole)], folder / f"{number}.mp4", SHORT_FRAMES)
        for number in range(NUM_SHORT_CLIPS)
    ]
    manifest, store = folder / "manifest.csv", folder / "store.zarr"
    write_manifest(manifest, [VideoRecord(p.stem, str(p), "test", "normal") for p in clips])
    config = ExtractConfig(
        manifest, store, BackboneConfig(str(TRAINED_MODEL), device="cpu"),
        batch_size=BATCH_SIZE, num_workers=1, parity=0,
    )  # fmt: skip

    def run(workplace: Workplace) -> None:
        shutil.rmtree(store, ignore_errors=True)
        assert extract(config, workplace=workplace).num_done == NUM_SHORT_CLIPS

    with closing(Cluster(config)) as cluster:
        return _ratio(partial(run, cluster), partial(run, Here(config)), ROUNDS)


def _ratio(first: Callable[[], object], second: Callable[[], object], rounds: int) -> float:
    """Median seconds of the first way over those of the second."""
    seconds = seconds_in_turns({"first": first, "second": second}, rounds)
    return statistics.median(seconds["first"]) / statistics.median(seconds["second"])


def peak_memory(num_frames: int, folder: Path) -> int:
    """Peak resident bytes of a process that extracts one video of so many frames."""
    video = folder / f"{num_frames}-frames.mp4"
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, index, axis=1))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    manifest = folder / f"{num_frames}.csv"
    write_manifest(manifest, [VideoRecord("video", str(video), "test", "normal")])
    arguments = [__file__, "--child", str(manifest), str(folder / f"{num_frames}.zarr")]
    output = subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True
    )
    return int(output.stdout.split()[-1])


def child(manifest: str, store: str) -> None:
    """Extract, and print this process's peak resident bytes."""
    config = BackboneConfig(str(TRAINED_MODEL), device="cpu")
    extract(ExtractConfig(Path(manifest), Path(store), config, batch_size=BATCH_SIZE, parity=0))
    print(peak_bytes())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2)
    parser.add_argument("--long-seconds", type=int, default=3600)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    ratios: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        footage = Footage(folder)
        kind = "UCF-Crime" if footage.is_real else "generated clips"
        print(f"footage: {footage.num_segments} segments of {kind}")
        large = build_large_model(folder / "large")
        for label, model in (("", large), ("tiny_", TRAINED_MODEL)):
            seconds = time_ways(model, footage, folder)
            median = {way: statistics.median(values) for way, values in seconds.items()}
            print(f"{model.name}:", {way: f"{value:.2f} s" for way, value in median.items()})
            ratios[f"{label}ours_over_bare_forward"] = median["ours"] / median["bare_forward"]
            ratios[f"{label}usual_loop_over_ours"] = median["usual_loop"] / median["ours"]
            ratios[f"{label}full_outputs_over_ours"] = median["full_outputs"] / median["ours"]
        ratios["qwen_vision_windows_speedup"] = windows_speedup(large)
        ratios["top_layer_one_token_speedup"] = top_layer_speedup(large, footage, None)
        early = tuple(range(LARGE_TEXT["num_hidden_layers"] // 4 + 1))
        ratios["early_exit_top_layer_one_token_speedup"] = top_layer_speedup(large, footage, early)
        ratios["all_taps_over_one"] = further_over_one(large, footage, taps=TAPS[1:])
        further = tuple((f"prompt-{number}", text) for number, text in enumerate(PROMPTS[1:]))
        whole_frames = build_large_model(folder / "whole-frames", QWEN_PIXELS)
        ratios["four_prompts_over_one"] = further_over_one(
            whole_frames, footage, further_prompts=further
        )
        ratios["cluster_over_single_process"] = cluster_over_single(folder / "clips")
        short, long = peak_memory(30 * 60, folder), peak_memory(30 * arguments.long_seconds, folder)
        print(
            f"peak memory: {short / 1e6:.0f} MB for a minute, {long / 1e6:.0f} MB for the long one"
        )
        ratios["peak_memory_long_over_short_video"] = long / short
    out = Path("benchmarks/out/extract.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    rounded = {name: round(value, 3) for name, value in ratios.items()}
    out.write_text(json.dumps(rounded, indent=1) + "\n")
    print(json.dumps(rounded, indent=1))


if __name__ == "__main__":
    main()
