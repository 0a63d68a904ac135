"""What the tasks of a sweep have found, kept beside its table until all are done.

One folder ``OUT.parts-…`` for each grid on these very stores: an interrupted sweep goes on there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from hiprobe.store import FeatureStore, HiProbeError, file_digest, write_errors
from hiprobe.store.probe_file import DEFAULT_METHOD
from hiprobe.store.single_files import read_json, write_json
from hiprobe.sweep.grid import SweepConfig, Task
from hiprobe.sweep.kept_scores import folder_of
from hiprobe.sweep.measured import Found, RuleFigures
from hiprobe.sweep.table_file import read_table, write_table


class Parts:
    """The folder of one grid's finished tasks; it is made when there is something to keep.

    Parameters
    ----------
    config : SweepConfig
    out : Path
        The table that they will be joined in.
    """

    def __init__(self, config: SweepConfig, out: Path) -> None:
        paths = [*config.stores, *([config.test_store] if config.test_store else [])]
        opened = [FeatureStore.open(path) for path in paths]
        # A store that was extracted again, or further, has other results.
        contents = [(store.provenance, len(store.segments)) for store in opened]
        labels = file_digest(config.manifest) if config.manifest else None
        settings = asdict(config)
        if config.methods == (DEFAULT_METHOD,):  # as an older hiprobe named it, which knew no other
            del settings["methods"]
        identity = json.dumps([settings, contents, labels], default=str, sort_keys=True)
        self._name = hashlib.sha256(identity.encode()).hexdigest()[:12]
        self._folder = out.with_name(f"{out.name}.parts-{self._name}")
        self._scores = folder_of(out)

    def has(self, task: Task) -> bool:
        """Whether a task is finished."""
        return self._file(task).exists()

    def keep(self, task: Task, found: Found) -> None:
        """Write what a task has found; its table comes last and says that all of it is there."""
        file, table = self._file(task), found.table
        if found.kept is not None:
            # The grid's own name: an appended sweep of the same layers has other files.
            scores = self._scores / f"{self._name}-{file.stem}.npz"
            found.kept.write(scores)
            table = table.assign(scores=scores.name)
        if found.figures:
            write_json(file.with_suffix(".json"), found.figures)
        write_table(table, file)

    def read(self, task: Task) -> pd.DataFrame:
        """Read a finished task's table, which an earlier run may have left.

        Raises
        ------
        HiProbeError
            It is damaged.
        """
        try:
            return read_table(self._file(task))
        except HiProbeError as error:
            raise HiProbeError(f"{error} Remove the file, and run again.") from error

    def figures(self, task: Task) -> RuleFigures:
        """Read what rules choose a finished layer by.

        Raises
        ------
        HiProbeError
            It is missing or damaged.
        """
        file = self._file(task).with_suffix(".json")
        try:
            content: RuleFigures = read_json(file)
        except (OSError, ValueError) as error:
            raise HiProbeError(
                f"{file}: not a layer's figures ({error}). Remove the folder, and run again."
            ) from error
        return content

    def remove(self) -> None:
        """Remove everything: the table has it now."""
        if self._folder.exists():
            with write_errors(self._folder):
                for file in self._folder.iterdir():
                    file.unlink()
                self._folder.rmdir()

    def _file(self, task: Task) -> Path:
        """The task's table; stores may share their name, so their paths are told apart."""
        store = hashlib.sha256(str(task.store).encode()).hexdigest()[:8]
        what = "rules" if task.layer is None else f"layer-{task.layer}"
        if task.is_other:
            what = f"method-{task.method}"
        return self._folder / f"{store}-{what}.csv"
