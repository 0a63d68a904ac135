"""What the demo's model is trained on: segments of generated clips, with captions and answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from hiprobe.demo.captions import STYLES, caption
from hiprobe.demo.clips import Clip, Renderer, plan_clips
from hiprobe.demo.model import END_OF_TEXT, PROMPTS
from hiprobe.demo.questions import draw_question, seen_actions
from hiprobe.extract.backbone import DEFAULT_PROMPT, chat_text, process_segments
from hiprobe.extract.segments import NUM_KEYFRAMES, SEGMENT_FRAMES, keyframe_indices
from hiprobe.extract.video import Segment

TRAINED_EVENTS = ("fight", "fire", "fall")
HELD_OUT_EVENTS = ("crowd", "pavement_car")
# Clips of a lower seed are never trained on: the demo's and the benchmark's evaluation clips.
FIRST_TRAINING_SEED = 10_000
CLIPS_PER_BATCH, SEGMENTS_PER_CLIP = 8, 4
# Of the segments that answer a question by yes or no; the others are described.
QUESTION_SHARE = 0.4
# The auxiliary target: the share of foreground in the cells of each keyframe. A merged vision
# token of the model covers two keyframes and 28 x 28 pixels, so 2 x 4 x 4 cells of 7 pixels.
GRID = (2, 3)
CELLS = 4


@dataclass(frozen=True)
class Sample:
    """A segment with what is to be said about it.

    Attributes
    ----------
    clip : Clip
    segment : Segment
    text : str
        The caption.
    foreground : (keyframe, row, column) float32 in [0, 1]
        Share of people, cars and flames in each cell.
    """

    clip: Clip
    segment: Segment
    text: str
    foreground: np.ndarray


class TrainingBatches(Dataset[dict[str, torch.Tensor]]):
    """Batches of 32 segments that are never repeated; a batch follows from its index and a seed.

    Parameters
    ----------
    processor : Transformers processor
    num_batches : int
    seed : int
        Trainings with different seeds share no clip, up to 100 000 batches.
    """

    def __init__(self, processor: Any, num_batches: int, seed: int) -> None:
        self._processor, self._num_batches = processor, num_batches
        self._first_seed = FIRST_TRAINING_SEED + seed * 100_000

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Model inputs with ``labels`` (-100 outside the answer) and ``foreground``.

        ``foreground``: (32 * merged vision tokens of a segment, cell) float32.
        """
        if not 0 <= index < self._num_batches:
            raise IndexError(index)
        seed = self._first_seed + index
        rng = np.random.default_rng((seed, 1))
        samples = list(draw_samples(plan_clips(CLIPS_PER_BATCH, seed, TRAINED_EVENTS), rng))
        exchanges = [_exchange(sample, rng) for sample in samples]
        endings = [answer + END_OF_TEXT for _, answer in exchanges]
        texts = [
            chat_text(self._processor, prompt) + ending
            for (prompt, _), ending in zip(exchanges, endings, strict=True)
        ]
        batch = process_segments(
            self._processor,
            texts,
            [sample.segment for sample in samples],
            [sample.clip.fps for sample in samples],
        )
        labels = torch.full_like(batch["input_ids"], -100)
        # Padding is on the left, so an answer ends its row.
        for row, ending in enumerate(endings):
            length = len(self._processor.tokenizer(ending)["input_ids"])
            labels[row, -length:] = batch["input_ids"][row, -length:]
        return {
            **batch,
            "labels": labels,
            "foreground": torch.cat([_token_targets(sample.foreground) for sample in samples]),
        }


def _exchange(sample: Sample, rng: np.random.Generator) -> tuple[str, str]:
    """Draw a prompt and what is to be answered."""
    if rng.random() < QUESTION_SHARE:
        start, stop = sample.segment.start_frame, sample.segment.stop_frame
        return draw_question(seen_actions(sample.clip, start, stop), rng)
    # Half of them answer the default prompt.
    prompts = [*PROMPTS, *[DEFAULT_PROMPT] * (len(PROMPTS) - 2)]
    return str(rng.choice(prompts)), sample.text


def draw_samples(clips: list[Clip], rng: np.random.Generator) -> Iterator[Sample]:
    """Draw segments from clips, each with a random start and a caption of random style.

    Three of four segments of an anomalous clip show its anomaly for at least half of their frames.
    """
    for clip in clips:
        renderer = Renderer(clip)
        for number in range(SEGMENTS_PER_CLIP):
            # The first comes from anywhere; a start half a segment early still shows half of it.
            low, high = 0, clip.num_frames - SEGMENT_FRAMES
            if clip.annotations and number:
                ((start, stop),) = clip.annotations
                low = max(low, start - SEGMENT_FRAMES // 2)
                high = min(high, stop - SEGMENT_FRAMES // 2)
            start_frame = int(rng.integers(low, high + 1))
            yield draw_sample(clip, renderer, start_frame, str(rng.choice(STYLES)))


def draw_sample(clip: Clip, renderer: Renderer, start_frame: int, style: str) -> Sample:
    """Render one segment's keyframes with their caption and foreground."""
    stop_frame = start_frame + SEGMENT_FRAMES
    frames = keyframe_indices(start_frame, stop_frame, NUM_KEYFRAMES)
    foreground = [_cells(renderer.foreground(frame)) for frame in frames]
    return Sample(
        clip=clip,
        segment=Segment(
            index=0,
            start_frame=start_frame,
            stop_frame=stop_frame,
            frame_indices=tuple(frame - start_frame for frame in frames),
            keyframes=np.stack([renderer.frame(frame) for frame in frames]),
        ),
        text=caption(clip, start_frame, stop_frame, style),
        foreground=np.stack(foreground),
    )


def _cells(mask: np.ndarray) -> np.ndarray:
    """Average a mask over cells: (row, column) float32 in [0, 1]."""
    size = (GRID[1] * CELLS, GRID[0] * CELLS)
    picture = Image.fromarray(np.uint8(255 * mask)).resize(size, Image.Resampling.BOX)
    return np.asarray(picture, np.float32) / 255


def _token_targets(foreground: np.ndarray) -> torch.Tensor:
    """Sort cells by the merged vision token that sees them: (token, cell) float32."""
    cells = torch.from_numpy(foreground)
    pairs = cells.reshape(NUM_KEYFRAMES // 2, 2, GRID[0], CELLS, GRID[1], CELLS)
    return pairs.permute(0, 2, 4, 1, 3, 5).reshape(-1, 2 * CELLS * CELLS)
