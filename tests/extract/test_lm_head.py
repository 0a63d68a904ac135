"""Answers' rows of the LM head: with stored states they give the model's own logits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.internvl_chat import load_internvl_chat
from hiprobe.extract.lm_head import WORDS, read_answers
from hiprobe.extract.pipeline import extract
from hiprobe.extract.workplace import Here
from hiprobe.store import FeatureStore, ModelError, StoreError, VideoRecord, write_manifest
from hiprobe.store.verify import verify
from tests.extract.internvl_chat_reference import INTERNLM2
from tests.extract.test_backbone import FAMILIES, checkpoints, read
from tests.extract.test_internvl_chat import VARIANTS, build, random_segment

__all__ = ["checkpoints"]


def own_logits(model, inputs):
    with torch.inference_mode():
        return model.eval()(**inputs, use_cache=False).logits[:, -1].float().numpy()


def check(folder, inputs_of, model, **options):
    """Compare with the whole model's logits; a norm on top of the last layer's own would differ."""
    backbone = Backbone(BackboneConfig(str(folder), device="cpu", **options))
    inputs = inputs_of(backbone)
    answers, last = backbone.answers, backbone.layers[-1]
    expected = own_logits(model, inputs)[:, list(answers.tokens)]
    found = answers.logits(backbone.states(inputs)[-1], last)
    assert answers.num_layers == last
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 1e-2
    return backbone


def load(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def untied(checkpoints, tmp_path_factory):
    """The same models with a head of their own, in several files."""
    folders = {}
    for family in FAMILIES:
        folder = folders[family] = tmp_path_factory.mktemp("untied") / family
        model = load(checkpoints[family])
        torch.manual_seed(1)
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) / 10)
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
        model.save_pretrained(folder, max_shard_size="200KB")
        for file in checkpoints[family].iterdir():
            if not (folder / file.name).exists() and file.suffix != ".safetensors":
                (folder / file.name).write_bytes(file.read_bytes())
        assert len([*folder.glob("*.safetensors")]) > 2
    return folders


@pytest.mark.parametrize("is_tied", [True, False], ids=["as_built", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_stored_states_are_the_models_own_logits(
    checkpoints, untied, make_video, family, is_tied
):
    folder = (checkpoints if is_tied else untied)[family]
    segments, fps = read(make_video(num_frames=54))
    check(folder, lambda backbone: backbone.prepare(segments, fps), load(folder))


@pytest.mark.parametrize("name", VARIANTS)
def test_answers_of_the_original_internvl_layout(tmp_path, name):
    decoder, form, options = VARIANTS[name]
    build(tmp_path, decoder, form, **options)
    model, _, _ = load_internvl_chat(str(tmp_path), dtype=torch.float32)
    segments = [random_segment(seed) for seed in range(2)]
    # Its made-up vocabulary has few words.
    words = (" a", "a", "s") if decoder is INTERNLM2 else ("s", "t")
    check(tmp_path, lambda backbone: backbone.prepare(segments, 25.0), model, answers=words)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logit_lens_is_the_models_norm_and_head_on_a_layer(untied, make_video, family):
    segments, fps = read(make_video(num_frames=30))
    backbone = Backbone(BackboneConfig(str(untied[family]), device="cpu"))
    states, answers = backbone.states(backbone.prepare(segments, fps)), backbone.answers
    model = load(untied[family])
    for layer in backbone.layers[:-1]:
        with torch.inference_mode():
            hidden = torch.from_numpy(states[layer])
            expected = model.lm_head(model.model.language_model.norm(hidden))
        found = answers.logits(states[layer], layer)
        np.testing.assert_allclose(found, expected[:, list(answers.tokens)], rtol=0, atol=1e-4)


def test_rows_have_the_precision_that_the_model_has(untied):
    folder = str(untied["internvl"])
    single = Backbone(BackboneConfig(folder, device="cpu")).answers
    half = Backbone(BackboneConfig(folder, device="cpu", dtype="bfloat16")).answers
    expected = torch.from_numpy(single.head).bfloat16().float().numpy()
    np.testing.assert_array_equal(half.head, expected)
    assert (half.head != single.head).any()


def test_layers_above_the_highest_wanted_one_change_nothing(untied):
    folder = str(untied["qwen2_5_vl"])
    every = Backbone(BackboneConfig(folder, device="cpu")).answers
    assert Backbone(BackboneConfig(folder, device="cpu", layers=(0, 2))).answers == every


def test_each_token_counts_once_and_the_usual_words_are_those_of_one_token(checkpoints):
    folder = str(checkpoints["qwen2_5_vl"])
    answers = Backbone(BackboneConfig(folder, device="cpu", answers=("z", "3"))).answers
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert answers.words[:2] == ("z", "3")
    assert {"A", "B", *"0123456789"} <= {*answers.words} <= {*WORDS, "z"}
    assert len({*answers.tokens}) == len(answers.tokens)
    for word, token in zip(answers.words, answers.tokens, strict=True):
        assert tokenizer.decode([token]) == word


@pytest.mark.parametrize(
    ("word", "split"), [("q~z", "'q' \\+ '~' \\+ 'z'"), ("", "nothing")]
)  # fmt: skip
def test_a_word_of_several_tokens_is_refused_and_taken_apart(checkpoints, word, split):
    config = BackboneConfig(str(checkpoints["internvl"]), device="cpu", answers=("A", word))
    with pytest.raises(ModelError, match=f"is not one token of this model but {split}"):
        Backbone(config)


def test_a_model_that_ends_otherwise_has_no_answers(checkpoints):
    folder = checkpoints["qwen3_vl"]
    backbone = Backbone(BackboneConfig(str(folder), device="cpu"))
    model = load(folder).model
    decoder = model.language_model
    decoder.norm = torch.nn.LayerNorm(64)
    assert read_answers((), folder, model, decoder, backbone.tokenizer) is None
    with pytest.raises(ModelError, match=r"--answer 'A': .* does not end in an RMS norm"):
        read_answers(("A",), folder, model, decoder, backbone.tokenizer)
    other = load(folder).model
    other.language_model.config.final_logit_softcapping = 30.0
    assert read_answers((), folder, other, other.language_model, backbone.tokenizer) is None


class Untouched(Backbone):
    """A model that is not to be run."""

    def launch(self, inputs):
        raise AssertionError("the model runs")


@pytest.fixture
def job(checkpoints, make_video, tmp_path):
    """Two videos."""
    records = [VideoRecord(name, str(make_video(f"{name}.mp4", 30)), "train", "normal")
               for name in "ab"]  # fmt: skip
    write_manifest(tmp_path / "m.csv", records)
    backbone = BackboneConfig(str(checkpoints["llava_onevision"]), device="cpu", answers=("x",))
    return ExtractConfig(tmp_path / "m.csv", tmp_path / "s.zarr", backbone, parity=0)


def asked(job, *words):
    return replace(job, backbone=replace(job.backbone, answers=words))


def test_extract_writes_answers_and_goes_on_with_them(job):
    extract(replace(job, limit=1))
    answers = FeatureStore.open(job.store).answers
    assert answers == Backbone(job.backbone).answers
    assert answers.words[0] == "x"
    extract(asked(job))
    store = FeatureStore.open(job.store)
    assert (len(store.segments), store.answers) == (4, answers)


@pytest.mark.parametrize("had", [None, ("x",)], ids=["none", "others"])
def test_a_finished_store_gains_answers_without_its_videos(job, had):
    first = Backbone(job.backbone)
    if had is None:  # as older hiprobes made it
        first.answers = None
    extract(job, workplace=Here(job, first))
    states = {path: path.read_bytes() for path in job.store.glob("hidden_states/c/*/*/*")}
    for name in "ab":
        job.manifest.with_name(f"{name}.mp4").unlink()
    notes, more = [], asked(job, "w", "A")
    again = Here(more, Untouched(more.backbone))
    summary = extract(more, workplace=again, on_note=notes.append)
    assert (summary.num_done, summary.run, summary.changed) == (2, None, {})
    store = FeatureStore.open(job.store)
    assert store.answers == Backbone(asked(job, *(had or ()), "w").backbone).answers
    assert notes == [f"answers: {job.store} keeps these too now: "
                     + ("'w'" if had else ", ".join(map(repr, store.answers.words)))]  # fmt: skip
    assert {path: path.read_bytes() for path in states} == states
    assert verify(job.store).problems == []
    extract(more, workplace=again, on_note=notes.append)
    assert len(notes) == 1


def test_answers_of_another_checkpoint_or_of_several_tokens_are_refused(job, untied):
    extract(job)
    before = FeatureStore.open(job.store).answers
    other = asked(job, "w")
    other = replace(other, backbone=replace(other.backbone, model=str(untied["llava_onevision"])))
    with pytest.raises(StoreError, match=r"model\.weights_digest: store 'sha256"):
        extract(other)
    with pytest.raises(ModelError, match="is not one token of this model but 'q'"):
        extract(asked(job, "q~z"))
    assert FeatureStore.open(job.store).answers == before
    assert verify(job.store).problems == []
