"""HDF5 files that were damaged on the way, or made to harm: refused by name, or exactly right."""

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from hiprobe.store import DONE, FeatureStore, PlannedVideo, StoreError, StoreWriter, VideoRecord
from hiprobe.store.hdf5 import export_hdf5, import_hdf5

OLD_FILE = Path(__file__).parent / "data/hiprobe-hdf5-1.h5"
NUM_SEGMENTS = {"a": 3, "b": 9}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small export with thumbnails."""
    folder = tmp_path_factory.mktemp("exported")
    rng = np.random.default_rng(0)
    with StoreWriter.create(
        folder / "s", layers=[0, 1], num_features=3, provenance={}, row_block=4,
        thumbnail_size=(2, 3),
    ) as writer:  # fmt: skip
        for name, count in NUM_SEGMENTS.items():
            record = VideoRecord(name, f"/v/{name}", "test", "anomalous", "Fire", ((24, 48),))
            ranges = [(24 * i, 24 * i + 24) for i in range(count)]
            writer.add_videos([PlannedVideo(record, 24 * count, 25.0, ranges)])
        for video, count in enumerate(NUM_SEGMENTS.values()):
            for block, start in enumerate(range(0, count, 4)):
                size = min(4, count - start)
                pictures = rng.integers(0, 256, (size, 2, 3, 3), dtype=np.uint8)
                writer.write_block(video, block, rng.normal(size=(2, size, 3)), pictures)
            writer.finish_video(video, status=DONE, num_frames=24 * count, fps=25.0)
    export_hdf5(folder / "s", folder / "s.h5")
    return folder / "s.h5"


def content_of(path):
    store = FeatureStore.open(path)
    done = store.videos.index[store.videos["status"] == DONE]
    return (
        store.provenance,
        repr(store.videos.to_dict("records")),
        [*store.videos.index],
        repr(store.segments.to_dict("records")),
        [store.layer(layer).tobytes() for layer in store.layers],
        [store.thumbnails(video_id).tobytes() for video_id in done],
    )


@pytest.mark.slow
def test_a_flipped_byte_is_refused_or_changes_nothing(exported, tmp_path):
    import_hdf5(exported, tmp_path / "right")
    right, content = content_of(tmp_path / "right"), exported.read_bytes()
    rng = np.random.default_rng(0)
    num_refused = 0
    for flip, place in enumerate(rng.choice(len(content), 400, replace=False)):
        damaged = bytearray(content)
        damaged[place] ^= rng.integers(1, 256, dtype=np.uint8)
        (tmp_path / "x.h5").write_bytes(damaged)
        out = tmp_path / f"store-{flip}"
        try:
            import_hdf5(tmp_path / "x.h5", out)
        except StoreError as error:
            num_refused += str(error).startswith(f"{tmp_path / 'x.h5'}: ")
        else:
            assert content_of(out) == right, f"byte {place}"
        shutil.rmtree(out, ignore_errors=True)
    # Chunks are padded, and HDF5 leaves gaps: not every byte means something.
    assert num_refused > 100


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_cut_file_is_refused(exported, tmp_path, share):
    content = exported.read_bytes()
    (tmp_path / "x.h5").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(StoreError, match=r"x\.h5: cannot be read as HDF5"):
        import_hdf5(tmp_path / "x.h5", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def replace(file, name, **options):
    """Put another dataset in the place of one."""
    old = file[name]
    options = {"shape": old.shape, "dtype": old.dtype} | options
    del file[name]
    return file.create_dataset(name, **options)


def soft_link(file):
    del file["videos/path"]
    file["videos/path"] = h5py.SoftLink("/videos/video_id")


def external_link(file):
    del file["hidden_states"]
    file["hidden_states"] = h5py.ExternalLink(str(OLD_FILE), "hidden_states")


def linked_group(file):
    del file["segments"]
    file["segments"] = h5py.ExternalLink(str(OLD_FILE), "segments")


def external_storage(file):
    shape = file["thumbnail"].shape
    replace(file, "thumbnail", external=[("/etc/passwd", 0, int(np.prod(shape)))])


def virtual(file):
    shape = file["thumbnail"].shape
    layout = h5py.VirtualLayout(shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(OLD_FILE), "thumbnail", shape)
    del file["thumbnail"]
    file.create_virtual_dataset("thumbnail", layout)


def references(file):
    replace(file, "videos/path", dtype=h5py.ref_dtype)


def reference_texts(file):
    replace(file, "videos/error", dtype=h5py.vlen_dtype(np.uint8))


def other_type(file):
    replace(file, "segments/video", dtype="<f4")


def wider_type(file):
    replace(file, "hidden_states", dtype="<f8")


def a_group(file):
    del file["layer"]
    file.create_group("layer")


def missing(file):
    del file["videos/fps"]


def scalar(file):
    replace(file, "layer", shape=())


def not_written(file):
    old = file["hidden_states"]
    replace(file, "hidden_states", chunks=old.chunks, compression="gzip")


def far_too_long(file):
    """Nothing of it is in the file: HDF5 would give zeros, as many as it claims."""
    replace(file, "segments/video", shape=(1 << 40,))


def other_length(file):
    replace(file, "segments/segment", shape=(5,), data=np.zeros(5, "<i4"))


def no_digest(file):
    del file.attrs["digest"]


def huge_blocks(file):
    file.attrs["row_block"] = 1 << 40


def many_attributes(file):
    file.attrs["provenance"] = [b"{}"] * 9


def deep_provenance(file):
    file.attrs["provenance"] = np.bytes_(b"[" * 60_000)


def changed(name, index, value):
    def change(file):
        file[name][index] = value

    change.__name__ = f"changed {name}"
    return change


FORGERIES = {
    soft_link: "videos/path: expected a dataset in the file itself, got a SoftLink",
    external_link: "hidden_states: expected a dataset in the file itself, got a ExternalLink",
    linked_group: "segments/video: expected a dataset in the file itself, got a ExternalLink",
    external_storage: "thumbnail: its data lies in other files",
    virtual: "thumbnail: its data lies in other files",
    references: "videos/path: expected the type",
    reference_texts: "videos/error: expected the type",
    other_type: "segments/video: expected the type <i4, got float32",
    wider_type: "hidden_states: expected the type <f4, got float64",
    a_group: "layer: expected a dataset of 1 dim",
    missing: "videos/fps: expected a dataset in the file itself, got nothing",
    scalar: "layer: expected a dataset of 1 dim",
    not_written: "hidden_states: its chunks are not all there",
    far_too_long: "segments/video: has 0 bytes, expected",
    huge_blocks: "hidden_states: expected at most",
    many_attributes: "provenance: expected a single value",
    deep_provenance: "provenance: ",
}
OF_NEW_FILES = {no_digest: "digest: expected sha256", other_length: "digest: expected sha256"} | {
    changed(name, index, value): "digest: expected sha256"
    for name, index, value in [
        ("videos/video_id", 1, b"c"),
        ("videos/label", 0, b"normal"),
        ("videos/annotations", 0, b"0:48"),
        ("videos/fps", 0, 24.0),
        ("segments/start_frame", 1, 23),
        ("videos/digest", 0, b"0" * 64),
        ("layer", 1, 2),
    ]
}
# A file of the first version has no digest: only what cannot be is found.
OF_OLD_FILES = {other_length: "segments/segment: expected 18 entries"} | {
    changed(name, index, value): f"{name}: {reason}"
    for name, index, value, reason in [
        ("videos/video_id", 1, b"video-0", "expected ids, each once"),
        ("videos/label", 0, b"normale", "expected normal or anomalous"),
        ("videos/split", 0, b"t\xff", "'utf-8' codec"),
        ("videos/status", 0, b"lost", "expected pending or done or failed"),
        ("videos/annotations", 0, b"48:0", ""),
        ("videos/fps", 0, np.inf, "expected frames per second"),
        ("videos/num_frames", 0, -1, "expected counts"),
        ("videos/num_segments", 0, 8, "expected as many as"),
        ("segments/video", 3, 9, "expected finished videos, in order"),
        ("segments/video", 0, 1, "expected finished videos, in order"),
        ("segments/segment", 3, 2, "expected 0, 1"),
        ("segments/start_frame", 1, 0, "expected ascending"),
        ("segments/stop_frame", 1, 10_000, "expected frames of the video"),
        ("layer", 0, 5, "expected ascending numbers"),
    ]
}
CASES = [
    *((OLD_FILE, *case) for case in (FORGERIES | OF_OLD_FILES).items()),
    *((None, *case) for case in (FORGERIES | OF_NEW_FILES).items()),
]


@pytest.mark.parametrize(
    ("source", "forge", "message"),
    CASES,
    ids=[f"{forge.__name__}-{'old' if source else 'new'}" for source, forge, _ in CASES],
)
def test_what_no_export_writes_is_refused_before_anything_is_made(
    exported, tmp_path, source, forge, message
):
    shutil.copy(source or exported, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        forge(file)
    with pytest.raises(StoreError, match=r"x\.h5: damaged at ") as caught:
        import_hdf5(tmp_path / "x.h5", tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_values_that_are_not_finite_are_refused_wherever_they_are(tmp_path):
    shutil.copy(OLD_FILE, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["hidden_states"][2, 10, 5] = np.nan
    with pytest.raises(StoreError, match=r"hidden_states: values of video 'video-1' that are not"):
        import_hdf5(tmp_path / "x.h5", tmp_path / "out")
    store = FeatureStore.open(tmp_path / "out")
    assert [*store.videos["status"]] == [DONE, "pending", "pending", "pending"]
    import_hdf5(OLD_FILE, tmp_path / "out")  # a right copy goes on where the damaged one ended
    assert [*FeatureStore.open(tmp_path / "out").videos["status"]][:3] == [DONE] * 3


def test_changed_states_do_not_pass_for_the_digests(exported, tmp_path):
    for name in ("hidden_states", "thumbnail"):
        shutil.copy(exported, tmp_path / "x.h5")
        with h5py.File(tmp_path / "x.h5", "r+") as file:
            file[name][(0,) * file[name].ndim] = 7
        with pytest.raises(StoreError, match=r"content of video 'a' does not match its digest"):
            import_hdf5(tmp_path / "x.h5", tmp_path / name)
        assert FeatureStore.open(tmp_path / name).segments.empty


def bomb(path, source, name):
    """A file with a chunk of kilobytes that inflates to a gigabyte."""
    shutil.copy(source, path)
    deflate = zlib.compressobj(9)
    zeros = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(1024)) + deflate.flush()
    with h5py.File(path, "r+") as file:
        old = file[name][:]
        new = replace(file, name, chunks=file[name].chunks, compression="gzip")
        new[:] = old
        new.id.write_direct_chunk((0,) * new.ndim, zeros)


def large_text(path, source):
    """Every text is one and the same, of megabytes."""
    shutil.copy(source, path)
    with h5py.File(path, "r+") as file:
        file["videos/error"][...] = ["x" * (8 << 20), *[""] * 3]
        place = file["videos/error"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 64] = content[place : place + 16] * 4
    path.write_bytes(content)


LIMITED = """
import resource, sys
from pathlib import Path
from hiprobe.store import StoreError, StoreWriter
from hiprobe.store.hdf5 import import_hdf5
import hiprobe.store.verify
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20),) * 2)
try:
    import_hdf5(Path(sys.argv[1]), Path(sys.argv[2]))
except StoreError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hidden_states", "thumbnail", "texts"])
def test_a_bomb_does_not_go_off(tmp_path, kind):
    if kind == "texts":
        large_text(tmp_path / "x.h5", OLD_FILE)
    else:
        bomb(tmp_path / "x.h5", OLD_FILE, kind)
    arguments = [str(tmp_path / "x.h5"), str(tmp_path / "out")]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert run.stderr == ""
    assert "x.h5: damaged at " + ("videos/error" if kind == "texts" else kind) in run.stdout


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="pipe: not a file"):
        import_hdf5(tmp_path / "pipe", tmp_path / "out")
