"""Narrow, then wide: all layers of a few videos, a probe, then its layers only of all videos."""

from dataclasses import replace

import numpy as np
import pytest

from hiprobe.demo.model import build_random_model
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.pipeline import extract
from hiprobe.extract.prompts import with_probes_first_prompt
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import (
    FeatureStore,
    HiProbeError,
    ModelError,
    Probe,
    VideoRecord,
    write_manifest,
)
from hiprobe.store.subset import subset
from tests.cli.test_cli import hiprobe


@pytest.fixture
def narrow(tmp_path, make_video, model):
    """Four training videos, extracted with all layers; the manifest has two test videos more."""
    records = [
        VideoRecord(
            f"v{number}", str(make_video(f"v{number}.mp4", 60, seed=number)),
            "train" if number < 4 else "test", "anomalous" if number % 2 else "normal",
        )
        for number in range(6)
    ]  # fmt: skip
    write_manifest(tmp_path / "manifest.csv", records)
    backbone = BackboneConfig(str(model), device="cpu")
    job = ExtractConfig(tmp_path / "manifest.csv", tmp_path / "narrow.zarr", backbone, parity=0)
    extract(replace(job, only=("v0", "v1", "v2", "v3")))
    run_probe(ProbeConfig(job.store, layer=5)).save(tmp_path / "probe.json")
    return job


def test_the_probes_layers_are_gone_on_with_from_a_subset(narrow, tmp_path):
    wide, probe = tmp_path / "wide.zarr", tmp_path / "probe.json"
    for command in (
        ("store", "subset", narrow.store, wide, "--layers-from", probe),
        ("extract", narrow.manifest, wide, "--model", narrow.backbone.model, "--device", "cpu",
         "--layers-from", probe),
        ("evaluate", wide, probe, tmp_path / "results"),
    ):  # fmt: skip
        result = hiprobe(*map(str, command), cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    store = FeatureStore.open(wide)
    assert store.layers == [5]
    extract(narrow)
    np.testing.assert_allclose(
        store.layer(5), FeatureStore.open(narrow.store).layer(5, store.videos.index), atol=1e-5
    )
    both = hiprobe(
        *("extract", "manifest.csv", "x.zarr", "--model", "m", "--layers", "5"),
        *("--layers-from", "probe.json"),
        cwd=tmp_path,
    )
    assert both.returncode == 2
    assert "not both" in both.stderr


def test_the_probes_taps_and_prompts_come_with_its_layers(narrow, tmp_path):
    asked = replace(
        narrow.backbone,
        taps=("heads", "frames_mean"),
        further_prompts=(("yes-no", "Is it odd? Answer Yes or No."), ("other", "What else?")),
    )
    extract(replace(narrow, backbone=asked, only=("v0", "v1", "v2", "v3")))
    probe = tmp_path / "probe.json"
    run_probe(ProbeConfig(narrow.store, layer=3, tap="heads", prompt="yes-no")).save(probe)
    result = hiprobe(
        *("extract", narrow.manifest, tmp_path / "wide.zarr", "--layers-from", probe),
        *("--model", narrow.backbone.model, "--device", "cpu"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    store = FeatureStore.open(tmp_path / "wide.zarr")
    assert (store.layers, store.taps, store.prompts) == (
        [3],
        ["hidden_states", "heads"],
        ["", "yes-no"],
    )
    result = hiprobe("evaluate", store.path, probe, tmp_path / "results", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_first_prompt_of_the_probes_store_comes_too_by_its_name(narrow, tmp_path):
    whole = replace(narrow, store=tmp_path / "whole.zarr", only=("v0", "v1", "v2", "v3"))
    extract(replace(whole, backbone=replace(narrow.backbone, prompt="Odd?", prompt_name="odd")))
    run_probe(ProbeConfig(whole.store, layer=3, prompt="odd")).save(tmp_path / "odd.json")
    for command in (
        ("extract", narrow.manifest, "wide.zarr", "--model", narrow.backbone.model, "--device",
         "cpu", "--layers-from", "odd.json"),
        ("evaluate", "wide.zarr", "odd.json", "results"),
    ):  # fmt: skip
        result = hiprobe(*map(str, command), cwd=tmp_path)
        assert (result.returncode, "warning: odd.json" in result.stderr) == (0, False)
    store = FeatureStore.open(tmp_path / "wide.zarr")
    assert (store.prompts, store.origin.prompt) == (["odd"], "Odd?")
    # Where something else is the first one, it is a further one; and never another by its name.
    probe = Probe.load(tmp_path / "odd.json")
    for name, text, further in (("mine", "Fire?", (("odd", "Odd?"),)), ("odd", "Odd?", ())):
        asked = replace(narrow.backbone, prompt_name=name, prompt=text)
        found = with_probes_first_prompt(asked, probe, probe.inputs, is_first=False)
        assert found == replace(asked, further_prompts=further)
    plain = Probe.load(tmp_path / "probe.json")  # it reads the first one, whatever its name
    assert with_probes_first_prompt(asked, plain, plain.inputs, is_first=False) == asked
    other = replace(asked, prompt="Even?")
    with pytest.raises(HiProbeError, match=r"--prompt odd: the probe's .* 'Odd\?', not 'Even\?'"):
        with_probes_first_prompt(other, probe, probe.inputs, is_first=False)


def test_states_that_the_probe_cannot_score_are_refused_before_they_are_made(narrow, tmp_path):
    probe, wide = tmp_path / "probe.json", tmp_path / "wide.zarr"
    other = build_random_model(tmp_path / "other", seed=1)
    layers = Probe.load(probe).layers_read
    job = replace(narrow, store=wide, layers_from=probe,
                  backbone=BackboneConfig(str(other), device="cpu", layers=layers))  # fmt: skip
    with pytest.raises(ModelError, match=r"cannot score .*\n  model.weights_digest"):
        extract(job)
    assert not wide.exists()
    warnings = []
    same = replace(job.backbone, model=narrow.backbone.model)
    extract(replace(job, backbone=same, keyframes=4, limit=1), on_warning=warnings.append)
    assert warnings == [f"{probe}: keyframes was 8 in training, is 4 here"]


def test_a_subset_made_in_between_is_the_same_as_one_extracted(narrow, tmp_path):
    asked = replace(narrow.backbone, taps=("heads", "frames_mean"))
    extract(replace(narrow, backbone=asked, only=("v0", "v1", "v2", "v3")))
    subset(narrow.store, tmp_path / "small.zarr", layers=(0, 5))
    again = replace(
        narrow, store=tmp_path / "small.zarr", backbone=replace(narrow.backbone, layers=(0, 5))
    )
    assert extract(again).num_done == 6
    store = FeatureStore.open(again.store)
    assert [(tap.tap, tap.layers) for tap in store.further_taps] == [
        ("heads", (5,)),
        ("frames_mean", (0, 5)),
    ]
