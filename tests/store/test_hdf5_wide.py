"""HDF5 of stores with further states, windows and answers: all of it both ways, and checked."""

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from hiprobe.store import DONE, FeatureStore, StoreError, StoreWriter
from hiprobe.store.hdf5 import export_hdf5, import_hdf5
from hiprobe.store.taps import HEADS, Tap
from hiprobe.store.verify import verify
from tests.store.test_answer_rows import answers
from tests.store.test_hdf5 import assert_equal_stores
from tests.store.test_taps import (
    ALL,
    HEADS_TAP,
    LAYERS,
    LENGTHS,
    MAIN,
    MEAN_TAP,
    ROW_BLOCK,
    WIDTH,
    check,
    create,
    fill,
    planned,
    states_of,
)


def windows_of(video_id):
    frames = 24 * LENGTHS[video_id]
    return [(max(0, start - 12), min(start + 36, frames)) for start in range(0, frames, 24)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A store of everything: four further arrays, windows, answers, thumbnails."""
    path = tmp_path_factory.mktemp("wide") / "s.zarr"
    writer = StoreWriter.create(
        path, layers=LAYERS, num_features=WIDTH, row_block=ROW_BLOCK, taps=ALL, answers=answers(),
        has_windows=True, thumbnail_size=(2, 3),
        provenance={"prompt": "What?", "prompt_name": "first", "window": {"frames": 48}},
    )  # fmt: skip
    rng = np.random.default_rng(0)
    with writer:
        writer.add_videos([replace(planned(name), windows=windows_of(name)) for name in LENGTHS])
        for video, (name, length) in enumerate(LENGTHS.items()):
            for block, start in enumerate(range(0, length, ROW_BLOCK)):
                rows = slice(start, start + ROW_BLOCK)
                main, *own = (states_of(name, tap)[:, rows] for tap in (MAIN, *ALL))
                pictures = rng.integers(0, 256, (main.shape[1], 2, 3, 3), dtype=np.uint8)
                taps = {tap.name: values for tap, values in zip(ALL, own, strict=True)}
                writer.write_block(video, block, main, pictures, taps)
            writer.finish_video(video, status=DONE, num_frames=24 * length, fps=25.0)
    return path


@pytest.fixture(scope="module")
def exported(path):
    export_hdf5(path, path.with_name("s.h5"))
    return path.with_name("s.h5")


def test_taps_prompts_windows_and_answers_go_both_ways(path, exported, tmp_path):
    import_hdf5(exported, tmp_path / "again.zarr")
    assert_equal_stores(path, tmp_path / "again.zarr")
    one, other = FeatureStore.open(path), FeatureStore.open(tmp_path / "again.zarr")
    check(other)
    assert other.further_taps == one.further_taps
    assert (other.taps, other.prompts) == (one.taps, one.prompts)
    assert other.answers == one.answers == answers()
    assert other.has_windows
    assert [*other.segments["window_start"]] == [
        start for name in LENGTHS for start, _ in windows_of(name)
    ]
    assert verify(tmp_path / "again.zarr").problems == []


@pytest.mark.parametrize("kind", ["taps", "answers", "windows"])
def test_each_goes_alone(tmp_path, kind):
    path = tmp_path / "s.zarr"
    with StoreWriter.create(
        path, layers=LAYERS, num_features=WIDTH, row_block=ROW_BLOCK, provenance={},
        taps=[HEADS_TAP] if kind == "taps" else (),
        answers=answers() if kind == "answers" else None,
        has_windows=kind == "windows",
    ) as writer:  # fmt: skip
        fill(writer, LENGTHS, [HEADS_TAP] if kind == "taps" else ())
    export_hdf5(path, tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5") as file:
        assert file.attrs["hiprobe_schema"] == b"hiprobe-hdf5-3"
        assert ("taps" in file, "answers" in file) == (kind == "taps", kind == "answers")
        assert ("window_start" in file["segments"]) == (kind == "windows")
    import_hdf5(tmp_path / "s.h5", tmp_path / "again.zarr")
    assert_equal_stores(path, tmp_path / "again.zarr")
    assert FeatureStore.open(tmp_path / "again.zarr").answers == FeatureStore.open(path).answers


def test_a_store_without_any_of_it_is_written_as_before(tmp_path):
    with create(tmp_path / "s.zarr", ()) as writer:
        fill(writer, LENGTHS, ())
    export_hdf5(tmp_path / "s.zarr", tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5") as file:
        assert file.attrs["hiprobe_schema"] == b"hiprobe-hdf5-2"
        assert {*file} == {"hidden_states", "layer", "segments", "videos"}
        # Of the same store, by the code from before there were taps.
        assert file.attrs["digest"] == (
            b"sha256:4a467823d4d4704ed336b0cfd078360a9a4cfd97c28bc5d32f6c5bcae5b7e1ca"
        )


def test_any_hdf5_reader_finds_them_where_the_store_has_them(exported):
    with h5py.File(exported) as file:
        expected = np.concatenate([states_of(name, HEADS_TAP) for name in LENGTHS], axis=1)
        np.testing.assert_array_equal(file["taps/heads"], expected)
        assert file["prompts/severity/hidden_states"].shape == (3, 15, WIDTH)
        assert file["answers/answer_head"].shape == (4, WIDTH)
        assert list(file["answers/answer"].asstr()) == [*answers().words]
        names = []
        file.visit(names.append)
        datasets = [file[name] for name in names if isinstance(file[name], h5py.Dataset)]
        assert all(dataset.fletcher32 for dataset in datasets)


def test_taps_that_some_videos_lack_are_named(tmp_path):
    with create(tmp_path / "s.zarr", ()) as writer:
        fill(writer, LENGTHS, ())
        writer.add_taps([HEADS_TAP])
    with pytest.raises(StoreError, match="3 of 3 videos, such as 'a', have no taps/heads yet"):
        export_hdf5(tmp_path / "s.zarr", tmp_path / "s.h5")
    assert not (tmp_path / "s.h5").exists()


@pytest.mark.parametrize("name", [
    "taps/heads", "prompts/severity/hidden_states", "answers/answer_head", "answers/answer",
    "segments/window_stop",
])  # fmt: skip
def test_a_changed_value_is_found(exported, tmp_path, name):
    shutil.copy(exported, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        place = (0,) * file[name].ndim
        file[name][place] = b"N" if name.endswith("answer") else file[name][place] + 1
    with pytest.raises(StoreError, match=r"damaged at |does not match its digest"):
        import_hdf5(tmp_path / "x.h5", tmp_path / "out")
    assert not (tmp_path / "out").exists() or FeatureStore.open(tmp_path / "out").segments.empty


def forge(name, change):
    """Change an attribute of the store that was exported."""

    def forged(file):
        content = json.loads(file.attrs["provenance"])
        content[name] = change(content[name])
        file.attrs["provenance"] = np.bytes_(json.dumps(content).encode())

    return forged


def escaping(taps):
    """A tap whose array would lie outside of the store."""
    record = Tap("../../../tmp/x", (1,), 8).as_record()
    return taps | {"taps/../../../tmp/x": record}


def linked(file):
    del file["taps/heads"]
    file["taps/heads"] = h5py.ExternalLink("/etc/passwd", "/x")


FORGERIES = {
    "a tap outside of the store": (forge("taps", escaping), "is described as"),
    "the main states again": (
        forge("taps", lambda taps: taps | {"hidden_states": MAIN.as_record()}), "is described as"
    ),
    "a tap that is not there": (
        forge("taps", lambda taps: taps | {"taps/frames_last": Tap(
            "frames_last", LAYERS, WIDTH).as_record()}), "got nothing"
    ),
    "other layers": (
        forge("taps", lambda taps: taps | {HEADS_TAP.name: Tap(HEADS, (1,), 8).as_record()}),
        "damaged at ",
    ),
    "no taps at all": (forge("taps", lambda taps: [1]), "taps is [1]"),
    "a link": (linked, "ExternalLink"),
    "answers of another model": (
        forge("answers", lambda record: record | {"epsilon": "x"}), "damaged at "
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_what_no_export_writes_is_refused_before_anything_is_made(exported, tmp_path, name):
    forged, message = FORGERIES[name]
    shutil.copy(exported, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        forged(file)
    with pytest.raises(StoreError, match=r"x\.h5: damaged at ") as caught:
        import_hdf5(tmp_path / "x.h5", tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_import_goes_on_and_another_file_is_refused(path, exported, tmp_path):
    def killed(done, total):
        if done == 1:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        import_hdf5(exported, out, killed)
    assert len(FeatureStore.open(out).segments) == LENGTHS["a"]
    import_hdf5(exported, out)
    assert_equal_stores(path, out)
    with create(tmp_path / "other.zarr", (HEADS_TAP, MEAN_TAP)) as writer:
        fill(writer, LENGTHS, (HEADS_TAP, MEAN_TAP))
    export_hdf5(tmp_path / "other.zarr", tmp_path / "other.h5")
    with pytest.raises(StoreError, match="is no unfinished import of"):
        import_hdf5(tmp_path / "other.h5", out)
