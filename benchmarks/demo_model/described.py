"""What the trained model says of unseen clips, to open prompts and to questions, and the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from hiprobe.demo.captions import NOTHING, STYLES, caption, seen_events, verb
from hiprobe.demo.clips import ANOMALOUS_EVENTS, Renderer, plan_clips
from hiprobe.demo.questions import draw_question, seen_actions
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
    question, answer, true_answer : str
        One that is answered by yes or no.
    """

    sample: Sample
    said: str
    truths: tuple[str, ...]
    verb: str
    question: str
    answer: str
    true_answer: str

    @property
    def is_exact(self) -> bool:
        """Is the caption true word by word, in any style."""
        return self.said in self.truths

    @property
    def names_the_event(self) -> bool:
        """Does it say what is done in the main event, direction included."""
        return self.verb in self.said.lower() if self.verb else self.said == NOTHING


def describe_unseen_clips(model: Path, num_segments: int) -> list[Described]:
    """Describe, and ask about, one segment of each of many clips, its anomaly if it has one."""
    processor = AutoProcessor.from_pretrained(model)
    network = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()

    def answer(samples: list[Sample], prompts: list[str]) -> list[str]:
        inputs = process_segments(
            processor,
            [chat_text(processor, prompt) for prompt in prompts],
            [sample.segment for sample in samples],
            [sample.clip.fps for sample in samples],
        )
        with torch.inference_mode():
            tokens = network.generate(**inputs, max_new_tokens=60, do_sample=False)
        told = tokens[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in processor.batch_decode(told, skip_special_tokens=True)]

    rng = np.random.default_rng(CAPTIONS_SEED)
    described = []
    for samples in _batches(num_segments):
        asked = [draw_question(_seen(sample), rng) for sample in samples]
        said = answer(samples, [DEFAULT_PROMPT] * len(samples))
        answers = answer(samples, [question for question, _ in asked])
        for sample, text, (question, truth), told in zip(
            samples, said, asked, answers, strict=True
        ):
            described.append(_described(sample, text, question, told, truth))
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


def _seen(sample: Sample) -> set[str]:
    return seen_actions(sample.clip, sample.segment.start_frame, sample.segment.stop_frame)


def _described(sample: Sample, said: str, question: str, answer: str, truth: str) -> Described:
    start, stop = sample.segment.start_frame, sample.segment.stop_frame
    events = seen_events(sample.clip, start, stop)
    truths = tuple(caption(sample.clip, start, stop, style) for style in STYLES)
    told = verb(events[0]) if events else ""
    return Described(sample, said, truths, told, question, answer, truth)
