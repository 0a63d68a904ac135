"""The contract between the stages: the feature store, the manifest and the probe file.

Imports none of the stages, and never torch.
"""

from hiprobe.store.errors import (
    HiProbeError,
    ManifestError,
    ModelError,
    StoreError,
    VideoError,
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
from hiprobe.store.schema import DONE, FAILED, LAYER_CONVENTION, PENDING, SCHEMA_VERSION
from hiprobe.store.writer import PlannedVideo, StoreWriter

__all__ = [
    "DONE",
    "FAILED",
    "LAYER_CONVENTION",
    "PENDING",
    "SCHEMA_VERSION",
    "FeatureStore",
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
    "write_manifest",
]
