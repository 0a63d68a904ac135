"""A smaller store of a store: some of its layers, some of its videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from hiprobe.store.copying import copy_video, plan_as_decoded, provenance_of_copy
from hiprobe.store.errors import StoreError
from hiprobe.store.probe_inputs import Input
from hiprobe.store.provenance import Purpose
from hiprobe.store.reader import FeatureStore
from hiprobe.store.schema import DONE
from hiprobe.store.store_folder import is_store
from hiprobe.store.taps import Tap
from hiprobe.store.writer import StoreWriter


def subset(
    path: Path,
    out: Path,
    *,
    layers: Sequence[int] | None = None,
    only: Sequence[str] = (),
    split: str | None = None,
    inputs: Iterable[Input] | None = None,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Copy some layers of some finished videos into another store.

    `hiprobe.extract` goes on with it as with one that was extracted with these layers.

    Parameters
    ----------
    path : Path
    out : Path
        Interrupted, the same call goes on where it was; videos that it has already are left.
    layers : sequence of int, optional
        Of each tap and prompt, those that it has. Default: all.
    only : sequence of str
        Video ids, or patterns with ``*``; none: all.
    split : str, optional
        Default: all.
    inputs : iterable of Input, optional
        Taps and prompts that are kept beside the first prompt's ``hidden_states``: those of which
        some vector is among these. Default: all.
    on_video : callable
        Called with (videos done, videos).

    Returns
    -------
    int
        Videos copied, or there already.

    Raises
    ------
    StoreError
        A layer or an input is not in the store, no finished video is asked for, a pattern fits
        none, or there is another store at `out`.
    """
    store = FeatureStore.open(path)
    kept = store.layers if layers is None else sorted({*layers})
    store.check_layers(kept)
    taps = _kept_taps(store, kept, inputs)
    wanted = _chosen(store, only, split)
    with _open(out, store, kept, taps) as writer:
        known = writer.index.positions()
        writer.add_videos(plan_as_decoded(store, [one for one in wanted if one not in known]))
        positions = writer.index.positions()
        for done, video_id in enumerate(wanted):
            on_video(done, len(wanted))
            if writer.index.status(positions[video_id]) == DONE:
                continue
            copy_video(store, video_id, writer, kept)
        on_video(len(wanted), len(wanted))
    return len(wanted)


def _chosen(store: FeatureStore, only: Sequence[str], split: str | None) -> list[str]:
    """Ids of the finished videos that are asked for, in the store's order."""
    videos = store.videos[store.videos["status"] == DONE]
    for pattern in only:
        if not any(fnmatchcase(str(video_id), pattern) for video_id in videos.index):
            raise StoreError(
                f"{store.path}: {pattern!r} fits none of its {len(videos)} finished videos. "
                "`hiprobe store info` counts them; give ids, or patterns with *."
            )
    wanted = [
        str(video_id)
        for video_id, own in zip(videos.index, videos["split"], strict=True)
        if (not only or any(fnmatchcase(str(video_id), one) for one in only))
        and split in (None, own)
    ]
    if not wanted:
        raise StoreError(
            f"{store.path}: none of its {len(videos)} finished videos is asked for"
            + (f" (split {split!r})." if split else ".")
        )
    return wanted


def _kept_taps(
    store: FeatureStore, layers: Sequence[int], inputs: Iterable[Input] | None
) -> list[Tap]:
    """Further taps of these layers, as an extraction with them would have filled them."""
    taps = store.further_taps
    if inputs is not None:
        names = {store.tap(one.tap, one.prompt).name for one in inputs}
        taps = [tap for tap in taps if tap.name in names]
    cut = [replace(tap, layers=tuple(one for one in tap.layers if one in layers)) for tap in taps]
    return [tap for tap in cut if tap.layers]


def _open(
    out: Path, store: FeatureStore, layers: Sequence[int], taps: Sequence[Tap]
) -> StoreWriter:
    """Create the smaller store, or go on with one that an earlier call has begun."""
    if out.exists() and out.resolve() == store.path.resolve():
        raise StoreError(f"{out}: is the store itself. Choose another path.")
    if is_store(out):
        other = FeatureStore.open(out)
        shapes = [
            (name, getattr(other, name), expected)
            for name, expected in (
                ("layers", list(layers)),
                ("further_taps", list(taps)),
                ("thumbnail_size", store.thumbnail_size),
                ("row_block", store.row_block),
                ("answers", store.answers),
                ("has_windows", store.has_windows),
            )
            if getattr(other, name) != expected
        ]
        refused = other.origin.compare(store.origin, Purpose.FILL).refused
        differences = shapes + [
            (one.name, one.first, one.second) for one in refused if one.name != "layers"
        ]
        for name, found, expected in differences[:1]:
            raise StoreError(
                f"{out}: is a store of other settings than would be copied: {name} is {found!r}, "
                f"not {expected!r}. Choose another path."
            )
        return StoreWriter(out)
    provenance = provenance_of_copy(store.provenance)
    # The certificate is of segments and layers that need not be here.
    provenance.pop("parity", None)
    return StoreWriter.create(
        out,
        layers=layers,
        num_features=store.num_features,
        provenance=provenance
        | {"layers": list(layers), "subset_of": {"path": str(store.path.absolute())}},
        row_block=store.row_block,
        thumbnail_size=store.thumbnail_size,
        taps=taps,
        answers=store.answers,
        has_windows=store.has_windows,
    )
