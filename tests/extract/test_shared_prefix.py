"""Several prompts in one go, against one pass each."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.batch_size import inputs_of_segments
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.dry_run import dry_run
from hiprobe.extract.pipeline import extract
from hiprobe.store import FeatureStore, VideoRecord, write_manifest
from hiprobe.store.taps import array_name
from hiprobe.store.verify import verify
from tests.extract.test_backbone import FAMILIES, checkpoints, read
from tests.extract.test_internvl_chat import VARIANTS, build, random_segment

__all__ = ["checkpoints"]
TAPS = ("heads", "frames_mean", "frames_last")
PROMPTS = (
    "Is it odd?",
    "Is anything abnormal happening in this video? Answer Yes or No.",
    "Is it?",
)


@pytest.fixture(scope="module")
def sharp(checkpoints, tmp_path_factory):
    """The same with attention that looks at few tokens, so that a wrong position is seen."""

    def make(family):
        folder = tmp_path_factory.mktemp("sharp") / family
        shutil.copytree(checkpoints[family], folder)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            for name, weight in model.model.language_model.named_parameters():
                if "q_proj.weight" in name or "k_proj.weight" in name:
                    weight.mul_(4)
        model.save_pretrained(folder)
        return folder

    return {family: make(family) for family in FAMILIES}


def assert_equal_to_runs_of_their_own(config, segments, fps):
    first, second, third = PROMPTS
    backbone = Backbone(
        replace(config, prompt=first, further_prompts=(("yes-no", second), ("third", third)))
    )
    found = backbone.all_states(backbone.prepare(segments, fps))
    assert {*found} == {"hidden_states", *(tap.name for tap in backbone.taps)}
    of_first = {}
    for name, prompt in (("", first), ("yes-no", second), ("third", third)):
        alone = Backbone(replace(config, prompt=prompt))
        expected = alone.all_states(alone.prepare(segments, fps))
        for tap in ("hidden_states", "heads"):
            own, want = found.pop(array_name(tap, name)), expected[array_name(tap)]
            np.testing.assert_allclose(own, want, rtol=0, atol=1e-5 * np.abs(want).max())
        of_first = of_first or expected
    # What is taken of the video is there once.
    assert {*found} == {"taps/frames_mean", "taps/frames_last"}
    for name, states in found.items():
        np.testing.assert_allclose(states, of_first[name], rtol=0, atol=1e-5)
    return backbone, of_first, expected


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_each_prompt_equal_those_of_a_run_of_its_own(sharp, make_video, family):
    # So few frames a second that Qwen2.5-VL counts further in time than in space.
    config = BackboneConfig(str(sharp[family]), device="cpu", taps=TAPS)
    backbone, first, last = assert_equal_to_runs_of_their_own(
        config, *read(make_video(num_frames=54, fps=5))
    )
    assert backbone.describe().notes == ()
    # And does not depend on the prompt.
    for name in ("taps/frames_mean", "taps/frames_last"):
        np.testing.assert_allclose(first[name], last[name], rtol=0, atol=1e-5)


VIDEO_FIRST = {
    "qwen2_5_vl": "<|vision_start|><|video_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|video_pad|><|vision_end|>",
    "internvl": "<video>\\n",
    "llava_onevision": "<video>\\n",
}


@pytest.fixture(scope="module")
def text_first(sharp, tmp_path_factory):
    """The same with a chat template that puts the text before the video."""

    def make(family):
        folder = tmp_path_factory.mktemp("text-first") / family
        shutil.copytree(sharp[family], folder)
        file, video = folder / "chat_template.jinja", VIDEO_FIRST[family]
        loop = (
            "{% for part in message['content'] %}{% if part['type'] == 'text' %}"
            "{{ part['text'] + '\\n' }}{% endif %}{% endfor %}" + video
        )
        before, _, rest = file.read_text().partition("{% for part in")
        file.write_text(before + loop + rest.partition("{% endfor %}")[2])
        return folder

    return {family: make(family) for family in FAMILIES}


@pytest.mark.parametrize("on_device", [None, True], ids=["processor", "on_device"])
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_before_the_video_are_passes_of_their_own(
    text_first, make_video, family, on_device
):
    config = BackboneConfig(
        str(text_first[family]), device="cpu", taps=TAPS, frames_on_device=on_device
    )
    segments, fps = read(make_video(num_frames=54, fps=5))
    backbone, first, last = assert_equal_to_runs_of_their_own(config, segments, fps)
    # Now it does depend on the prompt.
    assert np.abs(first["taps/frames_mean"][1:] - last["taps/frames_mean"][1:]).max() > 1e-3
    (note,) = backbone.describe().notes
    assert "the text before the video, so the 3 prompts share nothing" in note
    # A batch that does not fit is halved.
    inputs = backbone.prepare(segments, fps)
    whole = backbone.all_states(inputs)
    for number in range(3):
        part = backbone.all_states(inputs_of_segments(inputs, 3, number, number + 1))
        for name, states in part.items():
            np.testing.assert_allclose(states[:, 0], whole[name][:, number], rtol=0, atol=1e-5)


def test_a_store_of_prompts_before_the_video_is_filled_and_gains_more(
    text_first, make_video, tmp_path
):
    records = [VideoRecord("a", str(make_video("a.mp4", 60)), "train", "normal")]
    write_manifest(tmp_path / "m.csv", records)
    backbone = BackboneConfig(str(text_first["qwen2_5_vl"]), device="cpu", layers=(0, 2, 4))
    job = ExtractConfig(tmp_path / "m.csv", tmp_path / "s.zarr", backbone)
    notes = []
    run = partial(extract, on_note=notes.append)
    assert run(job).parity["exceeded"] == []
    assert not any("prompts:" in note for note in notes)
    asked = replace(backbone, taps=("frames_mean",), further_prompts=(("yes-no", PROMPTS[1]),))
    job = replace(job, backbone=asked)
    assert "the 2 prompts share nothing" in dry_run(job).notes[0]
    assert run(job).parity["exceeded"] == []
    assert [note for note in notes if "prompts:" in note] == [*dry_run(job).notes]
    assert verify(job.store).problems == []
    alone = replace(job, store=tmp_path / "alone.zarr")
    extract(replace(alone, backbone=replace(backbone, prompt=PROMPTS[1])))
    np.testing.assert_allclose(
        FeatureStore.open(job.store).layer(4, prompt="yes-no"),
        FeatureStore.open(alone.store).layer(4),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["internlm2", "qwen2"])
def test_so_do_those_of_the_original_internvl_layout(tmp_path, name):
    decoder, form, options = VARIANTS[name]
    build(tmp_path, decoder, form, **options)
    config = BackboneConfig(str(tmp_path), device="cpu", taps=TAPS)
    assert_equal_to_runs_of_their_own(config, [random_segment(0), random_segment(1)], 25.0)


def test_so_do_those_of_a_trained_model_on_a_real_video(shared_data):
    segments, fps = read(shared_data / "videos/demo/car_accident.mp4")
    config = BackboneConfig(str(TRAINED_MODEL), device="cpu", taps=TAPS)
    assert_equal_to_runs_of_their_own(config, segments, fps)
