"""Reading a store: labelled tables and plain arrays, without the padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from hiprobe.store import lazy
from hiprobe.store.answer_rows import Answers
from hiprobe.store.errors import StoreError
from hiprobe.store.lookup import Lookup, format_layers
from hiprobe.store.opened import OpenedStore
from hiprobe.store.provenance import Provenance
from hiprobe.store.taps import HEADS, HIDDEN_STATES, Tap
from hiprobe.store.video_file import FileIdentity

if TYPE_CHECKING:
    import xarray
    from dask.array import Array


class FeatureStore:
    """A store, opened for reading. Use `FeatureStore.open`.

    Only finished videos have segments here: those that are pending or have failed are in
    `videos` with their status, and their rows are left out.

    Examples
    --------
    >>> store = FeatureStore.open("features.zarr")  # doctest: +SKIP
    >>> store.layer(20).shape  # doctest: +SKIP
    (46460, 4096)
    """

    def __init__(self, opened: OpenedStore) -> None:
        self.path = opened.path
        self._opened = opened
        self._index = opened.index
        self._done = opened.index.done_videos()
        self._arrays = opened.checked_arrays()
        self._lookup = Lookup(opened)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a store; one with unfinished videos opens too.

        Parameters
        ----------
        path : path-like
            The folder that `hiprobe extract` wrote.

        Raises
        ------
        StoreError
            No store, another schema version, or damaged.
        """
        return cls(OpenedStore(Path(path)))

    def __repr__(self) -> str:
        statuses = self.videos["status"].value_counts()
        counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
        return (
            f"FeatureStore({str(self.path)!r}: {len(self.videos)} videos ({counts}), "
            f"{len(self.segments)} segments, {len(self.layers)} layers, "
            f"{self.num_features} features)"
        )

    def _repr_html_(self) -> str:
        """Show it in Jupyter: what it holds, and how it was made."""
        model = self.origin.model
        dtype = "" if model.dtype is None else f" ({model.dtype})"
        groups = self.videos.groupby(["split", "label", "status"])["num_segments"]
        counts = groups.agg(videos="count", segments="sum").reset_index()
        return (
            f"<p><b>FeatureStore</b> {escape(str(self.path))}<br>{len(self.segments):,} segments × "
            f"{format_layers(self.layers)} × {self.num_features} features of "
            f"{escape(model.id + dtype)}</p>" + counts.to_html(index=False, border=0)
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """How the states were made: model, weights digest, prompt, keyframes, versions, …."""
        return self._opened.attributes

    @property
    def origin(self) -> Provenance:
        """The provenance as typed fields, to read from and to compare with another's."""
        return Provenance.of(self._opened.attributes, self.num_features)

    @property
    def layers(self) -> list[int]:
        """The layers kept, ascending; 0 is the embedding output."""
        return self._opened.layers

    def check_layers(
        self,
        layers: Iterable[int],
        videos: Iterable[str] = (),
        *,
        tap: str = HIDDEN_STATES,
        prompt: str = "",
    ) -> None:
        """Refuse layers of a tap and a prompt that are not in the store.

        Raises
        ------
        StoreError
            For the first of them; the store has no such tap or prompt, or not yet of some videos.
        """
        name = self._lookup.states_name(tap, prompt)
        for layer in layers:
            self._lookup.layer_position(layer, name)
        self._lookup.check_added(self._lookup.finished(videos), name)

    @property
    def num_features(self) -> int:
        """The backbone's hidden size."""
        return self._opened.states[HIDDEN_STATES].tap.num_features

    @property
    def taps(self) -> list[str]:
        """Where states were taken: ``hidden_states``, and whatever else the store has."""
        return self._lookup.taps

    @property
    def prompts(self) -> list[str]:
        """Names of the prompts, that of the first at first: "" where it has none.

        Every store has a first one; "" means it too where it has a name.
        """
        return self._lookup.prompts

    @property
    def further_taps(self) -> list[Tap]:
        """What there is beside the first prompt's ``hidden_states``."""
        return [one.tap for name, one in self._opened.states.items() if name != HIDDEN_STATES]

    def further_taps_of(self, video_id: str) -> list[Tap]:
        """Those of `further_taps` that a finished video has: it may be older than some."""
        (video,) = self._lookup.finished([video_id])
        return [tap for tap in self.further_taps if self._index.has_states(video, tap.name)]

    def tap(self, tap: str = HIDDEN_STATES, prompt: str = "") -> Tap:
        """Describe the states of a tap and a prompt.

        Raises
        ------
        StoreError
            The store has none; it says which it has, and how to add them.
        """
        return self._opened.states[self._lookup.states_name(tap, prompt)].tap

    @property
    def has_windows(self) -> bool:
        """Whether the model saw other frames than the segments': `segments` says which."""
        return self._opened.has_windows

    @cached_property
    def answers(self) -> Answers | None:
        """Rows of the model's LM head for some answer words; None where the store has none.

        Raises
        ------
        StoreError
            They are damaged.
        """
        return self._opened.answers()

    @cached_property
    def videos(self) -> pd.DataFrame:
        """One row a video, finished or not, indexed by ``video_id``.

        Columns: path, split, label, category, num_frames, fps, num_segments, status, error,
        annotations (a tuple of half-open frame ranges).
        """
        return self._index.video_table()

    @cached_property
    def segments(self) -> pd.DataFrame:
        """One row a segment of a finished video, in row order.

        Columns: video_id, segment, start_frame, stop_frame; where the model saw other frames than
        these, also window_start, window_stop.
        """
        return self._index.segment_table()

    def layer(
        self,
        layer: int,
        videos: Iterable[str] | None = None,
        *,
        tap: str = HIDDEN_STATES,
        prompt: str = "",
    ) -> np.ndarray:
        """Read one layer's states of all segments, or of some videos' segments.

        Parameters
        ----------
        layer : int
            One of `layers`.
        videos : iterable of str, optional
            Finished videos to read. Default: all.
        tap, prompt : str
            One of `taps`, of one of `prompts`.

        Returns
        -------
        (segment, feature) float32
            Rows as in `segments` (restricted to `videos`), in the store's order.

        Raises
        ------
        StoreError
            The layer, the tap or a video is not in the store, or a checksum does not match.
        """
        name = self._lookup.states_name(tap, prompt)
        position = self._lookup.layer_position(layer, name)
        wanted = self._done if videos is None else self._lookup.finished(videos)
        return self._read([position], wanted, name)[0]

    def heads(
        self, layer: int, videos: Iterable[str] | None = None, *, prompt: str = ""
    ) -> np.ndarray:
        """Read what enters one layer's output projection, by attention heads.

        Parameters
        ----------
        layer, videos, prompt
            As of `layer`.

        Returns
        -------
        (segment, head, feature) float32

        Raises
        ------
        StoreError
            As of `layer`.
        """
        states = self.layer(layer, videos, tap=HEADS, prompt=prompt)
        return states.reshape(len(states), self.tap(HEADS, prompt).num_heads, -1)

    def iter_layer(
        self,
        layer: int,
        videos: Iterable[str] | None = None,
        max_rows: int = 8192,
        *,
        tap: str = HIDDEN_STATES,
        prompt: str = "",
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """Read one layer some videos at a time, for a layer that does not fit into memory.

        Parameters
        ----------
        layer, videos, tap, prompt
            As of `layer`.
        max_rows : int
            Segments to read at once; a longer video comes whole.

        Yields
        ------
        (list of str, (segment, feature) float32)
            Consecutive videos and their states; one after the other, they are `layer`'s.
        """
        wanted = self._done if videos is None else self._lookup.finished(videos)
        group: list[str] = []
        num_rows = 0
        for video in wanted:
            count = self._index.num_segments(video)
            if group and num_rows + count > max_rows:
                yield group, self.layer(layer, group, tap=tap, prompt=prompt)
                group, num_rows = [], 0
            group.append(self._index.video_id(video))
            num_rows += count
        if group:
            yield group, self.layer(layer, group, tap=tap, prompt=prompt)

    def video(
        self,
        video_id: str,
        layers: Iterable[int] | None = None,
        *,
        tap: str = HIDDEN_STATES,
        prompt: str = "",
    ) -> np.ndarray:
        """Read all layers of one video, or some.

        Returns
        -------
        (layer, segment, feature) float32
        """
        name = self._lookup.states_name(tap, prompt)
        (video,) = self._lookup.finished([video_id])
        kept = self._opened.states[name].tap.layers
        wanted = [
            self._lookup.layer_position(one, name) for one in (kept if layers is None else layers)
        ]
        return self._read(wanted, [video], name)

    def file(self, video_id: str) -> FileIdentity | None:
        """Which file a video was when it was planned; None where the store does not know."""
        return self._index.file(self._lookup.video(video_id))

    @property
    def thumbnail_size(self) -> tuple[int, int] | None:
        """Height and width of the thumbnails in pixels; None where the store keeps none."""
        return self._opened.thumbnail_size

    def thumbnails(self, video_id: str, segments: Sequence[int] | None = None) -> np.ndarray:
        """Read the thumbnails of one video's segments, or of some of them.

        Parameters
        ----------
        video_id : str
        segments : sequence of int, optional
            Counted from 0 in the video, ascending. Default: all.

        Returns
        -------
        (segment, y, x, 3) uint8
            RGB: the segment's middle keyframe, centred on black.

        Raises
        ------
        StoreError
            The store keeps none (see `thumbnail_size`), the video is not in it or not finished,
            or a checksum does not match.
        """
        if self.thumbnail_size is None:
            raise StoreError(
                f"{self.path}: keeps no thumbnails. `hiprobe extract … --thumbnails`, to another "
                "store, makes one that does."
            )
        (video,) = self._lookup.finished([video_id])
        return self._arrays.thumbnails(video, segments)

    def dask(self, layer: int, *, tap: str = HIDDEN_STATES, prompt: str = "") -> Array:
        """One layer as a lazy (segment, feature) Dask array, rows as in `segments`."""
        name = self._lookup.states_name(tap, prompt)
        self._lookup.check_added(self._done, name)
        states = lazy.lazy_states(self._opened.states[name].array, self.row_block)
        return states[self._lookup.layer_position(layer, name)][self._index.real_rows()]

    def to_xarray(self) -> xarray.Dataset:
        """The whole store as a lazy, labelled dataset without padding.

        Returns
        -------
        xarray.Dataset
            ``hidden_states`` (layer, segment, feature), those of other taps and prompts by their
            names, such as ``taps_heads``, with layers and features of their own
            (``taps_heads_layer``), and along ``segment`` the coordinates ``video_id``,
            ``segment_in_video``, ``start_frame``, ``stop_frame``, ``split``, ``label`` and
            ``category``; the provenance as attributes.
        """
        for name in self._opened.states:
            self._lookup.check_added(self._done, name)
        rows = self._index.real_rows()
        return lazy.labelled_dataset(
            {
                name: (one.tap, lazy.lazy_states(one.array, self.row_block)[:, rows])
                for name, one in self._opened.states.items()
            },
            segments=self.segments,
            videos=self.videos,
            attributes=self.provenance,
        )

    @property
    def row_block(self) -> int:
        """Rows of a block: what is read or written at once of a video."""
        return self._opened.row_block

    def _read(self, positions: Sequence[int], videos: Sequence[int], name: str) -> np.ndarray:
        """Read some layers of some videos of an array of states, all of which must be there."""
        self._lookup.check_added(videos, name)
        states = self._arrays.read(positions, videos, name)
        self._lookup.check_present(states, videos)
        return states
