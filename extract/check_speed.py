"""How fast the model is here, with what: the measurements of `hiprobe check`."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.check_inputs import Sample
from hiprobe.extract.devices import driver_version, is_out_of_memory, visible_gpus

# The profiler's own log; without a GPU it complains of that.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

ATTENTION_KERNEL = re.compile("attention|fmha|flash|attn", re.IGNORECASE)
NUM_KERNELS = 8
# No larger batch after one that took so long: a CPU would take minutes for what tells nothing new.
LONGEST_BATCH_SECONDS = 60.0
# Short passes are timed again: something else may have run.
MOST_PASSES, SHORT_SECONDS = 5, 1.0


def machine(device: torch.device) -> dict[str, Any]:
    """Name what the model runs on."""
    found: dict[str, Any] = {
        "device": str(device),
        "libraries": {name: version(name) for name in ("torch", "transformers", "hiprobe")},
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
    if device.type != "cuda":
        return found | {"name": _cpu_name()}
    properties = torch.cuda.get_device_properties(device)
    return found | {
        "name": properties.name,
        "gpu_bytes": properties.total_memory,
        "uuid": visible_gpus()[device.index or 0].uuid,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "driver": driver_version(),
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.processor() or platform.machine()


def kernels(backbone: Backbone, sample: Sample) -> dict[str, Any]:
    """Say which kernels a pass really uses.

    Returns
    -------
    dict
        ``top``: name and share of the time of the `NUM_KERNELS` that take most, ``attention``: the
        names of those that compute attention, ``num_calls``: of all kernels.
    """
    inputs = backbone.prepare(sample.segments[:1], sample.info.fps)
    times, num_calls = _kernel_times(backbone, inputs)
    total = sum(times.values()) or 1.0
    names = sorted(times, key=times.__getitem__, reverse=True)
    return {
        "top": [[name, times[name] / total] for name in names[:NUM_KERNELS]],
        "attention": [name for name in names if ATTENTION_KERNEL.search(name)],
        "num_calls": num_calls,
    }


def _kernel_times(
    backbone: Backbone, inputs: dict[str, torch.Tensor]
) -> tuple[dict[str, float], int]:
    """Seconds in each kernel of a pass, those of the CPU where there is no GPU; and their calls."""
    on_gpu = backbone.device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as found:
        backbone.states(inputs)
    times: dict[str, float] = {}
    num_calls = 0
    for event in found.key_averages():
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        # On a GPU also the calls that only launch something are listed: they take none of its time.
        if microseconds > 0:
            times[event.key] = microseconds / 1e6
            num_calls += event.count
    return times, num_calls


def time_batches(
    backbone: Backbone, sample: Sample, num_tokens: int, sizes: Sequence[int]
) -> list[dict[str, Any]]:
    """Time passes of growing batches, until one does not fit.

    Parameters
    ----------
    backbone : Backbone
    sample : Sample
    num_tokens : int
        Of one of its segments, from `check_inputs.num_tokens`.
    sizes : sequence of int
        Ascending.

    Returns
    -------
    list of dict
        ``width``, ``height``, ``tokens_per_segment``, ``batch_size``, ``fits``; and where it fits
        ``seconds_per_segment``, ``prepare_seconds_per_segment`` (one thread), ``peak_bytes`` (on a
        CPU the process's, which never falls) and ``utilisation``: the share of the time that a
        kernel ran, on a CPU that its threads worked.
    """
    info, rows = sample.info, list[dict[str, Any]]()
    seen = {"width": info.width, "height": info.height,
            "tokens_per_segment": num_tokens}  # fmt: skip
    for size in sizes:
        row = {**seen, "batch_size": size}
        try:
            rows.append(row | {"fits": True} | _time(backbone, sample, size))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            rows.append(row | {"fits": False})
        if not rows[-1]["fits"]:
            backbone.forget()
            break
        if rows[-1]["seconds_per_segment"] * size > LONGEST_BATCH_SECONDS:
            break
    return rows


def best_of(rows: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Take the fastest batch of each number of tokens."""
    best: dict[int, dict[str, Any]] = {}
    for row in rows:
        tokens = row["tokens_per_segment"]
        if row["fits"] and (
            tokens not in best or row["seconds_per_segment"] < best[tokens]["seconds_per_segment"]
        ):
            best[tokens] = row
    return best


def _time(backbone: Backbone, sample: Sample, size: int) -> dict[str, float]:
    """Measure a batch, not the first time that it is run."""
    own = sample.segments
    segments = [own[index % len(own)] for index in range(size)]
    started = time.perf_counter()
    inputs = backbone.prepare(segments, sample.info.fps)
    prepared = time.perf_counter() - started
    on_gpu = backbone.device.type == "cuda"
    backbone.states(inputs)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(backbone.device)
    times: list[float] = []
    worked = time.process_time()
    while len(times) < MOST_PASSES and sum(times) < SHORT_SECONDS:
        started = time.perf_counter()
        backbone.states(inputs)
        times.append(time.perf_counter() - started)
    worked, seconds = (time.process_time() - worked) / len(times), median(times)
    if on_gpu:
        peak = torch.cuda.max_memory_allocated(backbone.device)
        worked = sum(_kernel_times(backbone, inputs)[0].values())
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        worked /= torch.get_num_threads()
    return {
        "seconds_per_segment": seconds / size,
        "prepare_seconds_per_segment": prepared / size,
        "peak_bytes": peak,
        "utilisation": min(1.0, worked / seconds),
    }
