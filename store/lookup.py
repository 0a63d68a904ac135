"""What a user's words mean in a store: taps, prompts, layers, videos; or what there is instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from hiprobe.store import schema
from hiprobe.store.errors import StoreError
from hiprobe.store.opened import OpenedStore
from hiprobe.store.provenance import Provenance
from hiprobe.store.taps import FRAMES_LAST, FRAMES_MEAN, HIDDEN_STATES, TAPS, array_name


class Lookup:
    """Places of what is asked for in an opened store; `StoreError` where there is none.

    Parameters
    ----------
    opened : OpenedStore
    """

    def __init__(self, opened: OpenedStore) -> None:
        self._opened = opened
        self._path, self._index = opened.path, opened.index

    @property
    def taps(self) -> list[str]:
        """See `FeatureStore.taps`."""
        return [*dict.fromkeys(one.tap.tap for one in self._opened.states.values())]

    @property
    def prompts(self) -> list[str]:
        """See `FeatureStore.prompts`."""
        names = dict.fromkeys(one.tap.prompt for one in self._opened.states.values())
        return [name or self._first_prompt for name in names]

    @property
    def _first_prompt(self) -> str:
        return str(self._opened.attributes.get("prompt_name") or "")

    def states_name(self, tap: str, prompt: str) -> str:
        """Name of the array of a tap and a prompt; "" and its name mean the first one."""
        name = array_name(tap, "" if prompt == self._first_prompt else prompt)
        if name not in self._opened.states:
            raise StoreError(f"{self._path}: {self._lacking(tap, prompt)}")
        return name

    def _lacking(self, tap: str, prompt: str) -> str:
        """Say what the store has of these, and the command that adds what is missing."""
        of_prompt = f"has no {tap!r} of prompt {prompt!r}"
        if tap not in TAPS:
            return f"has no tap {tap!r}; it has {', '.join(self.taps)}."
        if tap in (FRAMES_MEAN, FRAMES_LAST) and tap in self.taps:
            return (
                f"{of_prompt}: it is taken of the video, before any prompt, and is there once. "
                "Leave the prompt out."
            )
        added = "" if tap in self.taps else f" --taps {tap}"
        if prompt not in ("", *self.prompts):
            added += f" --prompt {prompt}=TEXT"
        prompts = ", ".join(map(repr, self.prompts))
        model = Provenance.of(self._opened.attributes).model.id
        return (
            f"{of_prompt}; it has {', '.join(self.taps)} and the prompts {prompts} (the first is "
            f"also called ''). `hiprobe extract MANIFEST {self._path} --model {model}{added}` adds "
            "it."
        )

    def layer_position(self, layer: int, name: str = HIDDEN_STATES) -> int:
        """Position of a layer in an array of states."""
        kept = self._opened.states[name].tap.layers
        if layer not in kept:
            raise StoreError(
                f"{self._path}: no layer {layer}{f' of {name}' if name != HIDDEN_STATES else ''}; "
                f"it has {format_layers(kept)}."
            )
        return kept.index(layer)

    def video(self, video_id: str) -> int:
        """Position of a video, finished or not."""
        position = self._index.positions().get(video_id)
        if position is None:
            raise StoreError(f"{self._path}: no video {video_id!r}. `.videos` lists them.")
        return position

    def finished(self, video_ids: Iterable[str]) -> list[int]:
        """Positions of finished videos, in the store's order, whatever that of `video_ids`."""
        wanted = []
        for video_id in video_ids:
            position = self.video(video_id)
            status = self._index.status(position)
            if status != schema.DONE:
                raise StoreError(f"{self._path}: video {video_id!r} is {status}: it has no states.")
            wanted.append(position)
        return sorted(wanted)

    def check_added(self, videos: Sequence[int], name: str) -> None:
        """Refuse videos that are older than a tap which was added to the store."""
        if name == HIDDEN_STATES:
            return
        lacking = [video for video in videos if not self._index.has_states(video, name)]
        if lacking:
            raise StoreError(
                f"{self._path}: {len(lacking)} of {len(videos)} videos, such as "
                f"{self._index.video_id(lacking[0])!r}, have no {name} yet: the command that "
                "added it goes on where it was."
            )

    def check_present(self, states: np.ndarray, videos: Sequence[int]) -> None:
        """Zarr reads a shard that is gone as NaN, without a word; real states are finite."""
        # A shard is there or not as a whole, so one feature tells.
        missing = np.isnan(states[..., 0])
        if not missing.any():
            return
        owners = np.repeat(videos, [self._index.num_segments(video) for video in videos])
        video_id = self._index.video_id(owners[np.argwhere(missing)[0, -1]])
        raise StoreError(
            f"{self._path}: damaged: states of video {video_id!r} are missing. "
            "Restore the folder from a copy, or extract again to another store."
        )


def format_layers(layers: Sequence[int]) -> str:
    """Write layers for a message."""
    if [*layers] == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return "layers " + ", ".join(map(str, layers))
