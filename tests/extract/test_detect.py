"""One video as it is read: the same scores as the batch path."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hiprobe.cli.detect_live import curve
from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.detect import (
    DetectConfig,
    describe_intervals,
    detect,
    load_probes_backbone,
    write_detection,
)
from hiprobe.extract.pipeline import extract
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import HiProbeError, Probe, StoreError, VideoError, VideoRecord, write_manifest
from tests.extract.tiny_models import BUILDERS

CPU = BackboneConfig(str(TRAINED_MODEL), device="cpu")


@pytest.fixture
def trained(make_video, tmp_path):
    """Extract, probe and evaluate some videos; return a maker of the job for one more of them."""

    def make(test_video, keyframes=8, segment_frames=24, layer=3, backbone=CPU, **probe):
        records = [
            VideoRecord(
                f"train{i}", str(make_video(f"{i}.mp4", seed=i, num_frames=50)), "train",
                ("normal", "anomalous")[i % 2],
            )
            for i in range(4)
        ]  # fmt: skip
        records.append(
            VideoRecord("test", str(test_video), "test", "anomalous", annotations=((0, 20),))
        )
        write_manifest(tmp_path / "m.csv", records)
        store = tmp_path / "s.zarr"
        settings = {"keyframes": keyframes, "segment_frames": segment_frames}
        extract(ExtractConfig(tmp_path / "m.csv", store, backbone, parity=0, **settings))
        run_probe(ProbeConfig(store, layer=layer, **probe)).save(tmp_path / "probe.json")
        run_evaluate(
            EvaluateConfig(store, tmp_path / "probe.json", tmp_path / "r", num_resamples=0)
        )
        return DetectConfig(test_video, tmp_path / "probe.json", CPU)

    return make


def assert_equals_the_batch_path(config):
    seen = []
    found = detect(config, lambda video, ranges, scores: seen.append((ranges[-1], scores[-1])))
    table = pd.read_csv(config.probe.parent / "r/scores.csv")
    frames = table[["start_frame", "stop_frame"]].to_numpy()
    np.testing.assert_array_equal(np.stack([found.start_frames, found.stop_frames], 1), frames)
    np.testing.assert_allclose(found.raw, table["score"], atol=1e-5)
    np.testing.assert_allclose(found.smoothed, table["smoothed"], atol=1e-5)
    assert [tuple(own) for own, _ in seen] == [tuple(own) for own in frames.tolist()]
    results = json.loads((config.probe.parent / "r/intervals.json").read_text())["videos"]["test"]
    assert found.intervals == [
        (one["start_frame"], one["stop_frame"]) for one in results["anomalous"]
    ]
    return found


@pytest.mark.parametrize(("keyframes", "segment_frames"), [(8, 24), (3, 16), (8, None)])
def test_scores_equal_the_batch_path(trained, make_video, keyframes, segment_frames):
    video = make_video("test.mp4", num_frames=130, seed=9)
    assert_equals_the_batch_path(trained(video, keyframes, segment_frames))


def test_scores_of_a_real_video_equal_the_batch_path(trained, shared_data):
    found = assert_equals_the_batch_path(trained(shared_data / "videos/demo/car_accident.mp4"))
    assert found.video.num_frames == 120


@pytest.mark.parametrize(("layer", "read"), [(3, (3,)), ((5, 2), (2, 5))])
def test_the_model_ends_at_the_highest_of_the_probes_layers(trained, make_video, layer, read):
    config = trained(make_video("test.mp4"), layer=layer)
    backbone, warnings = load_probes_backbone(config, Probe.load(config.probe))
    assert warnings == []
    assert backbone.layers == read
    assert len(backbone._model.language_model.layers) == max(read)


def test_scores_of_several_layers_equal_the_batch_path(trained, make_video):
    video = make_video("test.mp4", num_frames=130, seed=9)
    found = assert_equals_the_batch_path(trained(video, layer=(2, 5)))
    assert found.provenance["probe"]["layers"] == [2, 5]


@pytest.mark.parametrize(
    ("probe", "given"),
    [
        ({"method": "robust-heads", "samples_per_video": 2}, set()),
        ({"tap": "frames_mean", "layer": 2}, {"hidden_states", "taps/frames_mean"}),
        ({"prompt": "yes-no", "layer": 2}, {"hidden_states", "prompts/yes-no/hidden_states"}),
        ({"prompt": "describe", "tap": "heads", "layer": 2}, {"hidden_states", "taps/heads"}),
        ({"method": "spherical", "tap": "frames_last"}, {"hidden_states", "taps/frames_last"}),
    ],
)
def test_scores_of_other_taps_and_prompts_equal_the_batch_path(trained, make_video, probe, given):
    backbone = replace(
        CPU,
        prompt_name="describe",
        further_prompts=(("yes-no", "Is it abnormal? Answer Yes or No."), ("other", "What else?")),
        taps=("heads", "frames_mean", "frames_last"),
    )
    video = make_video("test.mp4", num_frames=130, seed=9)
    config = trained(video, backbone=backbone, **({"layer": None} | probe))
    assert_equals_the_batch_path(config)
    # Nothing is filled that the probe does not read; robust heads are of both prompts or of one.
    model, _ = load_probes_backbone(config, Probe.load(config.probe))
    names = {"hidden_states", *(tap.name for tap in model.taps)}
    if probe.get("method") != "robust-heads":
        assert names == given


def test_what_the_probe_does_not_say_of_its_model_is_a_note(trained, make_video):
    config = trained(make_video("test.mp4"))
    whole = detect(config)
    content = json.loads(config.probe.read_text())
    recorded = content["store"]["provenance"]
    del recorded["model"]
    config.probe.write_text(json.dumps(content))
    found = detect(config)
    np.testing.assert_array_equal(found.raw, whole.raw)
    assert whole.notes == []
    assert found.notes[0].endswith("that of the probe's states is not recorded")
    del recorded["prompt"], recorded["segment_frames"]
    config.probe.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="does not record prompt and segment_frames of its states"):
        detect(config)


def test_what_was_found_is_written_with_descriptions(trained, make_video, tmp_path):
    config = trained(make_video("test.mp4", num_frames=100))
    found = detect(replace(config, threshold=0.0))
    assert found.intervals == [(0, 100)]
    texts = describe_intervals(config, found, "What happens?")
    write_detection(tmp_path / "out.json", found, texts)
    content = json.loads((tmp_path / "out.json").read_text())
    (interval,) = content["intervals"]
    assert interval == {
        "start_frame": 0, "stop_frame": 100, "start_seconds": 0.0, "stop_seconds": 4.0,
        "text": texts[0],
    }  # fmt: skip
    assert texts[0]
    assert [one["score"] for one in content["segments"]] == found.raw.tolist()
    assert content["provenance"]["model"]["id"] == str(TRAINED_MODEL)
    assert describe_intervals(config, detect(replace(config, threshold=2.0)), "?") == []


def test_another_model_is_refused(trained, make_video, tmp_path):
    config = trained(make_video("test.mp4"))
    folder = BUILDERS["qwen2_5_vl"](tmp_path / "other")
    with pytest.raises(HiProbeError, match="trained on states of another model"):
        detect(replace(config, backbone=replace(CPU, model=str(folder))))


def test_what_is_no_video_or_no_probe_says_so(trained, make_video, tmp_path):
    config = trained(make_video("test.mp4"))
    with pytest.raises(VideoError, match="no such file"):
        detect(replace(config, video=tmp_path / "nothing.mp4"))
    with pytest.raises(HiProbeError, match="no such probe"):
        detect(replace(config, probe=tmp_path / "nothing.json"))


def test_the_curve_has_a_bar_a_segment_red_above_the_threshold():
    text = curve([0.0, 0.5, 1.0], 0.6, 80)
    assert text.plain == "▁▅█"
    assert [span.style for span in text.spans] == ["cyan", "cyan", "bold red"]
    assert len(curve([0.5] * 100, 0.6, 20)) == 20
