"""Train the demo's model: ``make demo-model``, or ``python -m hiprobe.demo.train OUT``.

A Qwen2.5-VL of 2.7 M parameters learns to answer open prompts about generated clips with
one-line captions, who does what, and where; and by yes or no whether something is done. Nothing
tells it what is abnormal, two kinds of anomaly never occur, and no clip of the demo does.

Beside the caption loss, a linear head, thrown away afterwards, tells from the vision tokens where
people, cars and flames are; the first steps train the vision tower on that alone. Without it the
captions are learned several times slower.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers.utils.logging import disable_progress_bar

from hiprobe.demo.model import TRAINED_MODEL, new_model, new_processor
from hiprobe.demo.training_data import (
    CELLS,
    CLIPS_PER_BATCH,
    FIRST_TRAINING_SEED,
    HELD_OUT_EVENTS,
    SEGMENTS_PER_CLIP,
    TRAINED_EVENTS,
    TrainingBatches,
)
from hiprobe.extract.vision_windows import batch_windows

NUM_STEPS = 2200
WARM_UP_STEPS = 80
# Steps on the foreground alone, before the captions.
VISION_STEPS = 300
PEAK_LEARNING_RATE = 2e-3
WEIGHTS = {"caption": 1.0, "foreground": 0.3}
# Every so many steps the losses are kept in training.json.
RECORDED_STEPS = 50

# Is told, after each step, its number from 0 and its losses.
OnStep = Callable[[int, dict[str, float]], None]


def train(
    out: Path,
    num_steps: int = NUM_STEPS,
    seed: int = 0,
    on_step: OnStep = lambda step, losses: None,
) -> None:
    """Train the model and write it, in 16 bit, with its processor and ``training.json``.

    Parameters
    ----------
    out : Path
        Loadable afterwards with ``AutoModelForImageTextToText.from_pretrained(out)``.
    num_steps : int
        Of 32 segments.
    seed : int
        Of the initial weights and of the clips.
    on_step : callable
        Called after each step with its number, from 0, and its losses by name.
    """
    started = time.monotonic()
    disable_progress_bar()
    processor = new_processor()
    model = new_model(processor.tokenizer, seed).train()
    batch_windows(model)
    torch.manual_seed(seed)
    head = torch.nn.Linear(model.config.vision_config.out_hidden_size, 2 * CELLS * CELLS)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _learning_rate(num_steps))
    history = []
    # One process draws and encodes the clips of the next steps while this one trains.
    batches = TrainingBatches(processor, num_steps, seed)
    loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8)
    for step, batch in enumerate(loader):
        losses = _losses(model, head, batch, with_caption=step >= VISION_STEPS)
        optimizer.zero_grad(set_to_none=True)
        torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        values = {name: round(loss.item(), 4) for name, loss in losses.items()}
        if _is_recorded(step, num_steps):
            history.append({"step": step} | values)
        on_step(step, values)
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    record = _record(model, num_steps, seed, time.monotonic() - started)
    # Written last: a folder that has it holds a whole model.
    (out / "training.json").write_text(json.dumps(record | {"history": history}, indent=1) + "\n")


def _losses(
    model: Any, head: torch.nn.Linear, batch: dict[str, torch.Tensor], with_caption: bool
) -> dict[str, torch.Tensor]:
    """Loss of captions and answers (once they have begun) and foreground loss of one batch."""
    # The whole model does not give its vision tokens away, so they are caught on their way.
    vision_tokens = []
    hook = model.model.visual.register_forward_hook(
        lambda module, args, output: vision_tokens.append(output.pooler_output)
    )
    inputs = dict(batch)
    target = inputs.pop("foreground")
    losses = {}
    if with_caption:
        losses["caption"] = model(**inputs, use_cache=False).loss
    else:
        model.model.visual(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"])
    hook.remove()
    logits = head(vision_tokens[0])
    losses["foreground"] = functional.binary_cross_entropy_with_logits(logits, target)
    return losses


def _learning_rate(num_steps: int) -> Any:
    """Linear warm-up, then a cosine to 2 % of the peak."""

    def share_of_peak(step: int) -> float:
        if step < WARM_UP_STEPS:
            return (step + 1) / WARM_UP_STEPS
        done = (step - WARM_UP_STEPS) / max(1, num_steps - WARM_UP_STEPS)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))

    return share_of_peak


def _is_recorded(step: int, num_steps: int) -> bool:
    return step % RECORDED_STEPS == 0 or step == num_steps - 1


def _record(model: Any, num_steps: int, seed: int, seconds: float) -> dict[str, Any]:
    """Tell how the model came to be, and what it has never seen."""
    return {
        "num_parameters": model.num_parameters(),
        "num_steps": num_steps,
        "batch_size": CLIPS_PER_BATCH * SEGMENTS_PER_CLIP,
        "seed": seed,
        "first_clip_seed": FIRST_TRAINING_SEED + seed * 100_000,
        "trained_events": TRAINED_EVENTS,
        "held_out_events": HELD_OUT_EVENTS,
        "seconds": round(seconds),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("hiprobe", "torch", "transformers")},
    }


def main() -> None:
    """Parse the command line, train, and print losses as plain lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=TRAINED_MODEL)
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()

    def tell(step: int, losses: dict[str, float]) -> None:
        if _is_recorded(step, arguments.steps):
            said = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
            seconds = time.monotonic() - started
            print(f"step {step} of {arguments.steps}  {said}  {seconds:.0f} s", flush=True)

    train(arguments.out, arguments.steps, arguments.seed, tell)


if __name__ == "__main__":
    main()
