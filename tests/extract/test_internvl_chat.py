"""Checkpoints of the original InternVLChatModel layout against the original's own arithmetic."""

import json
from dataclasses import replace

import numpy as np
import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, models, normalizers, processors
from transformers.tokenization_utils_sentencepiece import SentencePieceExtractor
from transformers.utils.logging import disable_progress_bar

from hiprobe.extract import internvl_chat
from hiprobe.extract.backbone import (
    Backbone,
    BackboneConfig,
    chat_text,
    process_segments,
)
from hiprobe.extract.first_token import FirstTokenTap
from hiprobe.extract.generation import Describer
from hiprobe.extract.internvl_chat import is_internvl_chat, load_internvl_chat
from hiprobe.extract.video import Segment, SegmentReader
from hiprobe.store import ModelError
from tests.extract.internvl_chat_reference import (
    INTERNLM2,
    LLAMA,
    QWEN2,
    hidden_states,
    make_config,
    make_weights,
    save_checkpoint,
    save_internlm2_tokenizer,
    save_qwen2_tokenizer,
    sentencepiece_model,
)

PROMPT = "Is an app the thing?"
OLD_SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
    "是一个有用无害的人工智能助手。"
)
# name: decoder, the checkpoint's form, and what differs from the reference's configuration.
VARIANTS = {
    "internlm2": (INTERNLM2, "sharded", {}),
    "internlm2_bias_dynamic_rope": (
        INTERNLM2,
        "bin",
        {"llm": {"bias": True, "max_position_embeddings": 64}},
    ),
    "internlm2_other_vision": (
        INTERNLM2,
        "single",
        {
            "vision": {"norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False}
            | {"layer_norm_eps": 1e-6},
            "llm": {"num_key_value_heads": 4, "rope_scaling": None},
        },
    ),
    "internlm2_select_layer": (
        INTERNLM2,
        "sharded",
        {"select_layer": -2, "force_image_size": 112, "template": "internlm2-chat"},
    ),
    "llama": (LLAMA, "single", {"template": "Hermes-2"}),
    "qwen2": (QWEN2, "sharded", {}),
    "qwen2_tied": (QWEN2, "single", {"llm": {"tie_word_embeddings": True}}),
}


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    disable_progress_bar()


def build(folder, decoder=INTERNLM2, form="sharded", change=None, **options):
    """Write a checkpoint; return its configuration and weights."""
    save_tokenizer = save_internlm2_tokenizer if decoder is INTERNLM2 else save_qwen2_tokenizer
    config = make_config(decoder, save_tokenizer(folder), **options)
    weights = make_weights(config)
    save_checkpoint(folder, config, change(weights) if change else weights, form)
    return config, weights


def random_segment(seed=0):
    keyframes = np.random.default_rng(seed).integers(0, 256, (8, 40, 72, 3), dtype=np.uint8)
    return Segment(0, 0, 24, tuple(range(0, 24, 3)), keyframes)


def prepare(processor, *segments):
    texts = [chat_text(processor, PROMPT)] * len(segments)
    return process_segments(processor, texts, segments, [25.0] * len(segments))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_hidden_state_equals_the_originals(tmp_path, name):
    decoder, form, options = VARIANTS[name]
    config, weights = build(tmp_path, decoder, form, **options)
    model, processor, folder = load_internvl_chat(str(tmp_path))
    inputs = prepare(processor, random_segment())
    with torch.inference_mode():
        output = model(**inputs, output_hidden_states=True, use_cache=False)
    states = torch.stack(output.hidden_states)[:, 0]
    expected = hidden_states(weights, config, inputs["input_ids"][0], inputs["pixel_values"])
    assert folder == tmp_path
    assert states.shape == expected.shape == (4, inputs["input_ids"].shape[1], 64)
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-4)
    head = weights.get("language_model.output.weight")
    if head is None:
        tied = weights["language_model.model.embed_tokens.weight"]
        head = weights.get("language_model.lm_head.weight", tied)
    torch.testing.assert_close(output.logits[0], expected[-1] @ head.T, rtol=0, atol=1e-4)


def test_first_token_states_as_the_backbone_takes_them(tmp_path):
    config, weights = build(tmp_path)
    model, processor, _ = load_internvl_chat(str(tmp_path), attn_implementation="eager")
    inputs = prepare(processor, random_segment(0), random_segment(1))
    generated = model.generate(
        **inputs, max_new_tokens=1, output_hidden_states=True, return_dict_in_generate=True
    )
    tap = FirstTokenTap(model.model.language_model, (0, 1, 2, 3))
    with torch.inference_mode():
        model.model(**inputs, use_cache=False)
    states = tap.take()
    assert model.config._attn_implementation == "eager"
    for index, pixels in enumerate(inputs["pixel_values"].chunk(2)):
        expected = hidden_states(weights, config, inputs["input_ids"][index], pixels)[:, -1]
        torch.testing.assert_close(states[:, index], expected, rtol=0, atol=1e-4)
    last = torch.stack([layer[:, -1] for layer in generated.hidden_states[0]])
    torch.testing.assert_close(states, last, rtol=0, atol=1e-5)


def test_from_a_video_file_through_the_backbone(tmp_path, make_video):
    """States equal `generate`'s, and the model describes."""
    build(tmp_path / "model")
    segments = list(SegmentReader(make_video(num_frames=40), [(0, 24), (24, 40)], 8))
    config = BackboneConfig(str(tmp_path / "model"), device="cpu")
    backbone = Backbone(config)
    inputs = backbone.prepare(segments, 25.0)
    model, _, _ = load_internvl_chat(str(tmp_path / "model"), dtype=torch.float32)
    generated = model.generate(
        **inputs, max_new_tokens=1, output_hidden_states=True, return_dict_in_generate=True
    )
    last = torch.stack([layer[:, -1] for layer in generated.hidden_states[0]])
    np.testing.assert_allclose(backbone.states(inputs), last.numpy(), rtol=0, atol=1e-5)
    assert backbone.describe().provenance["model"]["weights_digest"].startswith("sha256:")
    texts = Describer(config, 4).describe(segments, ["What?", "What else is there?"], 25.0)
    assert len(texts) == 2


@pytest.mark.parametrize(("stored", "stated"), [("bfloat16", None), ("float32", "bfloat16")])
def test_the_dtype_is_the_checkpoints_own_unless_asked_for(tmp_path, stored, stated):
    def cast(weights):
        return {name: value.to(getattr(torch, stored)) for name, value in weights.items()}

    build(tmp_path, change=cast, torch_dtype=stated)
    own, _, _ = load_internvl_chat(str(tmp_path))
    single, _, _ = load_internvl_chat(str(tmp_path), dtype=torch.float32)
    assert {value.dtype for value in own.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in single.parameters()} == {torch.float32}
    for tensor in (*own.buffers(), *own.parameters()):
        assert not tensor.is_meta


def test_a_hub_id_goes_through_the_hubs_cache(tmp_path, monkeypatch):
    build(tmp_path / "snapshots" / "abc", form="bin")
    asked = []

    def snapshot_download(model, revision, allow_patterns):
        asked.append((model, revision, "pytorch_model*.bin" in allow_patterns))
        return str(tmp_path / "snapshots" / "abc")

    monkeypatch.setattr(internvl_chat, "snapshot_download", snapshot_download)
    model, _, folder = load_internvl_chat("OpenGVLab/InternVL2-2B", revision="v1")
    assert asked == [
        ("OpenGVLab/InternVL2-2B", "v1", False),
        ("OpenGVLab/InternVL2-2B", "v1", True),
    ]
    assert folder.name == model.config._commit_hash == "abc"


# --- the processor -----------------------------------------------------------------------------


def prompt(system, end, num_tokens=4):
    image = "<img>" + "<IMG_CONTEXT>" * num_tokens + "</img>\n"
    frames = "".join(f"Frame{index + 1}: {image}" for index in range(8))
    return (
        f"<|im_start|>system\n{system}{end}<|im_start|>user\n{frames}{PROMPT}{end}"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"template": "internlm2-chat"}, prompt(OLD_SYSTEM, "<|im_end|>")),
        ({"template": "Hermes-2", "system_message": None}, prompt(OLD_SYSTEM, "<|im_end|>")),
        ({"system_message": 'A "{{ b }}"\n\\c'}, prompt('A "{{ b }}"\n\\c', "<|im_end|>\n")),
        ({"force_image_size": 112, "system_message": "S"}, prompt("S", "<|im_end|>\n", 16)),
    ],
)
def test_the_prompt_is_that_of_the_originals_chat(tmp_path, options, expected):
    build(tmp_path, **options)
    _, processor, _ = load_internvl_chat(str(tmp_path))
    ids = prepare(processor, random_segment())["input_ids"][0]
    assert processor.tokenizer.decode(ids) == "<s>" + expected


def test_qwen2_prompts_begin_without_a_special_token(tmp_path):
    build(tmp_path, QWEN2)
    model, processor, _ = load_internvl_chat(str(tmp_path))
    ids = prepare(processor, random_segment())["input_ids"][0]
    text = processor.tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\n你是书生·万象，英文名是InternVL，")
    assert text.endswith(f"</img>\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n")
    assert model.generation_config.eos_token_id == processor.tokenizer.get_vocab()["<|im_end|>"]


def normalised(pixels):
    """(frame, height, width, 3) by ImageNet's means, channels first."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)


def test_pixels_are_those_of_the_originals_transform(tmp_path):
    from PIL import Image

    build(tmp_path)
    _, processor, _ = load_internvl_chat(str(tmp_path))
    segment = random_segment()
    pixels = prepare(processor, segment)["pixel_values"]
    resized = np.stack(
        [
            np.asarray(Image.fromarray(frame).resize((56, 56), Image.Resampling.BICUBIC))
            for frame in segment.keyframes
        ]
    )
    np.testing.assert_allclose(pixels, normalised(resized), rtol=0, atol=2.01 / 255 / 0.224)
    flat = np.full_like(segment.keyframes, (200, 30, 90))
    pixels = prepare(processor, replace(segment, keyframes=flat))["pixel_values"]
    expected = normalised(np.full((8, 56, 56, 3), (200, 30, 90)))
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-5)


# --- the tokenizer -----------------------------------------------------------------------------

TEXTS = ("is an app the thing?", "  In  the \n end ", "你好 theing", "ingisan")
# What sentencepiece 0.2.3 gives for `sentencepiece_model(**options)`.
GOLDEN = {
    (False, True): (
        (259, 264, 267, 269, 271, 280, 277, 271, 280, 266, 301),
        (299, 299, 300, 286, 299, 271, 280, 277, 299, 13, 299, 272, 276, 299),
        (303, 232, 168, 192, 271, 280, 277, 266),
        (266, 259, 260),
    ),
    (True, True): (
        (263, 264, 267, 269, 271, 280, 277, 271, 280, 266, 301),
        (299, 299, 299, 300, 286, 299, 271, 280, 277, 299, 13, 299, 272, 276, 299),
        (299, 303, 232, 168, 192, 271, 280, 277, 266),
        (299, 266, 259, 260),
    ),
    (True, False): (
        (263, 264, 267, 269, 271, 280, 277, 271, 280, 266, 301),
        (299, 300, 286, 271, 280, 277, 299, 13, 299, 272, 276),
        (299, 303, 232, 168, 192, 271, 280, 277, 266),
        (299, 266, 259, 260),
    ),
}


def tokenizer_of(folder):
    _, processor, _ = load_internvl_chat(str(folder))
    return processor.tokenizer


@pytest.mark.parametrize(("dummy_prefix", "extra_spaces"), GOLDEN)
def test_ids_are_sentencepieces_own(tmp_path, dummy_prefix, extra_spaces):
    build(tmp_path)
    model = sentencepiece_model(dummy_prefix=dummy_prefix, extra_spaces=extra_spaces)
    (tmp_path / "tokenizer.model").write_bytes(model)
    tokenizer = tokenizer_of(tmp_path)
    for text, expected in zip(TEXTS, GOLDEN[dummy_prefix, extra_spaces], strict=True):
        assert tokenizer(text).input_ids == [1, *expected]
        # Between added tokens each piece of text is a text of its own, as in the original.
        ids = tokenizer(f"<|im_start|>{text}<IMG_CONTEXT>{text}").input_ids
        assert ids == [1, 305, *expected, 308, *expected]
        if extra_spaces:
            assert tokenizer.decode([1, *expected], skip_special_tokens=True) == text


@pytest.mark.parametrize(("dummy_prefix", "extra_spaces"), GOLDEN)
def test_ids_equal_the_library_sentencepiece(tmp_path, dummy_prefix, extra_spaces):
    model = sentencepiece_model(dummy_prefix=dummy_prefix, extra_spaces=extra_spaces)
    original = sentencepiece.SentencePieceProcessor(model_proto=model)
    build(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(model)
    tokenizer = tokenizer_of(tmp_path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(rng.choice(list("athingspe  \nI?你é🎉"), rng.integers(1, 40)))
        assert tokenizer(text).input_ids == [1, *original.encode(text)], text


@pytest.mark.parametrize("decoder", [INTERNLM2, QWEN2], ids=["internlm2", "qwen2"])
def test_added_tokens_keep_their_ids(tmp_path, decoder):
    config, _ = build(tmp_path, decoder)
    tokenizer = tokenizer_of(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for index, token in settings["added_tokens_decoder"].items():
        assert tokenizer.convert_tokens_to_ids(token["content"]) == int(index)
        assert tokenizer.convert_ids_to_tokens(int(index)) == token["content"]
    assert len(tokenizer) == config["llm_config"]["vocab_size"]
    assert tokenizer.decode(tokenizer(PROMPT).input_ids, skip_special_tokens=True) == PROMPT


def test_a_sequence_begins_without_s_where_the_repository_says_so(tmp_path):
    build(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": False}))
    assert tokenizer_of(tmp_path)("<|im_start|>is").input_ids == [305, 259]


def test_added_tokens_of_the_older_file_are_read_too(tmp_path):
    build(tmp_path)
    expected = tokenizer_of(tmp_path).get_vocab()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    listed = settings.pop("added_tokens_decoder")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    older = {token["content"]: int(index) for index, token in listed.items()}
    (tmp_path / "added_tokens.json").write_text(json.dumps(older))
    tokenizer = tokenizer_of(tmp_path)
    assert tokenizer.get_vocab() == expected
    assert tokenizer("<|im_start|>is").input_ids == [1, 305, 259]


def test_a_tokenizer_json_beside_the_model_is_used(tmp_path):
    build(tmp_path)
    first = tokenizer_of(tmp_path)
    _, _, merges = SentencePieceExtractor(str(tmp_path / "tokenizer.model")).extract()
    converted = Tokenizer(models.BPE(first.get_vocab(), merges, byte_fallback=True))
    converted.normalizer = normalizers.Replace(" ", "▁")
    converted.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    converted.add_tokens(list(first.added_tokens_decoder.values()))
    converted.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer.model").unlink()
    text = f"<|im_start|>user\n{PROMPT}<img>"
    assert tokenizer_of(tmp_path)(text).input_ids == first(text).input_ids


def move_quad(folder):
    """Give <quad> the id 400, after a gap."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    added = settings["added_tokens_decoder"]
    (index,) = (index for index, token in added.items() if token["content"] == "<quad>")
    added["400"] = added.pop(index)
    path.write_text(json.dumps(settings))


def test_an_added_token_with_another_id_is_refused(tmp_path):
    build(tmp_path, QWEN2)
    (tmp_path / "added_tokens.json").unlink()
    move_quad(tmp_path)
    with pytest.raises(ModelError, match="gives </quad> the id 267, not 268"):
        load_internvl_chat(str(tmp_path))


def test_internlm2s_added_tokens_keep_their_ids_after_a_gap(tmp_path):
    build(tmp_path)
    move_quad(tmp_path)
    ids = tokenizer_of(tmp_path)("<|im_start|>is<quad></quad>").input_ids
    assert ids == [1, 305, 259, 400, 310]


def test_added_tokens_are_told_apart_as_transformers_own_splitter_does(tmp_path):
    build(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["added_tokens_decoder"]["311"] = {"content": "<img>>", "rstrip": True}
    settings["added_tokens_decoder"]["312"] = {"content": "g>", "lstrip": True}
    path.write_text(json.dumps(settings))
    tokenizer = tokenizer_of(tmp_path)
    rng = np.random.default_rng(0)
    parts = ["<img>", "<img>>", "g>", "<", ">", " ", "is", "the", "</s>", "<|im_end|>", "<im"]
    texts = ["".join(rng.choice(parts, rng.integers(1, 20))) for _ in range(300)]
    split = tokenizer(texts).input_ids
    del tokenizer.tokens_trie.split  # Transformers' own is below it
    assert split == tokenizer(texts).input_ids


def test_a_tokenizer_without_the_image_token_is_refused(tmp_path):
    build(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(path.read_text().replace("<IMG_CONTEXT>", "<other>"))
    with pytest.raises(ModelError, match="has no token <IMG_CONTEXT>"):
        load_internvl_chat(str(tmp_path))


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "native"),
    [
        ("language_model.model.layers.1.attention.wqkv.weight", r"layers.1.self_attn.k_proj"),
        ("vision_model.encoder.layers.2.ls1", r"vision_tower.encoder.layer.2.lambda_1"),
        ("mlp1.0.bias", r"multi_modal_projector.layer_norm.bias"),
        ("language_model.output.weight", r"lm_head.weight"),
    ],
)
def test_a_missing_weight_is_named(tmp_path, name, native):
    def remove(weights):
        return {key: value for key, value in weights.items() if key != name}

    build(tmp_path, change=remove)
    with pytest.raises(ModelError, match=rf"lacks \d of the model's weights.*{native}"):
        load_internvl_chat(str(tmp_path))


def test_weights_of_other_parts_are_ignored_and_listed(tmp_path):
    def add(weights):
        extra = {"anomaly_scorer.head.weight": torch.ones(3), "sampler.0.bias": torch.ones(2)}
        return weights | extra | {"anomaly_scorer.head.bias": torch.ones(1)}

    build(tmp_path, change=add)
    with pytest.warns(UserWarning, match="ignored the weights of anomaly_scorer, sampler$"):
        load_internvl_chat(str(tmp_path))


@pytest.mark.parametrize(
    ("saved", "stated", "message"),
    [
        ({"qkv_bias": True}, {"qkv_bias": False}, r"beyond what its config.json says.*k_proj.bias"),
        ({}, {"num_hidden_layers": 2}, r"beyond what its config.json says.*layer.2."),
        ({}, {"image_size": 28}, r"another shape than its config.json says.*position_embeddings"),
    ],
)
def test_weights_that_contradict_the_configuration_are_refused(tmp_path, saved, stated, message):
    config, _ = build(tmp_path, vision=saved)
    config["vision_config"] |= stated
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        load_internvl_chat(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ps_version": "v1"}, r"ps_version .* is 'v1', hiprobe reads 'v2'"),
        ({"template": "phi3-chat"}, r"template is 'phi3-chat', hiprobe reads 'internlm2-chat'"),
        ({"llm": {"architectures": ["Phi3ForCausalLM"]}}, r"'Phi3ForCausalLM', hiprobe reads"),
        ({"vision": {"norm_type": "batch_norm"}}, r"norm_type is 'batch_norm'"),
        ({"vision": {"qk_normalization": True, "layer_norm_eps": 1e-5}}, r"is 1e-05"),
    ],
)
def test_what_would_give_other_numbers_is_refused(tmp_path, options, message):
    config, _ = build(tmp_path)
    top = {name: value for name, value in options.items() if name not in {"llm", "vision"}}
    for part in ("llm", "vision"):
        config[f"{part}_config"] |= options.get(part, {})
    (tmp_path / "config.json").write_text(json.dumps(config | top))
    with pytest.raises(ModelError, match=message):
        load_internvl_chat(str(tmp_path))


def test_without_ps_version_it_is_the_originals_default_v1(tmp_path):
    config, _ = build(tmp_path)
    del config["ps_version"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="ps_version"):
        load_internvl_chat(str(tmp_path))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.model"])
def test_a_missing_file_is_a_plain_error(tmp_path, file):
    build(tmp_path, form="single")
    (tmp_path / file).unlink()
    with pytest.raises(ModelError, match="cannot load it as an InternVLChatModel"):
        load_internvl_chat(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x00"])
def test_a_damaged_tokenizer_is_a_plain_error(tmp_path, content):
    build(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelError, match="cannot load it as an InternVLChatModel"):
        load_internvl_chat(str(tmp_path))


@pytest.mark.parametrize("form", ["single", "bin"])
def test_a_damaged_shard_is_named(tmp_path, form):
    build(tmp_path, form=form)
    shard = sorted([*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.bin")])[0]
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=f"{shard.name} is damaged"):
        load_internvl_chat(str(tmp_path))


def test_the_layout_is_recognised():
    assert is_internvl_chat({"model_type": "internvl_chat"})
    assert is_internvl_chat({"architectures": ["InternVLChatModel"]})
    assert not is_internvl_chat({"model_type": "internvl", "architectures": None})
    assert not is_internvl_chat({})
