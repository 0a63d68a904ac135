"""Features of other programs become a store: every format, what rows are, and what is refused."""

import pickle
import re

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from hiprobe.cli.main import app
from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import FeatureStore, HiProbeError, VideoRecord, import_features, write_manifest
from hiprobe.store.import_features import FeatureImport
from hiprobe.store.import_features import import_features as import_all
from hiprobe.store.verify import verify

UNIT, WIDTH, NUM_VIDEOS = 16, 6, 12


def records(num_videos=NUM_VIDEOS, **changes):
    """Videos of 100 to 111 frames by turns normal and anomalous, in folders."""
    found = []
    for number in range(num_videos):
        label = ("normal", "anomalous")[number % 2]
        split = ("train", "test")[number // 2 % 2]
        annotated = ((32, 64),) if label == "anomalous" else ()
        record = VideoRecord(
            f"{label}/clip-{number}", f"/nowhere/{number}.mp4", split, label, "", annotated,
            100 + number, 25.0,
        )  # fmt: skip
        found.append(record)
    return found


def features(record, num_rows=7, seed=0):
    """Rows that know the anomaly: (row, feature) float32."""
    rng = np.random.default_rng([seed, int(record.video_id.rpartition("-")[2])])
    rows = rng.normal(size=(num_rows, WIDTH)).astype(np.float32)
    for start, stop in record.annotations:
        rows[start // UNIT : stop // UNIT] += 4
    return rows


def write_npy(folder, record, array, name=None):
    path = folder / f"{name or record.video_id}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "manifest.csv"
    write_manifest(path, records())
    return path


def config(tmp_path, manifest, source, **options):
    options = {"unit_frames": UNIT, "name": "C3D", **options}
    return FeatureImport(source, manifest, tmp_path / "s.zarr", **options)


def whole_folder(tmp_path):
    folder = tmp_path / "features"
    for record in records():
        write_npy(folder, record, features(record))
    return folder


@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "safetensors", "one npz", "one h5"])
def test_every_format_gives_the_same_store(tmp_path, manifest, kind):
    folder = tmp_path / "features"
    arrays = {record.video_id: features(record) for record in records()}
    for video_id, array in arrays.items():
        path = folder / video_id
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "npy":
            np.save(path, array)
        elif kind == "npz":
            np.savez(path, features=array)
        elif kind == "h5":
            with h5py.File(f"{path}.h5", "w") as file:
                file["features"] = array
        elif kind == "safetensors":
            save_file({"features": array}, f"{path}.safetensors")
    if kind == "one npz":
        folder = tmp_path / "all.npz"
        np.savez(folder, **{name.rpartition("/")[2]: array for name, array in arrays.items()})
    elif kind == "one h5":
        folder = tmp_path / "all.h5"
        with h5py.File(folder, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    assert import_all(config(tmp_path, manifest, folder)) == (NUM_VIDEOS, {1: "features"})
    store = FeatureStore.open(tmp_path / "s.zarr")
    for video_id, array in arrays.items():
        np.testing.assert_array_equal(store.video(video_id)[0], array)
    assert not verify(tmp_path / "s.zarr").problems
    own = store.segments[store.segments["video_id"] == "anomalous/clip-1"]
    ranges = own[["start_frame", "stop_frame"]].to_numpy().tolist()
    assert ranges == [[start, min(start + UNIT, 101)] for start in range(0, 101, UNIT)]
    assert store.provenance["imported"]["unit"] == "16 frames"


def test_several_arrays_are_layers_in_the_order_of_their_numbers(tmp_path, manifest):
    folder = tmp_path / "features"
    for record in records():
        path = folder / f"{record.video_id}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{f"block{n}": features(record, seed=n) for n in (10, 2, 1)})
    _, names = import_all(config(tmp_path, manifest, folder))
    assert names == {1: "block1", 2: "block2", 3: "block10"}
    store = FeatureStore.open(tmp_path / "s.zarr")
    first = records()[0]
    for layer, seed in ((1, 1), (2, 2), (3, 10)):
        np.testing.assert_array_equal(
            store.video(first.video_id, [layer])[0], features(first, seed=seed)
        )


def test_crops_are_averaged_whichever_axis_or_file_they_are(tmp_path, manifest):
    stores = {}
    for way in ("first", "second", "files"):
        folder = tmp_path / way
        for record in records():
            crops = np.stack([features(record, seed=n) for n in range(5)])
            name = record.video_id.rpartition("/")[2] + "_i3d"
            if way == "files":
                for number, crop in enumerate(crops):
                    write_npy(folder, record, crop, f"{name}__{number}")
            else:
                write_npy(folder, record, crops if way == "first" else crops.swapaxes(0, 1), name)
        asked = config(
            tmp_path / way, manifest, folder, name_ending="_i3d",
            crop_axis="second" if way == "second" else "first",
        )  # fmt: skip
        import_all(asked)
        stores[way] = FeatureStore.open(asked.store)
    for record in records():
        expected = np.mean([features(record, seed=n) for n in range(5)], axis=0)
        for store in stores.values():
            np.testing.assert_allclose(store.video(record.video_id)[0], expected, atol=1e-6)


def test_equal_parts_cover_the_video(tmp_path, manifest):
    folder = tmp_path / "features"
    for record in records():
        write_npy(folder, record, features(record, num_rows=32))
    import_all(config(tmp_path, manifest, folder, unit_frames=None))
    segments = FeatureStore.open(tmp_path / "s.zarr").segments
    for record in records():
        own = segments[segments["video_id"] == record.video_id]
        starts, stops = own["start_frame"].to_numpy(), own["stop_frame"].to_numpy()
        assert (starts[0], stops[-1]) == (0, record.num_frames)
        assert (starts[1:] == stops[:-1]).all()
        assert set((stops - starts).tolist()) <= {3, 4}


def test_a_probe_learns_from_them_and_is_evaluated(tmp_path, manifest):
    import_all(config(tmp_path, manifest, whole_folder(tmp_path)))
    probe = run_probe(ProbeConfig(tmp_path / "s.zarr"))
    probe.save(tmp_path / "probe.json")
    found = run_evaluate(
        EvaluateConfig(
            tmp_path / "s.zarr", tmp_path / "probe.json", tmp_path / "r", num_resamples=0
        )
    )
    assert found["raw"]["auc"] > 0.95


def test_the_c3d_features_of_ucf_crime(tmp_path, shared_data):
    """Real ones, of the field's benchmark: 32 equal parts of 40 videos."""
    source = shared_data / "features/ucf_c3d_32seg.npz"
    found = []
    for name in np.load(source):
        is_normal = name.startswith("Normal")
        category = "" if is_normal else re.match("[A-Za-z]+", name)[0]
        label = "normal" if is_normal else "anomalous"
        found.append(VideoRecord(name, f"/nowhere/{name}.mp4", "train", label, category))
    write_manifest(tmp_path / "manifest.csv", found)
    arguments = [
        "store", "import-features", source, tmp_path / "manifest.csv", tmp_path / "s.zarr",
        "--equal-parts", "--name", "C3D",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert "40 training videos have no num_frames" in result.output
    store = FeatureStore.open(tmp_path / "s.zarr")
    assert (len(store.segments), store.num_features) == (40 * 32, 4096)
    np.testing.assert_allclose(np.linalg.norm(store.layer(1), axis=1), 1, atol=1e-4)


# What is wrong with one video's file, and what is said of it.
WRONG = {
    "missing": r"no features of 1 of 12 videos(.|\n)*anomalous/clip-3",
    "twice": "has several files of features",
    "cut off": "clip-3.npy: cannot be read as features",
    "not finite": r"clip-3.npy: 'features': row 2 has values that are not finite",
    "too long": "9 rows of 16 frames for a video of 103 frames, expected 7",
    "too wide": r"arrays of \[\(7, 12\)\], expected \(7, 6\)",
    "text": "is an array of <U1, expected numbers",
    "one number": r"is of shape \(\), expected \(rows, features\)",
}


def damage(path, kind):
    record = records()[3]
    rows = features(record)
    holes = rows.copy()
    holes[2, 1] = np.nan
    written = {
        "not finite": holes,
        "too long": features(record, num_rows=9),
        "too wide": np.hstack([rows, rows]),
        "text": np.array([["a", "b"]]),
        "one number": np.float32(3),
    }
    if kind == "missing":
        path.unlink()
    elif kind == "twice":
        for folder in ("one", "two"):
            write_npy(path.parents[1] / folder, record, rows, "clip-3")
        path.unlink()
    elif kind == "cut off":
        path.write_bytes(path.read_bytes()[:-50])
    else:
        np.save(path, written[kind])


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_named_and_nothing_is_written(tmp_path, manifest, kind):
    folder = whole_folder(tmp_path)
    damage(folder / f"{records()[3].video_id}.npy", kind)
    with pytest.raises(HiProbeError, match=WRONG[kind]):
        import_all(config(tmp_path, manifest, folder))
    assert not (tmp_path / "s.zarr").exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_objects_are_never_unpickled(tmp_path, manifest, kind):
    folder, record = whole_folder(tmp_path), records()[0]
    trapped = np.array([[Trap(tmp_path / "sprung")]], dtype=object)
    path = folder / f"{record.video_id}.npy"
    path.unlink()
    if kind == "npy":
        np.save(path, trapped, allow_pickle=True)
    else:
        np.savez(path.with_suffix(".npz"), features=trapped)
    with pytest.raises(HiProbeError, match="holds Python objects, which are never loaded"):
        import_all(config(tmp_path, manifest, folder))
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung"))).close()
    assert (tmp_path / "sprung").exists()


def test_an_hdf5_file_cannot_name_other_files(tmp_path, manifest):
    folder, record = whole_folder(tmp_path), records()[0]
    path = folder / f"{record.video_id}.npy"
    path.unlink()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(features(record).tobytes())
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset(
            "features", (7, WIDTH), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        )
    with pytest.raises(HiProbeError, match="has its values in other files"):
        import_all(config(tmp_path, manifest, folder))


def test_an_interrupted_import_goes_on_and_changed_files_are_another_store(
    tmp_path, manifest, monkeypatch
):
    folder = whole_folder(tmp_path)
    asked, written = config(tmp_path, manifest, folder), []
    write_video = import_features.write_video

    def interrupted(writer, position, *arguments):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(position)
        write_video(writer, position, *arguments)

    monkeypatch.setattr(import_features, "write_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_all(asked)
    monkeypatch.setattr(import_features, "write_video", write_video)
    import_all(asked)
    store = FeatureStore.open(asked.store)
    for record in records():
        np.testing.assert_array_equal(store.video(record.video_id)[0], features(record))
    write_npy(folder, records()[0], features(records()[0], seed=1))
    with pytest.raises(HiProbeError, match="another store already, imported from"):
        import_all(asked)


def test_lengths_are_needed_where_frames_are_known(tmp_path):
    unknown = [
        VideoRecord(one.video_id, one.path, one.split, one.label, "", one.annotations)
        for one in records()
    ]
    write_manifest(tmp_path / "manifest.csv", unknown)
    with pytest.raises(HiProbeError, match="does not say num_frames of 9 videos"):
        import_all(config(tmp_path, tmp_path / "manifest.csv", whole_folder(tmp_path)))


def test_what_a_row_is_has_to_be_said(tmp_path, manifest):
    arguments = ["store", "import-features", tmp_path, manifest, tmp_path / "s.zarr"]
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 2
    assert "--unit-frames" in result.output
