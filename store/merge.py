"""Joining stores that parts of one extraction wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hiprobe.store.copying import copy_video, plan_as_decoded, provenance_of_copy
from hiprobe.store.errors import StoreError
from hiprobe.store.provenance import Purpose
from hiprobe.store.reader import FeatureStore
from hiprobe.store.schema import DONE, FAILED, PENDING
from hiprobe.store.store_folder import is_store
from hiprobe.store.writer import StoreWriter

# What parts have alike beside the settings that they record.
SAME = ("layers", "further_taps", "thumbnail_size", "row_block", "answers", "has_windows")


def merge(
    out: Path,
    parts: Sequence[Path],
    on_video: Callable[[int, int], None] = lambda done, total: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> int:
    """Copy the finished videos of several stores, in their order, into a new one.

    Parameters
    ----------
    out : Path
        Interrupted, or with more parts, the same call goes on where it was.
    parts : sequence of Path
        Made with the same settings; a video may be in one of them only.
    on_video : callable
        Called with (videos done, videos).
    on_warning : callable
        Called with parts that are missing, by their names, and with videos that are not finished.

    Returns
    -------
    int
        Videos in `out`.

    Raises
    ------
    StoreError
        The parts do not fit together.
    """
    stores = [FeatureStore.open(part) for part in parts]
    _check_same_settings(stores[0], stores[1:])
    owners = _owners(stores)
    for warning in [*_missing_parts(parts), *_unfinished(stores)]:
        on_warning(warning)
    with _open(out, stores, parts) as writer:
        # An earlier call, interrupted or with fewer parts, may have planned some already.
        known = writer.index.positions()
        new = [video_id for video_id in owners if video_id not in known]
        for store in stores:
            own = [video_id for video_id in new if owners[video_id] is store]
            writer.add_videos(plan_as_decoded(store, own))
        positions = writer.index.positions()
        for done, (video_id, store) in enumerate(owners.items()):
            on_video(done, len(owners))
            if writer.index.status(positions[video_id]) != DONE:
                copy_video(store, video_id, writer)
        on_video(len(owners), len(owners))
    return len(owners)


def _missing_parts(parts: Sequence[Path]) -> Iterator[str]:
    """Say which of the parts 0-of-N to N-1-of-N, as `hiprobe extract --rank` names them, lack."""
    found: dict[tuple[str, int], set[int]] = {}
    for part in parts:
        if match := re.fullmatch(r"(.*)\.([0-9]+)-of-([0-9]+)(\..*)?", part.name):
            found.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (name, count), ranks in found.items():
        if missing := sorted({*range(count)} - ranks):
            yield (
                f"only {len(ranks)} of the {count} parts of {name}: without "
                f"{', '.join(f'{rank}-of-{count}' for rank in missing)}. Merge again with all."
            )


def _unfinished(stores: Sequence[FeatureStore]) -> Iterator[str]:
    """Say which parts have videos that are not copied, for they are not finished."""
    for store in stores:
        counts = store.videos["status"].value_counts()
        left = [f"{counts[name]} {name}" for name in (PENDING, FAILED) if name in counts]
        if left:
            yield f"{store.path}: its videos that are not finished are left out: {', '.join(left)}."


def _owners(stores: Sequence[FeatureStore]) -> dict[str, FeatureStore]:
    """Which store holds each finished video."""
    owners: dict[str, FeatureStore] = {}
    for store in stores:
        videos = store.videos
        for video_id in videos.index[videos["status"] == DONE]:
            if video_id in owners:
                raise StoreError(
                    f"{video_id!r} is in both {owners[video_id].path} and {store.path}. "
                    "Leave one of them out."
                )
            owners[video_id] = store
    return owners


def _check_same_settings(first: FeatureStore, others: Sequence[FeatureStore]) -> None:
    """Refuse stores of other states or of another shape; names the first difference."""
    for store in others:
        shapes = [(name, getattr(first, name), getattr(store, name)) for name in SAME]
        refused = first.origin.compare(store.origin, Purpose.FILL).refused
        differences = [
            *((one.name, one.first, one.second) for one in refused),
            *(shape for shape in shapes if shape[1] != shape[2]),
        ]
        for name, expected, got in differences[:1]:
            raise StoreError(
                f"{store.path}: made with other settings than {first.path}: {name} is "
                f"{got!r}, not {expected!r}. "
                + (
                    "`hiprobe extract … --answer WORD` adds answers to a store."
                    if name == "answers"
                    else "Only parts of one extraction merge."
                )
            )


def _open(out: Path, stores: Sequence[FeatureStore], parts: Sequence[Path]) -> StoreWriter:
    """Create the merged store, or go on with one that an earlier call has begun."""
    if is_store(out):
        _check_same_settings(stores[0], [FeatureStore.open(out)])
        return StoreWriter(out)
    return StoreWriter.create(
        out,
        layers=stores[0].layers,
        num_features=stores[0].num_features,
        provenance=provenance_of_copy(stores[0].provenance)
        | {"merged_from": [str(part) for part in parts]},
        row_block=stores[0].row_block,
        thumbnail_size=stores[0].thumbnail_size,
        taps=stores[0].further_taps,
        answers=stores[0].answers,
        has_windows=stores[0].has_windows,
    )
