"""A disk that gets full where one wants it to; part of `stress_full_disk`.

As root a tmpfs of a given size and number of files. Else a folder, and a limit on the length of
each file that the command writes (``RLIMIT_FSIZE``), which meets the larger files only.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PAGE = 4096
ROOMY = ("size=256m", "nr_inodes=100000")
TIMEOUT_SECONDS = 180


@dataclass(frozen=True)
class Run:
    """What a command did."""

    code: int
    output: str


class SmallDisk:
    """A disk at `path`; a context manager that takes it away again.

    Attributes
    ----------
    is_mounted : bool
        Whether it is a file system of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_mounted = False
        self._max_file_bytes: int | None = None

    def __enter__(self) -> Self:
        # Ended from outside (`timeout` does so), it has to be unmounted all the same.
        signal.signal(signal.SIGTERM, _end)
        self.path.mkdir()
        mounting = ["mount", "-t", "tmpfs", "-o", ",".join(ROOMY), "none", str(self.path)]
        # As another user, or in a container, it is refused.
        self.is_mounted = shutil.which("mount") is not None and not subprocess.call(
            mounting, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *exception: object) -> None:
        if self.is_mounted:
            subprocess.call(["umount", "--lazy", str(self.path)])

    def fill(self, before: Path | None) -> None:
        """Make it roomy and put on it what `before` holds, nothing else."""
        self.make_room()
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if before is not None:
            shutil.copytree(before, self.path, dirs_exist_ok=True)

    def used(self) -> tuple[int, int]:
        """Bytes and files on it."""
        if not self.is_mounted:
            sizes = [file.stat().st_size for file in self.path.rglob("*") if file.is_file()]
            return max(sizes, default=0), 0
        space = os.statvfs(self.path)
        return (space.f_blocks - space.f_bfree) * space.f_frsize, space.f_files - space.f_ffree

    def leave(self, num_bytes: int | None = None, num_files: int | None = None) -> None:
        """Leave room for so much more, and no more."""
        used_bytes, used_files = self.used()
        if not self.is_mounted:
            self._max_file_bytes = num_bytes
            return
        # A size of 0 would mean no limit.
        options = []
        if num_bytes is not None:
            options.append(f"size={max(PAGE, used_bytes + num_bytes)}")
        if num_files is not None:
            options.append(f"nr_inodes={max(1, used_files + num_files)}")
        self._remount(options)

    def make_room(self) -> None:
        """Have space again."""
        self._max_file_bytes = None
        if self.is_mounted:
            self._remount(list(ROOMY))

    def run(self, arguments: Sequence[str | Path], log: Path) -> Run:
        """Run ``hiprobe`` with these arguments, in a fork of this process: it has imported all."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            self._be_hiprobe([str(one) for one in arguments], log)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return Run(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Run(-signal.SIGKILL, f"no end after {TIMEOUT_SECONDS} s")
            time.sleep(0.005)

    def _be_hiprobe(self, arguments: list[str], log: Path) -> None:
        code = 1
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            if self._max_file_bytes is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                limit = self._max_file_bytes
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            from hiprobe.cli.main import main

            sys.argv = ["hiprobe", *arguments]
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _remount(self, options: list[str]) -> None:
        command = ["mount", "-o", ",".join(["remount", *options]), str(self.path)]
        subprocess.run(command, check=True)


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)
