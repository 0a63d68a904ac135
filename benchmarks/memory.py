"""Peak memory of this process."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """Return the peak resident bytes since this program was started (Linux only).

    Not ``getrusage``: its ``ru_maxrss`` begins with that of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")
