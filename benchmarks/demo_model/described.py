"""What the trained model says about segments of unseen clips, beside what is truly in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from hiprobe.demo.captions import NOTHING, STYLES, caption, seen_events, verb
from hiprobe.demo.clips import ANOMALOUS_EVENTS, Renderer, plan_clips
from hiprobe.demo.training_data import Sample, draw_sample
from hiprobe.extract.backbone import DEFAULT_PROMPT, chat_text, process_segments
from hiprobe.extract.segments import SEGMENT_FRAMES

# Neither the demo's clips, nor the study's, nor any that the model was trained on.
CAPTIONS_SEED = 2
BATCH_SIZE = 32


@dataclass(frozen=True)
class Described:
    """One segment's caption and the truth.

    Attributes
    ----------
    sample : Sample
    said : str
    truths : tuple of str
        The true caption in each style.
    verb : str
        What is done in the first event that a caption tells; empty if nobody is there.
    """

    sample: Sample
    said: str
    truths: tuple[str, ...]
    verb: str

    @property
    def is_exact(self) -> bool:
        """Is the caption true word by word, in any style."""
        return self.said in self.truths

    @property
    def names_the_event(self) -> bool:
        """Does it say what is done in the main event, direction included."""
        return self.verb in self.said.lower() if self.verb else self.said == NOTHING


def describe_unseen_clips(model: Path, num_segments: int) -> list[Described]:
    """Caption one segment of each of many clips; that of an anomalous clip shows its anomaly."""
    processor = AutoProcessor.from_pretrained(model)
    network = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    text = chat_text(processor, DEFAULT_PROMPT)
    described = []
    for samples in _batches(num_segments):
        inputs = process_segments(
            processor,
            [text] * len(samples),
            [sample.segment for sample in samples],
            [sample.clip.fps for sample in samples],
        )
        with torch.inference_mode():
            tokens = network.generate(**inputs, max_new_tokens=60, do_sample=False)
        answers = processor.batch_decode(
            tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        described += [_judge(*pair) for pair in zip(samples, answers, strict=True)]
    return described


def _batches(num_segments: int) -> Iterator[list[Sample]]:
    rng = np.random.default_rng(CAPTIONS_SEED)
    clips = plan_clips(num_segments, CAPTIONS_SEED, ANOMALOUS_EVENTS)
    for first in range(0, len(clips), BATCH_SIZE):
        samples = []
        for clip in clips[first : first + BATCH_SIZE]:
            ((low, high),) = clip.annotations or ((0, clip.num_frames),)
            start = int(rng.integers(low, max(low, high - SEGMENT_FRAMES) + 1))
            samples.append(draw_sample(clip, Renderer(clip), start, "subject"))
        yield samples


def _judge(sample: Sample, said: str) -> Described:
    start, stop = sample.segment.start_frame, sample.segment.stop_frame
    events = seen_events(sample.clip, start, stop)
    truths = tuple(caption(sample.clip, start, stop, style) for style in STYLES)
    return Described(sample, said.strip(), truths, verb(events[0]) if events else "")
