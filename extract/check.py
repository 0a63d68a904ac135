"""Does this model, on this machine, give the right numbers, and how fast: ``hiprobe check``.

What could not be tried where hiprobe is made, a published checkpoint on a GPU, is tried where it is
to run, in minutes, before days of extraction.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.check_inputs import Sample, readable, take_samples
from hiprobe.extract.check_numbers import (
    FAILED,
    SKIPPED,
    Agreement,
    Finding,
    count_non_finite,
    finite_finding,
    sentencepiece_finding,
    states_of,
)
from hiprobe.extract.check_projection import ManifestShares, project, time_sizes
from hiprobe.extract.check_report import CheckReport
from hiprobe.extract.check_speed import kernels, machine
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.generation import Describer
from hiprobe.extract.loading import resolve_device
from hiprobe.extract.segments import NUM_KEYFRAMES, SEGMENT_FRAMES
from hiprobe.store.provenance import ModelRecord
from hiprobe.store.state_distances import tolerance_of

OnStep = Callable[[str], None]
BATCH_SIZES = (1, 2, 4, 8, 16)
DESCRIPTION_TOKENS = 64
NUM_PRECISION_SEGMENTS = 4
# Where a CPU computes an 8 B model in float32: a minute or more for each.
NUM_PRECISION_SEGMENTS_ON_CPU = 2
# Beside float32 weights: activations, and what the system needs.
ROOM = 1.3


@dataclass(frozen=True)
class CheckConfig:
    """What to check.

    Attributes
    ----------
    backbone : BackboneConfig
    videos : tuple of Path
        Segments are taken of these; none: of made-up patterns.
    manifest : Path or None
        Say how long its videos will take.
    segment_frames : int or None
    keyframes : int
    num_segments : int
        Of each video.
    batch_sizes : tuple of int
    precision : bool
        Compare with the same model in another precision: it is loaded once more.
    """

    backbone: BackboneConfig
    videos: tuple[Path, ...] = ()
    manifest: Path | None = None
    segment_frames: int | None = SEGMENT_FRAMES
    keyframes: int = NUM_KEYFRAMES
    num_segments: int = 4
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    precision: bool = True


def check(config: CheckConfig, on_step: OnStep = lambda text: None) -> CheckReport:
    """Check a model on this machine.

    Parameters
    ----------
    config : CheckConfig
    on_step : callable
        Called with what is done next.

    Raises
    ------
    ManifestError, ModelError, VideoError
        The model cannot be loaded, or a video or the manifest cannot be read. What the checks
        themselves find is in the report.
    """
    started = time.monotonic()
    shares = None
    if config.manifest is not None:
        on_step("opening the manifest's videos")
        shares = ManifestShares.of(config.manifest, config.segment_frames)
    samples = take_samples(
        config.videos, config.segment_frames, config.keyframes, config.num_segments
    )
    report = CheckReport(machine(resolve_device(config.backbone.device)))
    on_step(f"loading the model as extract does, on {report.machine['name']}")
    backbone = Backbone(config.backbone)
    own = _examine(backbone, config, samples, report, on_step)
    _measure(backbone, config, samples, shares, report, on_step)
    layers = backbone.layers
    del backbone
    _let_go()
    _ask_generate(config, samples, layers, own, report, on_step)
    if own is not None and config.precision:
        on_step("the same in another precision")
        with report.step("float32 and the model's dtype agree"):
            _compare_precision(config, samples, own, report)
        _let_go()
    report.seconds = time.monotonic() - started
    return report


def _let_go() -> None:
    gc.collect()
    # After an error of CUDA this fails too, and the report is still to be written.
    with suppress(RuntimeError):
        torch.cuda.empty_cache()


def _examine(
    backbone: Backbone,
    config: CheckConfig,
    samples: Sequence[Sample],
    report: CheckReport,
    on_step: OnStep,
) -> np.ndarray | None:
    """What the model reads and what comes out as `extract` runs it: each segment's states alone."""
    report.model |= backbone.describe().provenance
    layers, alone = backbone.layers, None
    report.inputs = [_seen(backbone, sample) for sample in samples]
    if tokens := sentencepiece_finding(backbone.tokenizer, config.backbone.prompt):
        report.findings.append(tokens)
    with report.step("the model gives states"):
        on_step("states, one segment at a time and in batches")
        alone = states_of(backbone, samples, together=False)
        together = states_of(backbone, samples, together=True)
        both = np.concatenate([alone, together], axis=1)
        report.non_finite = count_non_finite(layers, both)
        report.findings.append(finite_finding(report.non_finite, both.size))
        tolerance = tolerance_of(ModelRecord.of(report.model["model"]))
        agreement = Agreement.of(layers, together, alone, tolerance)
        report.add("a batch gives what one segment at a time gives", "one_at_a_time", agreement)
    return alone


def _measure(
    backbone: Backbone,
    config: CheckConfig,
    samples: Sequence[Sample],
    shares: ManifestShares | None,
    report: CheckReport,
    on_step: OnStep,
) -> None:
    """How fast the model is, with which kernels; and how long a manifest takes."""
    with report.step("kernels can be listed"):
        on_step("kernels")
        report.kernels = kernels(backbone, samples[0])
    with report.step("batches can be timed"):
        on_step("batches of " + ", ".join(map(str, config.batch_sizes)))
        report.batches = time_sizes(backbone, samples, shares, config.batch_sizes)
        report.projection = project(samples, shares, report.batches, backbone.segment_bytes)
        for row in report.batches:
            if row["batch_size"] == min(config.batch_sizes) and not row["fits"]:
                text = (f"not even one of {row['width']}×{row['height']}: fewer --keyframes, "
                        "or --load-in 8bit")  # fmt: skip
                report.findings.append(Finding("a segment fits into memory", FAILED, text))


def _seen(backbone: Backbone, sample: Sample) -> dict[str, Any]:
    """What the model reads of a video's first segment."""
    inputs = backbone.prepare(sample.segments[:1], sample.info.fps)
    ids = inputs["input_ids"][0].tolist()
    text = readable(backbone.tokenizer, ids)
    return {"name": sample.name, **asdict(sample.info), "tokens_per_segment": len(ids),
            "text": text}  # fmt: skip


def _ask_generate(
    config: CheckConfig,
    samples: Sequence[Sample],
    layers: Sequence[int],
    own: np.ndarray | None,
    report: CheckReport,
    on_step: OnStep,
) -> None:
    """Let the model's own `generate` describe a segment, and give states to compare ours with."""
    describer, prompt, first = None, config.backbone.prompt, samples[0]
    with report.step("the model loads with its LM head"):
        on_step("loading the model with its LM head")
        describer = Describer(config.backbone, DESCRIPTION_TOKENS)
        report.model["num_parameters"] = describer.num_parameters
    if describer is None:
        return
    with report.step("the model describes a segment"):
        on_step("one description")
        report.description = describer.describe(first.segments[:1], [prompt], first.info.fps)[0]
    with report.step("generate gives states"):
        on_step("states by generate")
        each = [
            describer.first_token_states(segment, prompt, sample.info.fps)[list(layers)]
            for sample in samples
            for segment in sample.segments
        ]
        if own is not None:
            tolerance = tolerance_of(ModelRecord.of(report.model["model"]))
            agreement = Agreement.of(layers, own, np.stack(each, axis=1), tolerance)
            report.add("states are generate's", "generate", agreement)
    del describer
    _let_go()


def _compare_precision(
    config: CheckConfig, samples: Sequence[Sample], own: np.ndarray, report: CheckReport
) -> None:
    """Compare the states with those of float32; a float32 model's with those of bfloat16."""
    dtype = report.model["model"]["dtype"]
    other, half = ("bfloat16", "bfloat16") if dtype == "float32" else ("float32", dtype)
    name = f"{half} keeps what float32 says"
    device = _device_for(other, report)
    if device is None:
        text = "these weights fit neither into this GPU nor into main memory"
        report.findings.append(Finding(name, SKIPPED, text))
        return
    attention = config.backbone.attention
    backbone = Backbone(
        replace(
            config.backbone,
            dtype=other,
            device=device,
            load_in="full",
            compile=False,
            # Which knows no float32.
            attention="auto" if attention == "flash_attention_2" else attention,
        )
    )
    is_moved = device == "cpu" and report.machine["device"] != "cpu"
    count = NUM_PRECISION_SEGMENTS_ON_CPU if is_moved else NUM_PRECISION_SEGMENTS
    first = replace(samples[0], segments=samples[0].segments[:count])
    states = states_of(backbone, [first], together=False)
    own = own[:, : states.shape[1]]
    pair = (own, states) if other == "float32" else (states, own)
    report.add(name, "float32", Agreement.of(backbone.layers, *pair, tolerance=None))


def _device_for(dtype: str, report: CheckReport) -> str | None:
    """Where a model of this dtype fits; None for nowhere."""
    if (num_parameters := report.model.get("num_parameters")) is None:
        return None
    needed = ROOM * (4 if dtype == "float32" else 2) * num_parameters
    device = str(report.machine["device"])
    if device.startswith("cuda"):
        if needed < torch.cuda.mem_get_info(torch.device(device))[0]:
            return device
        device = "cpu"
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return device if needed < free else None
