"""The embedded model: that it loads, gives known states, and has learned what it says it has."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from hiprobe.demo import train as train_module
from hiprobe.demo.captions import STYLES, caption, seen_events, verb
from hiprobe.demo.clips import ANOMALOUS_EVENTS, Renderer, plan_clips
from hiprobe.demo.model import TRAINED_MODEL, new_processor
from hiprobe.demo.questions import NO, YES, draw_question, seen_actions
from hiprobe.demo.training_data import (
    CLIPS_PER_BATCH,
    FIRST_TRAINING_SEED,
    HELD_OUT_EVENTS,
    SEGMENTS_PER_CLIP,
    TRAINED_EVENTS,
    TrainingBatches,
    draw_sample,
    draw_samples,
)
from hiprobe.extract.backbone import (
    DEFAULT_PROMPT,
    Backbone,
    BackboneConfig,
    chat_text,
    process_segments,
)
from hiprobe.extract.segments import NUM_KEYFRAMES, SEGMENT_FRAMES, keyframe_indices
from hiprobe.extract.video import Segment

GOLDEN = Path(__file__).parent / "golden/demo_model_states.npz"


def _seen(sample):
    return seen_actions(sample.clip, sample.segment.start_frame, sample.segment.stop_frame)


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(TRAINED_MODEL, dtype=torch.float32).eval()


def test_the_folder_is_small_and_loads_as_the_real_class(model):
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert 1e6 <= model.num_parameters() <= 4e6
    assert len(model.model.language_model.layers) >= 8
    assert sum(path.stat().st_size for path in TRAINED_MODEL.iterdir()) < 8e6
    weights = json.loads((TRAINED_MODEL / "config.json").read_text())
    assert weights["dtype"] == "float16"


def test_a_known_segment_gives_the_golden_states():
    golden = np.load(GOLDEN)
    frames = keyframe_indices(0, SEGMENT_FRAMES, NUM_KEYFRAMES)
    segment = Segment(0, 0, SEGMENT_FRAMES, tuple(frames), golden["keyframes"])
    backbone = Backbone(BackboneConfig(str(TRAINED_MODEL), dtype="float32", device="cpu"))
    states = backbone.states(backbone.prepare([segment], float(golden["fps"])))[:, 0]
    assert states.shape == golden["states"].shape
    # Other processors and library versions round differently, and layers add that up.
    error = np.linalg.norm(states - golden["states"], axis=1)
    assert (error <= 2e-3 * np.linalg.norm(golden["states"], axis=1)).all()


@pytest.mark.slow
def test_it_says_what_happens_in_unseen_clips(model):
    processor = AutoProcessor.from_pretrained(TRAINED_MODEL)
    clips = plan_clips(40, seed=3, kinds=TRAINED_EVENTS)
    samples = [
        draw_sample(
            clip, Renderer(clip), clip.annotations[0][0] if clip.annotations else 40, "verb"
        )
        for clip in clips
    ]
    inputs = process_segments(
        processor,
        [chat_text(processor, DEFAULT_PROMPT)] * len(samples),
        [sample.segment for sample in samples],
        [sample.clip.fps for sample in samples],
    )
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    answers = processor.batch_decode(
        tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    right = []
    for sample, answer in zip(samples, answers, strict=True):
        start, stop = sample.segment.start_frame, sample.segment.stop_frame
        events = seen_events(sample.clip, start, stop)
        right.append((verb(events[0]) if events else "nobody") in answer.lower())
    assert np.mean(right) > 0.7


@pytest.mark.slow
def test_it_answers_by_yes_or_no_as_one_token(model):
    processor = AutoProcessor.from_pretrained(TRAINED_MODEL)
    rows = [processor.tokenizer.convert_tokens_to_ids(word) for word in (YES, NO)]
    rng = np.random.default_rng(0)
    clips = plan_clips(64, seed=5, kinds=TRAINED_EVENTS)
    samples = [
        draw_sample(
            clip, Renderer(clip), clip.annotations[0][0] if clip.annotations else 40, "verb"
        )
        for clip in clips
    ]
    asked = [draw_question(_seen(sample), rng) for sample in samples]
    inputs = process_segments(
        processor,
        [chat_text(processor, question) for question, _ in asked],
        [sample.segment for sample in samples],
        [sample.clip.fps for sample in samples],
    )
    with torch.inference_mode():
        logits = model(**inputs).logits[:, -1]
    # Nothing but the two is ever likely, and mostly the right one is.
    assert set(logits.argmax(dim=1).tolist()) <= set(rows)
    says_yes = (logits[:, rows[0]] > logits[:, rows[1]]).numpy()
    assert np.mean(says_yes == [answer == YES for _, answer in asked]) > 0.7


def test_held_out_events_and_evaluation_clips_are_never_trained_on():
    assert set(TRAINED_EVENTS) | set(HELD_OUT_EVENTS) == set(ANOMALOUS_EVENTS)
    assert not set(TRAINED_EVENTS) & set(HELD_OUT_EVENTS)
    assert len(HELD_OUT_EVENTS) >= 2
    evaluation = {clip.seed for seed in range(10) for clip in plan_clips(60, seed)}
    for index in range(5):
        clips = plan_clips(CLIPS_PER_BATCH, FIRST_TRAINING_SEED + index, TRAINED_EVENTS)
        assert not {clip.seed for clip in clips} & evaluation
        samples = list(draw_samples(clips, np.random.default_rng(0)))
        texts = [sample.text for sample in samples]
        texts += [draw_question(_seen(sample), np.random.default_rng(1))[0] for sample in samples]
        assert len(samples) == CLIPS_PER_BATCH * SEGMENTS_PER_CLIP
        assert not any("crowd" in text or "pavement" in text for text in texts)
    record = json.loads((TRAINED_MODEL / "training.json").read_text())
    assert record["held_out_events"] == list(HELD_OUT_EVENTS)
    assert record["first_clip_seed"] >= FIRST_TRAINING_SEED


def test_captions_tell_who_does_what_and_where():
    for clip in plan_clips(20, seed=4):
        for event in clip.events:
            start, stop = event.start_frame, event.stop_frame
            told = caption(clip, start, stop)
            assert told[0].isupper()
            assert told.endswith(".")
            assert "\n" not in told
            if event.is_anomalous:
                assert verb(event) in told.lower()
                assert seen_events(clip, start, stop)[0] == event
    empty = next(c for c in plan_clips(40) if any(e.kind == "empty" for e in c.events))
    event = next(e for e in empty.events if e.kind == "empty")
    styles = {caption(clip, 0, clip.num_frames, style) for style in STYLES}
    assert len(styles) == 3
    middle = (event.start_frame + event.stop_frame) // 2
    assert caption(empty, middle, middle + 1) == "Nobody is on the street."


def test_a_training_batch_follows_from_its_index():
    processor = new_processor()
    batch, again = (TrainingBatches(processor, 2, seed=5)[1] for _ in range(2))
    for name, value in batch.items():
        torch.testing.assert_close(value, again[name], rtol=0, atol=0)
    rows = CLIPS_PER_BATCH * SEGMENTS_PER_CLIP
    assert batch["labels"].shape == batch["input_ids"].shape
    for row in range(rows):
        told = batch["labels"][row][batch["labels"][row] >= 0]
        text = processor.tokenizer.decode(told)
        assert text.endswith(".<|endoftext|>") or text.startswith((YES, NO)), text
        assert text[0].isupper()
    assert batch["foreground"].shape == (rows * 24, 32)
    assert 0 < batch["foreground"].mean() < 0.3
    with pytest.raises(IndexError):
        TrainingBatches(processor, 2, seed=5)[2]


@pytest.mark.slow
def test_training_learns_and_writes_a_model_that_extract_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "VISION_STEPS", 4)
    monkeypatch.setattr(train_module, "WARM_UP_STEPS", 4)
    steps = []
    train_module.train(
        tmp_path / "model", num_steps=12, seed=7, on_step=lambda step, losses: steps.append(step)
    )
    assert steps == list(range(12))
    record = json.loads((tmp_path / "model/training.json").read_text())
    first, last = record["history"][0], record["history"][-1]
    assert last["foreground"] < 0.8 * first["foreground"]
    assert last["caption"] < 6.0  # log of the vocabulary's size is 6.2
    backbone = Backbone(BackboneConfig(str(tmp_path / "model")))
    assert backbone.layers == tuple(range(11))
