"""Frames that become pixel values on the model's device: the same values, recorded, kept up.

There is no GPU here: the device is the CPU, and what a GPU does otherwise is tried on the CPU.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import _geometry

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.batch_size import inputs_of_segments
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.device_frames import FRAMES, DeviceFrames
from hiprobe.extract.generation import Describer
from hiprobe.extract.parity import certify
from hiprobe.extract.pipeline import extract
from hiprobe.extract.recipe import gone_on_with
from hiprobe.store import FeatureStore, StoreError, VideoRecord, write_manifest
from hiprobe.store.state_distances import relative_l2
from tests.extract.test_backbone import FAMILIES, checkpoints, read  # noqa: F401
from tests.extract.test_published_processors import ROWS, published  # noqa: F401


def pixel_values(inputs):
    (name,) = (name for name in inputs if name.startswith("pixel_values"))
    return inputs[name]


def both(folder, **options):
    config = BackboneConfig(str(folder), device="cpu", **options)
    return Backbone(config), Backbone(replace(config, frames_on_device=True))


@pytest.mark.parametrize("family", ROWS)
@pytest.mark.parametrize("size", [(320, 240), (636, 362)])
def test_pixel_values_are_those_of_the_processor(
    published, make_video, family, size  # noqa: F811
):  # fmt: skip
    segments, fps = read(make_video(num_frames=30, size=size))
    usual, own = both(published / family)
    expected, inputs = usual.prepare(segments, fps), own.prepare(segments, fps)
    # A reader's thread has the text and the decoded frames, and no pixel values.
    assert inputs[FRAMES].dtype == torch.uint8
    assert inputs[FRAMES].shape == (2, 8, size[1], size[0], 3)
    assert pixel_values(inputs).is_meta
    got = own._frames.to_device(inputs)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-3 / 255)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_processors_pixel_values(
    checkpoints, make_video, family  # noqa: F811
):  # fmt: skip
    segments, fps = read(make_video(num_frames=54))
    usual, own = both(checkpoints[family])
    expected = usual.states(usual.prepare(segments, fps))
    states = own.states(own.prepare(segments, fps))
    np.testing.assert_allclose(states, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_of_a_batch_has_its_own_frames(checkpoints, make_video, family):  # noqa: F811
    segments, fps = read(make_video(num_frames=96))
    _, own = both(checkpoints[family])
    inputs = own.prepare(segments, fps)
    parts = [own.states(inputs_of_segments(inputs, 4, start, start + 1)) for start in range(4)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), own.states(inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_gets_the_same_frames(checkpoints, make_video, family):  # noqa: F811
    segments, fps = read(make_video(num_frames=24))
    usual, own = both(checkpoints[family])
    describer = Describer(own.config)
    states = describer.first_token_states(segments[0], own.config.prompt, fps)
    np.testing.assert_allclose(
        states, usual.states(usual.prepare(segments, fps))[:, 0], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_gpu_does_otherwise_is_rounding(
    checkpoints, make_video, family, monkeypatch  # noqa: F811
):  # fmt: skip
    """A GPU resizes floats where a CPU resizes bytes: torchvision's other way, on the CPU."""
    segments, fps = read(make_video(num_frames=24, size=(320, 240)))
    usual, own = both(checkpoints[family])
    inputs, expected = own.prepare(segments, fps), usual.prepare(segments, fps)
    monkeypatch.setattr(_geometry, "_do_native_uint8_resize_on_cpu", lambda interpolation: False)
    got = own._frames.to_device(inputs)
    std = max(own._processor.video_processor.image_std)
    levels = (pixel_values(got) - pixel_values(expected)).abs() * std * 255
    assert 0 < levels.mean() < 0.2
    assert (levels > 1.5).float().mean() < 0.02
    assert relative_l2(own.states(inputs), usual.states(expected)).max() < 0.02


def test_frames_are_made_on_a_gpu_unless_said_otherwise():
    for device, asked, expected in (
        ("cpu", None, False), ("cuda:0", None, True), ("cpu", True, True), ("cuda:0", False, False),
    ):  # fmt: skip
        config = BackboneConfig("m", frames_on_device=asked)
        frames = DeviceFrames(None, None, {}, config, torch.device(device))
        assert frames.are_on_device == expected


@pytest.fixture
def job(make_video, tmp_path, model):
    names = ("a", "b")
    records = [
        VideoRecord(name, make_video(f"{name}.mp4", 48, seed=seed), "train", "normal", "", ())
        for seed, name in enumerate(names)
    ]
    write_manifest(tmp_path / "manifest.csv", records)
    backbone = BackboneConfig(str(model), device="cpu")
    return ExtractConfig(tmp_path / "manifest.csv", tmp_path / "store.zarr", backbone, parity=1)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_store_goes_on_as_it_began_and_says_how(job, on_device, monkeypatch):
    began = replace(job.backbone, frames_on_device=on_device)
    extract(replace(job, backbone=began, only=("a",)))
    origin = FeatureStore.open(job.store).origin
    assert origin.frames_on_device == on_device
    # As of now, nothing is said where nothing has changed: a store of before looks like that.
    call = origin.attributes["processor"]["call"]
    assert ("frames_on_device" in call) == on_device
    assert gone_on_with(job).backbone.frames_on_device == on_device
    extract(gone_on_with(job))
    assert certify(job.store, 4, device="cpu")["exceeded"] == []
    other = replace(job, backbone=replace(job.backbone, frames_on_device=not on_device))
    with pytest.raises(StoreError, match=r"processor\.call\.frames_on_device"):
        extract(replace(other, only=("b",), retry_failed=True, replace_changed=True))
