"""What `hiprobe demo` works on: a folder with generated clips and the trained model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hiprobe.demo.clips import plan_clips, write_clips
from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.store import HiProbeError


@dataclass(frozen=True)
class DemoInputs:
    """The clips and the model in a folder of the demo's.

    Attributes
    ----------
    folder : Path
    seed : int
        Seed of the clips.
    num_clips : int
    """

    folder: Path
    seed: int = 0
    num_clips: int = 60

    @property
    def videos(self) -> Path:
        """Folder of the clips, ``SPLIT/CATEGORY/NAME.mp4``."""
        return self.folder / "videos"

    @property
    def annotations(self) -> Path:
        """CSV ``video_id,annotations`` of the clips."""
        return self.videos / "annotations.csv"

    @property
    def model(self) -> Path:
        """Folder of the model."""
        return self.folder / "tiny-qwen2.5-vl"

    def are_made(self) -> bool:
        """Tell whether an earlier run made them.

        Raises
        ------
        HiProbeError
            They are not, and the folder is not empty.
        """
        if self._done.exists():
            return True
        # Also when they were made of another seed: the commands would go on with old results.
        if any(self.folder.glob("*")):
            raise HiProbeError(
                f"{self.folder}: holds something else, or an unfinished demo. Expected an empty or "
                "new folder; give another one, or remove it."
            )
        return False

    def make(self, on_progress: Callable[[int], None] = lambda num_done: None) -> None:
        """Generate the clips and copy the model.

        Parameters
        ----------
        on_progress : callable
            Called after each clip with the number of clips written.
        """
        write_clips(plan_clips(self.num_clips, self.seed), self.videos, on_progress)
        # Contents only: the files of an installed package may be read-only.
        shutil.copytree(TRAINED_MODEL, self.model, copy_function=shutil.copyfile)
        self._done.touch()

    @property
    def _done(self) -> Path:
        return self.folder / f"inputs-seed-{self.seed}.done"
