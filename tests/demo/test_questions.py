"""Questions about generated clips: that their answers are true, and as often yes as no."""

import numpy as np

from hiprobe.demo.clips import plan_clips
from hiprobe.demo.model import new_processor
from hiprobe.demo.questions import (
    ACTIONS,
    INCIDENTS,
    NO,
    YES,
    draw_question,
    question,
    seen_actions,
)
from hiprobe.demo.training_data import TRAINED_EVENTS


def test_answers_are_true_and_balanced():
    rng, answers = np.random.default_rng(0), []
    for clip in plan_clips(60, seed=6, kinds=TRAINED_EVENTS):
        for event in clip.events:
            seen = seen_actions(clip, event.start_frame, event.stop_frame)
            if event.kind in ACTIONS and event.is_anomalous:
                assert ACTIONS[event.kind] in seen
            for _ in range(5):
                asked, answer = draw_question(seen, rng)
                assert (answer == YES) == any(action in asked for action in seen)
                if seen:
                    answers.append(answer)
    assert 0.4 < np.mean([answer == YES for answer in answers]) < 0.6


def test_yes_and_no_are_one_token_each_and_no_answer_tells_what_is_normal():
    tokenizer = new_processor().tokenizer
    for word in (YES, NO):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1
    asked = question(INCIDENTS)
    assert asked == (
        "Is there fighting or burning or lying on the ground in this video? Answer Yes or No."
    )
    assert not any(word in asked.lower() for word in ("normal", "anomal", "unusual"))
