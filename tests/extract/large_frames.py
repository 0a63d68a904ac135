"""Extract videos with little memory, in a process of its own: run by `test_memory`."""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import replace
from pathlib import Path

from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.pipeline import extract
from hiprobe.extract.workplace import Here

if __name__ == "__main__":
    folder, model, num_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    backbone = BackboneConfig(model, device="cpu")
    config = ExtractConfig(folder / "manifest.csv", folder / "warm.zarr", backbone, parity=0)
    place = Here(config)
    # Once without a limit: threads and libraries take address space that has nothing to do with it.
    extract(replace(config, only=("small",)), workplace=place)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, used + num_bytes))
    summary = extract(replace(config, store=folder / "store.zarr"), workplace=place)
    print(json.dumps({"num_done": summary.num_done, "failures": summary.failures}))
