"""The contract between the stages: the files in which they meet, each with its one reader.

The feature store, the manifest, the probe file and the results' folder.

Imports none of the stages, and never torch. The names below are imported when first used, so
that ``hiprobe --help`` need not wait for zarr and pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiprobe.store.block_writer import BlockWriter
    from hiprobe.store.errors import (
        HiProbeError,
        ManifestError,
        ModelError,
        StoreError,
        VideoError,
        write_errors,
    )
    from hiprobe.store.manifest import (
        VideoRecord,
        file_digest,
        format_annotations,
        merge_ranges,
        parse_annotations,
        read_manifest,
        write_manifest,
    )
    from hiprobe.store.probe_file import Probe
    from hiprobe.store.reader import FeatureStore
    from hiprobe.store.row_plan import PlannedVideo
    from hiprobe.store.schema import (
        DONE,
        FAILED,
        LAYER_CONVENTION,
        PENDING,
        REPLACED,
        SCHEMA_VERSION,
    )
    from hiprobe.store.video_file import FileIdentity
    from hiprobe.store.writer import StoreWriter

_NAMES = {
    "block_writer": ("BlockWriter",),
    "errors": (
        "HiProbeError",
        "ManifestError",
        "ModelError",
        "StoreError",
        "VideoError",
        "write_errors",
    ),
    "manifest": (
        "VideoRecord",
        "file_digest",
        "format_annotations",
        "merge_ranges",
        "parse_annotations",
        "read_manifest",
        "write_manifest",
    ),
    "probe_file": ("Probe",),
    "reader": ("FeatureStore",),
    "row_plan": ("PlannedVideo",),
    "schema": ("DONE", "FAILED", "LAYER_CONVENTION", "PENDING", "REPLACED", "SCHEMA_VERSION"),
    "video_file": ("FileIdentity",),
    "writer": ("StoreWriter",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "DONE",
    "FAILED",
    "LAYER_CONVENTION",
    "PENDING",
    "REPLACED",
    "SCHEMA_VERSION",
    "BlockWriter",
    "FeatureStore",
    "FileIdentity",
    "HiProbeError",
    "ManifestError",
    "ModelError",
    "PlannedVideo",
    "Probe",
    "StoreError",
    "StoreWriter",
    "VideoError",
    "VideoRecord",
    "file_digest",
    "format_annotations",
    "merge_ranges",
    "parse_annotations",
    "read_manifest",
    "write_errors",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
