"""A store of features that other programs made, such as I3D, C3D, CLIP or Holmes-VAU's own.

They are no first-token states, and the store says so; but whatever reads a store works on it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hiprobe.store.copying import write_video
from hiprobe.store.errors import ManifestError, StoreError, listing
from hiprobe.store.feature_files import FeatureFile, digest_of_files, find_features
from hiprobe.store.manifest import VideoRecord, file_digest, read_manifest
from hiprobe.store.opened import OpenedStore
from hiprobe.store.row_plan import PlannedVideo
from hiprobe.store.schema import DONE
from hiprobe.store.store_folder import is_store
from hiprobe.store.writer import StoreWriter

ATTRIBUTE = "imported"
FIRST_LAYER = 1
CROP_AXES = {"first": 0, "second": 1}


@dataclass(frozen=True)
class FeatureImport:
    """What is to be imported, and what its rows are.

    Attributes
    ----------
    source, manifest, store : Path
        See `hiprobe.store.feature_files.find_features`; the videos; the store to make.
    unit_frames : int or None
        Each row is of so many frames, one after the other; None: rows are equal parts of the video.
    name : str
        Of what made the features, such as ``I3D``; stands where a model's name would.
    name_ending : str
        What names of files have behind the video's id.
    crop_axis : {'first', 'second'}
        Of arrays with three axes, the one of the crops, over which the mean is taken.
    """

    source: Path
    manifest: Path
    store: Path
    unit_frames: int | None
    name: str
    name_ending: str = ""
    crop_axis: str = "first"


def import_features(
    config: FeatureImport,
    on_video: Callable[[int, int], None] = lambda done, total: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> tuple[int, dict[int, str]]:
    """Make a store of features; interrupted, the same call goes on.

    Parameters
    ----------
    config : FeatureImport
    on_video : callable
        Called with (steps done, steps): all videos are checked, then written.
    on_warning : callable
        Called with the training videos whose length is not known.

    Returns
    -------
    num_videos : int
    names : dict of int to str
        The arrays that became layers, by the layers' numbers.

    Raises
    ------
    HiProbeError
        Videos without features, test videos without a length, arrays of other shapes, lengths or
        names than they must have, values that are not finite, another store at this place.
    """
    records = read_manifest(config.manifest)
    _check_lengths(config, records, on_warning)
    files = find_features(config.source, [one.video_id for one in records], config.name_ending)
    names, width, num_rows = _check_all(config, records, files, on_video)
    made = {
        "source": str(config.source.absolute()),
        "unit": "equal parts" if config.unit_frames is None else f"{config.unit_frames} frames",
        "layer_names": names,
        "files_digest": digest_of_files(files),
    }
    with _open(config, made, width) as writer:
        if not writer.index.num_videos:
            plans = zip(records, num_rows, strict=True)
            writer.add_videos([_plan(config, record, rows) for record, rows in plans])
        positions = writer.index.positions()
        for done, record in enumerate(records):
            on_video(len(records) + done, 2 * len(records))
            position = positions[record.video_id]
            if writer.index.status(position) != DONE:
                states = np.stack([*_layers(config, record, files[record.video_id]).values()])
                num_frames = _num_frames(config, record, states.shape[1])
                outcome = {"num_frames": num_frames, "fps": _fps(record), "error": ""}
                write_video(writer, position, states, outcome)
        on_video(2 * len(records), 2 * len(records))
        writer.seal()
    return len(records), dict(enumerate(names, FIRST_LAYER))


def segment_ranges_of(
    num_rows: int, num_frames: int, unit_frames: int | None
) -> list[tuple[int, int]]:
    """Lay rows of features over a video's frames.

    Parameters
    ----------
    num_rows, num_frames : int
    unit_frames : int or None
        None: equal parts.

    Returns
    -------
    list of (int, int)
        Half-open, one a row. Frames behind the last whole unit are the last row's.

    Raises
    ------
    ValueError
        So many rows cannot be of so many frames.

    Notes
    -----
    Many tools drop the last, incomplete unit, or one more: rows may be too few by up to two.
    """
    if unit_frames is None:
        if num_rows > num_frames:
            raise ValueError(f"{num_rows} equal parts of {num_frames} frames")
        edges = [row * num_frames // num_rows for row in range(num_rows + 1)]
        return list(itertools.pairwise(edges))
    most = math.ceil(num_frames / unit_frames)
    if not max(1, most - 2) <= num_rows <= most:
        raise ValueError(
            f"{num_rows} rows of {unit_frames} frames for a video of {num_frames} frames, expected "
            f"{most}, or up to two fewer"
        )
    starts = [row * unit_frames for row in range(num_rows)]
    return list(itertools.pairwise([*starts, num_frames]))


def _layers(config: FeatureImport, record: VideoRecord, file: FeatureFile) -> dict[str, np.ndarray]:
    """A video's arrays as (row, feature) float32, checked one by one."""
    layers = {}
    for name, found in file.arrays().items():
        where = f"{file.paths[0]}: {name!r}"
        crops = CROP_AXES[config.crop_axis]
        array = found.mean(axis=crops, dtype=np.float64) if found.ndim == 3 else found
        if array.ndim != 2 or not array.size:
            raise StoreError(
                f"{where}: is of shape {array.shape}, expected (rows, features), or with crops, "
                "(crops, rows, features)."
            )
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise StoreError(f"{where}: row {row} has values that are not finite.")
        try:
            num_frames = _num_frames(config, record, len(array))
            segment_ranges_of(len(array), num_frames, config.unit_frames)
        except ValueError as error:
            raise StoreError(
                f"{where}: {error}. The rows are of another length than --unit-frames or "
                "--equal-parts says, of another video, or the crops are the other axis "
                "(--crop-axis)."
            ) from error
        layers[name] = array.astype(np.float32)
    return layers


def _check_all(
    config: FeatureImport,
    records: Sequence[VideoRecord],
    files: dict[str, FeatureFile],
    on_video: Callable[[int, int], None],
) -> tuple[list[str], int, list[int]]:
    """Read all before anything is written: names of the arrays, their width, each video's rows."""
    problems, names, width, num_rows = [], list[str](), 0, []
    for done, record in enumerate(records):
        on_video(done, 2 * len(records))
        try:
            layers = _layers(config, record, files[record.video_id])
        except StoreError as error:
            problems.append(f"{record.video_id}: {error}")
            continue
        shapes = {name: array.shape for name, array in layers.items()}
        rows, own_width = next(iter(shapes.values()))
        if not names:
            names, width = list(shapes), own_width
        if list(shapes) != names:
            problems.append(
                f"{record.video_id}: has the arrays {', '.join(shapes)}, others {', '.join(names)}"
            )
        elif any(shape != (rows, width) for shape in shapes.values()):
            problems.append(
                f"{record.video_id}: has arrays of {[*shapes.values()]}, expected {(rows, width)}: "
                "layers of one store have one width, and a video one number of rows"
            )
        num_rows.append(rows)
    if problems:
        raise StoreError(
            f"{config.source}: {len(problems)} of {len(records)} cannot be imported, so none "
            f"is.\n{listing(problems)}"
        )
    return names, width, num_rows


def _check_lengths(
    config: FeatureImport, records: Sequence[VideoRecord], on_warning: Callable[[str], None]
) -> None:
    """What is known to the frame, annotations and what is tested on, needs the video's length."""
    unknown = [record for record in records if record.num_frames is None]
    if needed := [one.video_id for one in unknown if one.annotations or one.split == "test"]:
        raise ManifestError(
            f"{config.manifest}: does not say num_frames of {len(needed)} videos annotated "
            "or to be tested on. `hiprobe manifest` writes it where the videos are."
            f"\n{listing(needed)}"
        )
    if unknown:
        frames = "one frame" if config.unit_frames is None else f"{config.unit_frames} frames"
        on_warning(
            f"{len(unknown)} training videos have no num_frames in {config.manifest}: each of "
            f"their rows stands for {frames}"
        )


def _plan(config: FeatureImport, record: VideoRecord, num_rows: int) -> PlannedVideo:
    num_frames = _num_frames(config, record, num_rows)
    ranges = segment_ranges_of(num_rows, num_frames, config.unit_frames)
    return PlannedVideo(record, num_frames, _fps(record), ranges)


def _num_frames(config: FeatureImport, record: VideoRecord, num_rows: int) -> int:
    """A video's length; where it is unknown, as many frames as its rows have."""
    return record.num_frames or num_rows * (config.unit_frames or 1)


def _fps(record: VideoRecord) -> float:
    return math.nan if record.fps is None else record.fps


def _open(config: FeatureImport, made: dict[str, Any], width: int) -> StoreWriter:
    """Create the store, or go on with the one that an earlier call has begun."""
    path = config.store
    if not is_store(path):
        layers = [FIRST_LAYER + number for number in range(len(made["layer_names"]))]
        provenance: dict[str, Any] = {
            "model": {"id": config.name, "class": "imported features"},
            "layers": layers,
            "manifest": {
                "path": str(config.manifest.absolute()),
                "digest": file_digest(config.manifest),
            },
            ATTRIBUTE: made,
            "libraries": {"hiprobe": version("hiprobe")},
        }
        if config.unit_frames is not None:
            provenance["segment_frames"] = config.unit_frames
        return StoreWriter.create(path, layers=layers, num_features=width, provenance=provenance)
    there = OpenedStore(path).attributes.get(ATTRIBUTE)
    if there != made:
        raise StoreError(
            f"{path}: is another store already, "
            + (f"imported from {there.get('source')}" if isinstance(there, dict) else "extracted")
            + ". Choose another path; to import changed files, too."
        )
    return StoreWriter(path)
