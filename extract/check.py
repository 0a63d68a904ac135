"""Does this model, on this machine, give the right numbers, and how fast: ``hiprobe check``.

What could not be tried where hiprobe is made, a published checkpoint on a GPU, is tried where it is
to run, in minutes, before days of extraction.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
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
    finite_finding,
    sentencepiece_finding,
    states_of,
)
from hiprobe.extract.check_speed import kernels, machine, time_batches
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.generation import Describer
from hiprobe.extract.loading import resolve_device
from hiprobe.extract.parity import tolerance_of
from hiprobe.extract.segments import NUM_KEYFRAMES, SEGMENT_FRAMES, segment_ranges
from hiprobe.extract.video import inspect_video
from hiprobe.store import HiProbeError, read_manifest
from hiprobe.store.provenance import ModelRecord
from hiprobe.store.single_files import write_json

SCHEMA = "hiprobe-check-1"
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


@dataclass
class CheckReport:
    """What was found; filled as the check goes on.

    Attributes
    ----------
    machine : dict
        See `check_speed.machine`.
    model : dict
        The provenance that a store would have of it, with ``num_parameters``.
    inputs : list of dict
        For each video: ``name``, ``width``, ``height``, ``fps``, ``num_frames``,
        ``tokens_per_segment`` and the ``text`` that the model sees.
    findings : list of Finding
    agreement : dict of str to Agreement
        ``generate``, ``one_at_a_time``, ``float32``.
    kernels : dict
    batches : list of dict
        See `check_speed.time_batches`.
    description : str
        What the model says of the first segment.
    projection : dict
        ``num_segments``, ``hours``, ``max_bytes``, and ``seconds_per_segment``, the least of the
        batches.
    seconds : float
        That the check took.
    """

    machine: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    agreement: dict[str, Agreement] = field(default_factory=dict)
    kernels: dict[str, Any] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    description: str = ""
    projection: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failed(self) -> list[Finding]:
        """What is not as it should be."""
        return [one for one in self.findings if one.status == FAILED]

    def save(self, path: Path) -> None:
        """Write ``check.json``."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(path, {"schema": SCHEMA, "created": now} | asdict(self))

    def add(self, name: str, key: str, agreement: Agreement) -> None:
        """Keep a comparison, and what it says."""
        self.agreement[key] = agreement
        self.findings.append(agreement.finding(name))


def check(config: CheckConfig, on_step: Callable[[str], None] = lambda text: None) -> CheckReport:
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
    num_segments = None if config.manifest is None else _num_segments(config)
    samples = take_samples(
        config.videos, config.segment_frames, config.keyframes, config.num_segments
    )
    report = CheckReport(machine(resolve_device(config.backbone.device)))
    on_step("loading the model with its LM head")
    reference = _ask_generate(config, samples, report, on_step)
    on_step("loading the model as extract does")
    backbone = Backbone(config.backbone)
    own = _examine(backbone, config, samples, reference, report, on_step)
    layers, num_features = backbone.layers, backbone.num_features
    del backbone
    _let_go()
    if own is not None and config.precision:
        on_step("the same in another precision")
        with _kept_going(report, "float32 and the model's dtype agree"):
            _compare_precision(config, samples, own, report)
    _project(report, num_segments, 4 * len(layers) * num_features)
    report.seconds = time.monotonic() - started
    return report


@contextmanager
def _kept_going(report: CheckReport, name: str) -> Iterator[None]:
    """Make a step that ends in an error a finding; the next ones may still tell something."""
    try:
        yield
    except (MemoryError, RuntimeError, ValueError, HiProbeError) as error:
        text = f"{type(error).__name__}: {error}"
        report.findings.append(Finding(name, FAILED, text))


def _let_go() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _ask_generate(
    config: CheckConfig,
    samples: Sequence[Sample],
    report: CheckReport,
    on_step: Callable[[str], None],
) -> np.ndarray | None:
    """States by the model's own `generate`: (layer, segment, feature); None where it fails."""
    prompt, states = config.backbone.prompt, None
    describer = Describer(config.backbone, DESCRIPTION_TOKENS)
    report.model["num_parameters"] = describer.num_parameters
    first = samples[0]
    with _kept_going(report, "the model describes a segment"):
        on_step("one description")
        report.description = describer.describe(first.segments[:1], [prompt], first.info.fps)[0]
    with _kept_going(report, "generate gives states"):
        on_step("states by generate")
        each = [
            describer.first_token_states(segment, prompt, sample.info.fps)
            for sample in samples
            for segment in sample.segments
        ]
        states = np.stack(each, axis=1)
    del describer
    _let_go()
    return states


def _examine(
    backbone: Backbone,
    config: CheckConfig,
    samples: Sequence[Sample],
    reference: np.ndarray | None,
    report: CheckReport,
    on_step: Callable[[str], None],
) -> np.ndarray | None:
    """All that is done with the model as `extract` runs it; its states, each segment alone."""
    report.model |= backbone.describe().provenance
    tolerance = tolerance_of(ModelRecord.of(report.model["model"]))
    layers, alone = backbone.layers, None
    report.inputs = [_seen(backbone, sample) for sample in samples]
    if tokens := sentencepiece_finding(backbone.tokenizer, config.backbone.prompt):
        report.findings.append(tokens)
    with _kept_going(report, "the model gives states"):
        on_step("states, one segment at a time and in batches")
        alone = states_of(backbone, samples, together=False)
        together = states_of(backbone, samples, together=True)
        report.findings.append(finite_finding(layers, np.concatenate([alone, together], axis=1)))
        if reference is not None:
            agreement = Agreement.of(layers, alone, reference[list(layers)], tolerance)
            report.add("states are generate's", "generate", agreement)
        agreement = Agreement.of(layers, together, alone, tolerance)
        report.add("a batch gives what one segment at a time gives", "one_at_a_time", agreement)
    with _kept_going(report, "kernels can be listed"):
        on_step("kernels")
        report.kernels = kernels(backbone, samples[0])
    with _kept_going(report, "batches can be timed"):
        on_step("batches of " + ", ".join(map(str, config.batch_sizes)))
        report.batches = time_batches(backbone, samples[0], config.batch_sizes)
        if not report.batches[0]["fits"]:
            text = "not even one: fewer --keyframes, or --load-in 8bit"
            report.findings.append(Finding("a segment fits into memory", FAILED, text))
    return alone


def _seen(backbone: Backbone, sample: Sample) -> dict[str, Any]:
    """What the model reads of a video's first segment."""
    inputs = backbone.prepare(sample.segments[:1], sample.info.fps)
    ids = inputs["input_ids"][0].tolist()
    text = readable(backbone.tokenizer, ids)
    return {"name": sample.name, **asdict(sample.info), "tokens_per_segment": len(ids),
            "text": text}  # fmt: skip


def _compare_precision(
    config: CheckConfig, samples: Sequence[Sample], own: np.ndarray, report: CheckReport
) -> None:
    """Compare the states with those of float32; a float32 model's with those of bfloat16."""
    dtype = report.model["model"]["dtype"]
    other, half = ("bfloat16", "bfloat16") if dtype == "float32" else ("float32", dtype)
    name = f"{half} keeps what float32 says"
    device = _device_for(other, report)
    if device is None:
        text = "float32 weights fit neither into this GPU nor into main memory"
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
    del backbone
    _let_go()


def _device_for(dtype: str, report: CheckReport) -> str | None:
    """Where a model of this dtype fits; None for nowhere."""
    needed = ROOM * (4 if dtype == "float32" else 2) * report.model["num_parameters"]
    device = str(report.machine["device"])
    if device.startswith("cuda"):
        if needed < torch.cuda.mem_get_info(torch.device(device))[0]:
            return device
        device = "cpu"
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return device if needed < free else None


def _num_segments(config: CheckConfig) -> int:
    """Segments of the manifest's videos, by its own lengths or the files'."""
    assert config.manifest is not None
    lengths = (
        record.num_frames or inspect_video(record.path).num_frames
        for record in read_manifest(config.manifest)
    )
    return sum(len(segment_ranges(length, config.segment_frames)) for length in lengths)


def _project(report: CheckReport, num_segments: int | None, segment_bytes: int) -> None:
    """Say how long a manifest will take at the best batch's speed, and how large it will be."""
    rates = [row["seconds_per_segment"] for row in report.batches if row["fits"]]
    if not rates:
        return
    count = 100_000 if num_segments is None else num_segments
    report.projection = {
        "num_segments": count,
        "is_of_manifest": num_segments is not None,
        "seconds_per_segment": min(rates),
        "hours": count * min(rates) / 3600,
        "max_bytes": count * segment_bytes,
    }
