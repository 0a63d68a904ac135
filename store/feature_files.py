"""Features as the field exchanges them: files with one array a video, or one file with all videos'.

``.npy``, ``.npz``, HDF5 and safetensors; an array is (rows, features), or has crops too. Nothing in
them is believed: no pickled object is ever loaded, no link in an HDF5 file followed.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from safetensors import SafetensorError, safe_open

from hiprobe.store.errors import StoreError, listing
from hiprobe.store.manifest import file_digest

SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".safetensors")
# XD-Violence's features lie in a file for each crop: NAME__0.npy to NAME__4.npy.
_CROP = re.compile(r"(.+)__(\d+)")
# What the libraries raise about files that are damaged, or no such files.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, SafetensorError)


@dataclass(frozen=True)
class FeatureFile:
    """Where the features of a video are.

    Attributes
    ----------
    paths : tuple of Path
        One file; or one a crop, in order.
    key : str or None
        The video's array in a file that holds all videos'; None: the file is of this video alone.
    """

    paths: tuple[Path, ...]
    key: str | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Read the video's arrays by their names, sorted as people count.

        A ``.npy`` file, a crop's files, and a file of all videos give one array named ``features``.

        Raises
        ------
        StoreError
            A file is damaged, or holds something else than arrays of numbers.
        """
        if len(self.paths) > 1:
            crops = [_only(path, read_arrays(path)) for path in self.paths]
            if len({crop.shape for crop in crops}) > 1:
                shapes = listing(
                    [f"{p}: {c.shape}" for p, c in zip(self.paths, crops, strict=True)]
                )
                raise StoreError(f"the crops of a video are of different shapes:\n{shapes}")
            return {"features": np.stack(crops)}
        if self.key is not None:
            return {"features": read_arrays(self.paths[0], [self.key])[self.key]}
        found = read_arrays(self.paths[0])
        return {name: found[name] for name in sorted(found, key=_as_counted)}


def find_features(
    source: Path, video_ids: Collection[str], name_ending: str = ""
) -> dict[str, FeatureFile]:
    """Find the features of videos.

    Parameters
    ----------
    source : Path
        A folder with a file a video, anywhere below it, named by the video's id or the last part of
        it; or one file with an array a video, named so.
    video_ids : collection of str
    name_ending : str
        What names have behind the id, such as ``_i3d``.

    Returns
    -------
    dict of str to FeatureFile
        By video, in the order of `video_ids`.

    Raises
    ------
    StoreError
        There is no such file or folder, videos without features, or two files for one video.
    """
    if not source.exists():
        raise StoreError(f"{source}: there is no such file or folder. Expected one with features.")
    if source.is_dir():
        found = _in_folder(source)
    elif source.suffix in SUFFIXES:
        found = {name: [(None, FeatureFile((source,), name))] for name in array_names(source)}
    else:
        raise StoreError(f"{source}: expected a folder, or a file ending in {', '.join(SUFFIXES)}.")
    of_videos, missing = {}, []
    for video_id in video_ids:
        # By the whole id, or by the last part of it: folders are often the labels.
        own = found.get(video_id + name_ending) or found.get(_last(video_id) + name_ending)
        if own is None:
            missing.append(video_id)
            continue
        of_videos[video_id] = _one_video(video_id, own)
    if missing:
        example = next(iter(found), "none at all")
        raise StoreError(
            f"{source}: has no features of {len(missing)} of {len(video_ids)} videos. "
            f"Names there look like {example!r}; --name-ending says what they have behind the "
            f"video's id.\n{listing(missing)}"
        )
    return of_videos


def _in_folder(folder: Path) -> dict[str, list[tuple[int | None, FeatureFile]]]:
    """Feature files by their names: the path below the folder, and the last part of it alone."""
    found: dict[str, list[tuple[int | None, FeatureFile]]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix not in SUFFIXES or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        crop = _CROP.fullmatch(name)
        one = (None if crop is None else int(crop[2]), FeatureFile((path,)))
        for known in {name, _last(name)}:
            found.setdefault(known, []).append((None, one[1]))
        if crop is not None:
            for known in {crop[1], _last(crop[1])}:
                found.setdefault(known, []).append(one)
    return found


def _one_video(video_id: str, own: list[tuple[int | None, FeatureFile]]) -> FeatureFile:
    """Put a video's crops together; refuses several files otherwise."""
    whole = [file for crop, file in own if crop is None]
    if len(whole) == 1:
        return whole[0]
    crops = sorted((crop, file.paths[0]) for crop, file in own if crop is not None)
    if whole or [crop for crop, _ in crops] != list(range(len(crops))):
        paths = listing([str(path) for _, file in own for path in file.paths])
        raise StoreError(f"the video {video_id!r} has several files of features:\n{paths}")
    return FeatureFile(tuple(path for _, path in crops))


def array_names(path: Path) -> list[str]:
    """Names of the arrays in a file; that of ``.npy`` is features.

    Raises
    ------
    StoreError
        It is damaged.
    """
    with _damage(path):
        if path.suffix == ".npy":
            return ["features"]
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return list(file.files)
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                return list(file.keys())
        names: list[str] = []
        with h5py.File(path, "r") as file:
            # Follows neither soft nor external links.
            file.visititems(
                lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None
            )
        return names


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read arrays of a file by their names; all by default.

    Returns
    -------
    dict of str to (…) float or integer

    Raises
    ------
    StoreError
        It is damaged, or holds something else than arrays of numbers: objects are never unpickled.
    """
    names = array_names(path) if names is None else names
    if not names:
        raise StoreError(f"{path}: holds no arrays.")
    with _damage(path):
        found = {name: np.asarray(_read(path, name)) for name in names}
    for name, array in found.items():
        if array.dtype.kind not in "fiu":
            raise StoreError(
                f"{path}: {name!r} is an array of {array.dtype}, expected numbers. "
                "Write the features as float16 or float32."
            )
    return found


def _read(path: Path, name: str) -> Any:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return file[name]
    if path.suffix == ".safetensors":
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(name)
    with h5py.File(path, "r") as file:
        dataset = file[name]
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"{name!r} has its values in other files")
        return dataset[...]


def digest_of_files(files: Mapping[str, FeatureFile]) -> str:
    """SHA-256 over videos' ids and the contents of their files, in order."""
    whole, known = hashlib.sha256(), dict[Path, str]()
    for video_id, file in files.items():
        for path in file.paths:
            if path not in known:
                with _damage(path):
                    known[path] = file_digest(path)
            whole.update(f"{video_id}\n{known[path]}\n".encode())
    return whole.hexdigest()


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what the libraries raise into one message."""
    try:
        yield
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        if "allow_pickle" in reason:
            reason = "it holds Python objects, which are never loaded; save plain arrays of numbers"
        raise StoreError(f"{path}: cannot be read as features: {reason}") from error


def _only(path: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if len(arrays) != 1:
        raise StoreError(f"{path}: has the arrays {', '.join(arrays)}, expected one for a crop.")
    return next(iter(arrays.values()))


def _last(name: str) -> str:
    return PurePosixPath(name).name


def _as_counted(name: str) -> list[tuple[int, str]]:
    """A key that sorts layer 2 before layer 10."""
    return [
        (int(part or -1), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)
    ]
