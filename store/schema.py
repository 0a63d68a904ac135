"""The store's layout on disk: names, shapes, data types and chunking.

`storage_schema.md` is the specification; this module is its one implementation, which writer
and reader share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from hiprobe.store import answer_rows, windows
from hiprobe.store.answer_rows import Answers, write_answers
from hiprobe.store.pending_labels import PENDING_LABELS
from hiprobe.store.small_files import SmallFiles
from hiprobe.store.taps import ATTRIBUTE, HIDDEN_STATES, Tap, dimension_prefix

SCHEMA_VERSION = 1
DEFAULT_ROW_BLOCK = 64
LAYER_CONVENTION = (
    "0 is the embedding output, l the output of decoder layer l, and the last layer is taken "
    "after the final norm (the hidden_states convention of Transformers)"
)
# Attributes that `create` and the writer give a store: about its layout, not about its states.
STRUCTURE = (
    "num_videos",
    "num_rows",
    "schema_version",
    "layer_convention",
    "row_block",
    PENDING_LABELS,
    ATTRIBUTE,
    answer_rows.ATTRIBUTE,
)
JOURNAL = "journal"
THUMBNAIL = "thumbnail"  # an array that a store may have
PENDING, DONE, FAILED = "pending", "done", "failed"
# A failed video that was planned once more: a later entry of the same id counts instead.
REPLACED = "replaced"
STATUSES = (PENDING, DONE, FAILED, REPLACED)

# Index arrays grow by resizing; a fixed chunk keeps them one file each up to these lengths.
ROW_CHUNK = 65_536
VIDEO_CHUNK = 4_096
# Far above what anybody writes, and low enough that a crafted store cannot eat the memory.
MAX_SHARD_BYTES = 2**32
MAX_SMALL_CHUNK = 2**22  # entries of a chunk of an index array
SMALL_COMPRESSORS = (ZstdCodec(), Crc32cCodec())


@dataclass(frozen=True)
class IndexArray:
    """One of the small arrays that describe rows or videos."""

    name: str
    dim: str
    dtype: str
    fill_value: Any
    # Stores made before it came do not have it: it reads as its fill value.
    is_optional: bool = False

    @property
    def chunk(self) -> int:
        """Length of the array's chunks."""
        return ROW_CHUNK if self.dim == "row" else VIDEO_CHUNK


INDEX_ARRAYS = (
    IndexArray("video", "row", "int32", -1),
    IndexArray("segment", "row", "int32", -1),
    IndexArray("start_frame", "row", "int32", -1),
    IndexArray("stop_frame", "row", "int32", -1),
    IndexArray("valid", "row", "bool", False),
    IndexArray("video_id", "video", "string", ""),
    IndexArray("path", "video", "string", ""),
    IndexArray("split", "video", "string", ""),
    IndexArray("label", "video", "string", ""),
    IndexArray("category", "video", "string", ""),
    IndexArray("annotations", "video", "string", ""),
    IndexArray("num_frames", "video", "int32", 0),
    IndexArray("fps", "video", "float64", float("nan")),
    IndexArray("first_row", "video", "int64", 0),
    IndexArray("num_segments", "video", "int32", 0),
    IndexArray("status", "video", "string", PENDING),
    IndexArray("error", "video", "string", ""),
    IndexArray("file_size", "video", "int64", -1, is_optional=True),
    IndexArray("file_mtime_ns", "video", "int64", -1, is_optional=True),
    IndexArray("file_digest", "video", "string", "", is_optional=True),
)
# Where the model sees other frames than the segment's.
WINDOW_ARRAYS = tuple(IndexArray(name, "row", "int32", -1) for name in windows.COLUMNS)


def create(
    files: SmallFiles,
    layers: Sequence[int],
    num_features: int,
    row_block: int,
    provenance: dict[str, Any],
    thumbnail_size: tuple[int, int] | None = None,
    taps: Sequence[Tap] = (),
    answers: Answers | None = None,
    has_windows: bool = False,
) -> None:
    """Stage an empty store of schema version 1.

    Parameters
    ----------
    files : SmallFiles
        Of a folder without a store.
    layers : sequence of int
        The layers kept, ascending; 0 is the embedding output.
    num_features : int
        The backbone's hidden size.
    row_block : int
        Rows of a shard, R. A shard belongs to one video.
    provenance : dict
        How the states are made; JSON-serialisable, kept as the group's attributes.
    thumbnail_size : (int, int), optional
        Height and width in pixels of a thumbnail of each segment; none are kept without it.
    taps : sequence of Tap
        Further states that are kept.
    answers : Answers, optional
        Rows of the model's LM head.
    has_windows : bool
        Each row has a window, see `hiprobe.store.windows`.
    """
    attributes = {
        **provenance,
        "schema_version": SCHEMA_VERSION,
        "layer_convention": LAYER_CONVENTION,
        "row_block": row_block,
        # Written last whenever videos are added: what lies beyond is not part of the store.
        "num_videos": 0,
        "num_rows": 0,
    }
    if taps:
        attributes[ATTRIBUTE] = {tap.name: tap.as_record() for tap in taps}
    if answers is not None:
        attributes[answer_rows.ATTRIBUTE] = answers.as_record()
    group = zarr.create_group(files, zarr_format=3, attributes=attributes)
    if answers is not None:
        write_answers(group, answers, SMALL_COMPRESSORS)
    for tap in (Tap(HIDDEN_STATES, tuple(layers), num_features), *taps):
        create_states_array(group, tap, row_block)
    if thumbnail_size is not None:
        height, width = thumbnail_size
        group.create_array(
            THUMBNAIL,
            shape=(0, height, width, 3),
            shards=(row_block, height, width, 3),
            chunks=(1, height, width, 3),
            dtype="uint8",
            fill_value=0,
            compressors=[BloscCodec(cname="zstd", shuffle="noshuffle", typesize=1), Crc32cCodec()],
            dimension_names=("row", "y", "x", "channel"),
        )
    group.create_array(
        "layer",
        shape=(len(layers),),
        dtype="int16",
        compressors=SMALL_COMPRESSORS,
        dimension_names=("layer",),
    )
    # A layer 0 alone is the fill value, and would be left out.
    with zarr.config.set({"array.write_empty_chunks": True}):
        group["layer"][:] = list(layers)  # type: ignore[index]
    for array in (*INDEX_ARRAYS, *(WINDOW_ARRAYS if has_windows else ())):
        create_index_array(group, array)
    # The journal's folder is a Zarr group too, so that no Zarr reader trips over it.
    group.create_group(JOURNAL)


def create_states_array(group: zarr.Group, tap: Tap, row_block: int, num_rows: int = 0) -> None:
    """Create an array of states, without any."""
    shard = (len(tap.layers), row_block, tap.num_features)
    own = dimension_prefix(tap)
    group.create_array(
        tap.name,
        # What a killed call left of one that does not count yet.
        overwrite=True,
        shape=(shard[0], num_rows, shard[2]),
        chunks=shard,
        serializer=hidden_states_codecs(shard),
        compressors=None,
        dtype="float32",
        fill_value=float("nan"),
        dimension_names=(f"{own}layer", "row", f"{own}feature"),
    )


def create_index_array(group: zarr.Group, array: IndexArray, length: int = 0) -> None:
    """Create one of the small arrays, of its fill value."""
    group.create_array(
        array.name,
        shape=(length,),
        chunks=(array.chunk,),
        compressors=SMALL_COMPRESSORS,
        dtype=array.dtype,
        fill_value=array.fill_value,
        dimension_names=(array.dim,),
    )


def hidden_states_codecs(shard: tuple[int, int, int]) -> ShardingCodec:
    """How `hidden_states` is stored, for shards of (layers, rows, features)."""
    return ShardingCodec(
        chunk_shape=(1, *shard[1:]),
        codecs=[
            BytesCodec(endian="little"),
            BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=4),
            Crc32cCodec(),
        ],
        index_codecs=[BytesCodec(endian="little"), Crc32cCodec()],
        index_location="end",
    )
