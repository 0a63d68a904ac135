"""Whether videos to test on were trained on: by id, by file and by content.

Every command that trains and tests asks here, so that "the same video" means the same everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from hiprobe.store import fields
from hiprobe.store.errors import HiProbeError, listing
from hiprobe.store.reader import FeatureStore

# By id, what is known of each video's file: ``path``, ``size`` in bytes and ``digest`` (see
# `hiprobe.store.FileIdentity`), each only where it is known. Plain JSON, for `probe.json`.
VideoFiles = Mapping[str, Mapping[str, Any]]


def files_of(store: FeatureStore, video_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What a store knows of some videos' files, as `probe.json` keeps it."""
    paths = store.videos["path"]
    found: dict[str, dict[str, Any]] = {}
    for video_id in map(str, video_ids):
        found[video_id] = {"path": str(paths[video_id])} if paths[video_id] else {}
        if (file := store.file(video_id)) is not None:
            found[video_id] |= {"size": file.size, "digest": file.digest}
    return found


def files_trained_on(training: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a probe's ``training`` says of its videos' files; of an older probe, their ids alone.

    Raises
    ------
    HiProbeError
        It cannot be right.
    """
    try:
        files = fields.mapping(training.get("files", {}), "the training files")
        for video_id, file in files.items():
            for name, value in fields.mapping(file, f"the file of {video_id!r}").items():
                if name in ("path", "digest"):
                    fields.text(value, f"{name} of {video_id!r}")
                elif name == "size":
                    fields.whole(value, f"size of {video_id!r}", 2**63 - 1)
    except ValueError as error:
        raise HiProbeError(
            f"not a whole probe: {error}. Make it again with `hiprobe probe`."
        ) from error
    return {video_id: files.get(video_id, {}) for video_id in training["video_ids"]}


def check_overlap(
    trained: VideoFiles,
    tested: VideoFiles,
    *,
    same_manifest: bool,
    allow: bool = False,
    where: object,
) -> list[str]:
    """Refuse to test on videos that were trained on.

    Parameters
    ----------
    trained, tested : VideoFiles
        Of `files_of` or `files_trained_on`.
    same_manifest : bool
        Whether both were extracted by one manifest (`Provenance.same_manifest`): equal ids then
        mean equal videos, whatever became of their files.
    allow : bool
        Say it, and go on (``--allow-overlap``).
    where : object
        The probe or store that was trained on, for the message.

    Returns
    -------
    list of str
        Nothing, or one warning that names the videos, for the results.

    Raises
    ------
    HiProbeError
        They overlap; all are listed, with what tells it.

    Notes
    -----
    Videos are the same if their content (size and digest) is, or their path with links resolved,
    or their id. Equal ids by other manifests are none where both contents are known and differ.
    """
    overlap = _overlap(trained, tested, same_manifest)
    if not overlap:
        return []
    reasons = [f"{video_id}: {reason}" for video_id, reason in overlap.items()]
    if allow:
        named = "; ".join(reasons[:3]) + f"; and {len(reasons) - 3} more" * (len(reasons) > 3)
        return [
            f"{len(overlap)} of {len(tested)} videos tested on were trained on (overlap "
            f"allowed): the figures flatter the probe: {named}"
        ]
    raise HiProbeError(
        f"{where}: {len(overlap)} of {len(tested)} videos to evaluate were used for "
        f"training:\n{listing(reasons)}\n"
        "Choose another split or manifest, or --allow-overlap if it is meant."
    )


def _overlap(trained: VideoFiles, tested: VideoFiles, same_manifest: bool) -> dict[str, str]:
    """Say of each tested video that was trained on what tells it, by id."""
    by_content = {content: name for name, file in trained.items() if (content := _content(file))}
    by_path = {path: name for name, file in trained.items() if (path := _path(file))}
    found = {}
    for video_id, file in tested.items():
        content, path = _content(file), _path(file)
        is_named_alike = _is_named_alike(trained, video_id, file, same_manifest)
        twins = {
            "same content": by_content.get(content) if content else None,
            "same file": by_path.get(path) if path else None,
            "same id": video_id if is_named_alike else None,
        }
        reasons = [
            what + f" as {twin}" * (twin != video_id) for what, twin in twins.items() if twin
        ]
        if reasons:
            found[video_id] = ", ".join(reasons)
    return found


def _is_named_alike(
    trained: VideoFiles, video_id: str, file: Mapping[str, Any], same_manifest: bool
) -> bool:
    """Whether a video has the id of one that was trained on, and is not known to be another."""
    if video_id not in trained:
        return False
    contents = _content(file), _content(trained[video_id])
    return same_manifest or None in contents or contents[0] == contents[1]


def _content(file: Mapping[str, Any]) -> tuple[int, str] | None:
    """What a file held; None where nobody knows."""
    return (file["size"], file["digest"]) if file.get("digest") and "size" in file else None


def _path(file: Mapping[str, Any]) -> str | None:
    """Where a file lies, links resolved; None where nobody knows."""
    try:
        return os.path.realpath(file["path"]) if file.get("path") else None
    except ValueError:  # no path of any file: a probe may come from anywhere
        return None
