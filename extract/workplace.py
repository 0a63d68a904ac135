"""Where the model runs: in this process, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from hiprobe.extract.backbone import Backbone, BackboneDescription
from hiprobe.extract.batch_size import BatchSize
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.devices import claim_device, claims, describe_device, gpu_errors
from hiprobe.extract.extractor import extract_videos
from hiprobe.extract.parity import recompute
from hiprobe.extract.plan import Job
from hiprobe.extract.tally import OnProgress
from hiprobe.store import StoreWriter

OnNote = Callable[[str], None]


class Workplace(Protocol):
    """Where the model runs. The owner of the store stays with the caller.

    Attributes
    ----------
    description : BackboneDescription
        The model that it has loaded.
    """

    description: BackboneDescription

    def extract(self, writer: StoreWriter, jobs: Sequence[Job], on_progress: OnProgress) -> None:
        """Extract videos; each outcome is committed to the store's journals."""

    def recompute(self, num_segments: int, seed: int) -> dict[str, Any]:
        """Make a parity certificate, see `hiprobe.extract.parity.recompute`."""

    def close(self) -> None:
        """Let go of what it holds."""


class Here:
    """The workplace that this process is.

    Parameters
    ----------
    config : ExtractConfig
    backbone : Backbone, optional
        A model that is loaded already; default: ``config.backbone`` is loaded.
    on_note : callable
        Called with the device's name, before the model is loaded.
    """

    def __init__(
        self,
        config: ExtractConfig,
        backbone: Backbone | None = None,
        on_note: OnNote = lambda text: None,
    ) -> None:
        self._config = config
        self._backbone = _load_on_own(config.backbone, on_note) if backbone is None else backbone
        self.description = self._backbone.describe()

    def extract(self, writer: StoreWriter, jobs: Sequence[Job], on_progress: OnProgress) -> None:
        """See `Workplace`."""
        extract_videos(
            writer,
            self._backbone,
            jobs,
            segment_frames=self._config.segment_frames,
            keyframes=self._config.keyframes,
            window=self._config.window,
            batch_size=BatchSize(self._config.batch_size, self._backbone.device),
            num_readers=self._config.num_readers,
            on_progress=on_progress,
        )

    def recompute(self, num_segments: int, seed: int) -> dict[str, Any]:
        """See `Workplace`."""
        with gpu_errors("parity"):
            return recompute(self._config.store, self._backbone, num_segments, seed)

    def close(self) -> None:
        """See `Workplace`."""
        claims.release()


def _load_on_own(config: BackboneConfig, on_note: OnNote) -> Backbone:
    """Load the model on a GPU that nobody else has, if it is to be on a GPU."""
    device = claim_device(config.device, share=config.share_gpu)
    on_note(f"device: {describe_device(device)}")
    return Backbone(replace(config, device=str(device)))


def workplace_for(config: ExtractConfig, on_note: OnNote = lambda text: None) -> Workplace:
    """Open the workplace that a configuration asks for, and load its model there.

    Parameters
    ----------
    config : ExtractConfig
    on_note : callable
        Called with the devices' names, and with what befalls workers.
    """
    if config.scheduler is None and not config.num_workers:
        return Here(config, on_note=on_note)
    # Only where it is used: Dask takes its time to import, and most runs do without it.
    from hiprobe.extract.cluster import Cluster

    return Cluster(config, on_note)
