"""Frame sizes by the processors' settings as they are published, and how they are chosen."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hiprobe.extract import recipe as recipes
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import OWN_PIXELS, BackboneConfig, ExtractConfig
from hiprobe.extract.dry_run import dry_run
from hiprobe.extract.parity import certify
from hiprobe.extract.pipeline import extract
from hiprobe.extract.video import SegmentReader
from hiprobe.store import FeatureStore, ModelError, StoreError, VideoRecord, write_manifest
from tests.extract import internvl_chat_reference as reference
from tests.extract.tiny_models import BUILDERS

CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
RESIZE = {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True}
QWEN2_5_VL = CLIP | {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}
QWEN3_VL = HALF | {
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "processor_class": "Qwen3VLProcessor",
}
LLAVA = RESIZE | HALF | {"resample": 3, "size": {"height": 384, "width": 384}}
INTERNVL = RESIZE | IMAGENET | {"resample": 3, "size": {"height": 448, "width": 448}}
# What lies in the published repositories, under its name there.
PUBLISHED = {
    "qwen2_5_vl": {"preprocessor_config.json": QWEN2_5_VL},
    "qwen3_vl": {
        "preprocessor_config.json": QWEN3_VL
        | {
            "size": {"longest_edge": 16777216, "shortest_edge": 65536},
            "image_processor_type": "Qwen2VLImageProcessorFast",
        },
        "video_preprocessor_config.json": QWEN3_VL
        | {
            "size": {"longest_edge": 25165824, "shortest_edge": 4096},
            "video_processor_type": "Qwen3VLVideoProcessor",
        },
    },
    "llava_onevision": {
        "preprocessor_config.json": LLAVA
        | {
            "do_pad": True,
            "image_grid_pinpoints": [[384, 384], [384, 768], [768, 384]],
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "processor_class": "LlavaOnevisionProcessor",
        },
        "video_preprocessor_config.json": LLAVA
        | {"video_processor_type": "LlavaOnevisionVideoProcessor"},
        "processor_config.json": {
            "image_token": "<image>",
            "video_token": "<video>",
            "num_image_tokens": 729,
            "processor_class": "LlavaOnevisionProcessor",
            "vision_feature_select_strategy": "full",
        },
    },
    "internvl": {
        "preprocessor_config.json": INTERNVL
        | {
            "crop_to_patches": False,
            "image_processor_type": "GotOcr2ImageProcessorFast",
            "processor_class": "InternVLProcessor",
        },
        "video_preprocessor_config.json": INTERNVL
        | {"video_processor_type": "InternVLVideoProcessor"},
        "processor_config.json": {"image_seq_length": 256, "processor_class": "InternVLProcessor"},
    },
}
SIZES = ((320, 240), (640, 360), (1920, 1080))
ROWS = {
    "internvl_chat": "InternVL2.5-8B",
    "internvl": "InternVL2.5-8B",
    "llava_onevision": "LLaVA-OneVision-7B",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
}
PLACEHOLDERS = {
    **dict.fromkeys(("internvl_chat", "internvl"), "<IMG_CONTEXT>"),
    **dict.fromkeys(("qwen2_5_vl", "qwen3_vl"), "<|video_pad|>"),
    "llava_onevision": "<video>",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Small random weights with the published processors' settings, by family."""
    root = tmp_path_factory.mktemp("published")
    for family, files in PUBLISHED.items():
        folder = BUILDERS[family](root / family)
        (folder / "processor_config.json").unlink()
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
    folder = root / "internvl_chat"
    vocabulary = reference.save_internlm2_tokenizer(folder)
    config = reference.make_config(reference.INTERNLM2, vocabulary, force_image_size=448)
    reference.save_checkpoint(folder, config, reference.make_weights(config), "single")
    return root


def config_of(published, family, **options):
    return BackboneConfig(str(published / family), device="cpu", **options)


def visual_tokens(backbone, family, video):
    (segment,) = SegmentReader(video, [(0, 8)], 8)
    ids = backbone.prepare([segment], 25.0)["input_ids"]
    placeholder = backbone._processor.tokenizer.convert_tokens_to_ids(PLACEHOLDERS[family])
    return int((ids == placeholder).sum())


def documented(family):
    text = (Path(__file__).parents[2] / "docs/backbones.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {re.escape(ROWS[family])}[^|]*\|([\d,| ]+)\|$", text, re.MULTILINE)
    return [int(cell.replace(",", "")) for cell in row.split("|")]


@pytest.mark.parametrize("family", ROWS)
def test_published_settings_give_the_documented_numbers_of_tokens(published, family, make_video):
    backbone = Backbone(config_of(published, family))
    videos = [make_video(f"{size[1]}.mp4", num_frames=8, size=size) for size in SIZES]
    assert [visual_tokens(backbone, family, one) for one in videos] == documented(family)


@pytest.mark.parametrize(("family", "unit"), [("qwen2_5_vl", 28), ("qwen3_vl", 32)])
def test_a_frames_pixels_are_an_option_and_recorded(published, family, unit, make_video):
    def of(**options):
        backbone = Backbone(config_of(published, family, **options))
        return backbone.describe().provenance, visual_tokens(backbone, family, video)

    video = make_video(num_frames=8, size=(640, 360))
    provenance, _ = of()
    assert provenance["frame_pixels"] == [128 * unit**2, 768 * unit**2]
    provenance, tokens = of(min_pixels=4 * unit**2, max_pixels=60 * unit**2)
    assert provenance["frame_pixels"] == [4 * unit**2, 60 * unit**2]
    assert tokens == 4 * 5 * 10  # 16 : 9, in four pairs of frames
    provenance, _ = of(max_pixels=60 * unit**2)
    assert provenance["frame_pixels"] == [60 * unit**2, 60 * unit**2]
    provenance, tokens = of(min_pixels=1000 * unit**2)
    assert provenance["frame_pixels"] == [1000 * unit**2, 1000 * unit**2]
    assert tokens > 4 * 900


def times_of(published, video, fps, **options):
    """Qwen2.5-VL's time positions of the pairs of a segment's keyframes, from 0."""
    backbone = Backbone(config_of(published, "qwen2_5_vl", **options))
    # The published value, where the class has another.
    backbone._model.config.vision_config.tokens_per_second = 2
    inputs = backbone.prepare([*SegmentReader(video, [(0, 24)], 8)], fps)
    positions, _ = backbone._model.get_rope_index(
        **{name: value for name, value in inputs.items() if "pixel" not in name}
    )
    times = positions[0, 0, inputs["mm_token_type_ids"][0] == 2]
    return (times.reshape(4, -1)[:, 0] - times[0]).tolist()


def test_qwens_time_stands_still_within_a_segment_unless_told_otherwise(published, make_video):
    video = make_video(num_frames=24)
    assert times_of(published, video, 25.0) == times_of(published, video, 30.0) == [0, 0, 0, 1]
    assert times_of(published, video, 30.0, fps_shown=4.0) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("fps_shown", "seconds"), [(None, "0.1 0.3 0.5 0.8"), (4.0, "0.1 0.6 1.1 1.6")]
)
def test_qwen3_vl_reads_the_times_shown(published, make_video, fps_shown, seconds):
    backbone = Backbone(config_of(published, "qwen3_vl", fps_shown=fps_shown))
    inputs = backbone.prepare([*SegmentReader(make_video(num_frames=24), [(0, 24)], 8)], 25.0)
    text = backbone._processor.tokenizer.decode(inputs["input_ids"][0])
    assert " ".join(re.findall(r"<([\d.]+) seconds>", text)) == seconds


def test_qwen3_vl_has_vision_tokens_around_each_pair_of_frames_alone(published, make_video):
    segments = [*SegmentReader(make_video(num_frames=24), [(0, 24)], 8)]

    def text_of(**options):
        backbone = Backbone(config_of(published, "qwen3_vl", **options))
        tokenizer = backbone._processor.tokenizer
        text = tokenizer.decode(backbone.prepare(segments, 25.0)["input_ids"][0])
        return re.sub(r"(<\|video_pad\|>)+", "[...]", text)

    pairs = "".join(
        f"<{seconds} seconds><|vision_start|>[...]<|vision_end|>"
        for seconds in ("0.1", "0.3", "0.5", "0.8")
    )
    assert f"user\n{pairs}Is anything" in text_of()
    assert f"user\n<|vision_start|>{pairs}<|vision_end|>Is anything" in text_of(keep_wrapped=True)


def test_a_store_of_the_wrapped_video_goes_on_so(published, job):
    old = config_of(published, "qwen3_vl", keep_wrapped=True)
    extract(replace(job, backbone=old))
    summary = extract(replace(job, backbone=replace(old, keep_wrapped=False)))
    assert summary.num_done == 2
    assert not summary.parity["exceeded"]
    certificate = certify(job.store, 2, device="cpu")
    assert "warnings" not in certificate


def test_a_narrower_range_of_the_checkpoints_own_stays(tmp_path, make_video):
    backbone = Backbone(BackboneConfig(str(BUILDERS["qwen3_vl"](tmp_path / "m")), device="cpu"))
    assert backbone.describe().provenance["frame_pixels"] is None


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("internvl", {"max_pixels": 9999}, "InternVLVideoProcessor shows all frames in one size"),
        ("qwen2_5_vl", {"min_pixels": 9999, "max_pixels": 99}, "no frame can be both"),
    ],
)
def test_an_impossible_range_is_refused(published, family, options, message):
    with pytest.raises(ModelError, match=message):
        Backbone(config_of(published, family, **options))


@pytest.fixture
def job(published, tmp_path, make_video):
    manifest = tmp_path / "manifest.csv"
    records = [
        VideoRecord(
            name, str(make_video(f"{name}.mp4", num_frames=24, seed=seed)), "test", "normal"
        )
        for seed, name in enumerate(("first", "second"))
    ]
    write_manifest(manifest, records)
    backbone = config_of(published, "qwen2_5_vl")
    return ExtractConfig(manifest, tmp_path / "s.zarr", backbone, parity=1, limit=1)


def old_store(job, monkeypatch):
    """Make a store as versions did that knew of no range: nothing of it is recorded."""

    def describe(backbone, original=Backbone.describe):
        found = original(backbone)
        kept = {k: v for k, v in found.provenance.items() if k not in ("frame_pixels", "fps_shown")}
        return replace(found, provenance=kept)

    own = replace(job.backbone, min_pixels=OWN_PIXELS, max_pixels=OWN_PIXELS)
    with monkeypatch.context() as patched:
        patched.setattr(Backbone, "describe", describe)
        extract(replace(job, backbone=own))
    assert "frame_pixels" not in FeatureStore.open(job.store).provenance


def test_an_old_store_goes_on_with_the_processor_as_it_comes(job, monkeypatch):
    old_store(job, monkeypatch)
    assert recipes.gone_on_with(job).backbone.min_pixels == OWN_PIXELS
    assert dry_run(job).num_videos == 1
    summary = extract(job)
    assert summary.num_done == 2
    assert not summary.parity["exceeded"]
    certificate = certify(job.store, 2, device="cpu")
    assert not certificate["exceeded"]
    assert "warnings" not in certificate


def test_an_old_store_refuses_another_range(job, monkeypatch):
    old_store(job, monkeypatch)
    other = replace(job, backbone=replace(job.backbone, max_pixels=200_000))
    with pytest.raises(StoreError, match=r"frame_pixels: store None, this run \[None, 200000\]"):
        extract(other)


def test_a_store_goes_on_with_its_own_range_and_its_parity_is_checked_with_it(job):
    asked = replace(job.backbone, min_pixels=784, max_pixels=20_000, fps_shown=4.0)
    extract(replace(job, backbone=asked))
    assert extract(job).num_done == 2
    provenance = FeatureStore.open(job.store).provenance
    assert (provenance["frame_pixels"], provenance["fps_shown"]) == ([784, 20_000], 4.0)
    certificate = certify(job.store, 2, device="cpu")
    assert not certificate["exceeded"]
    assert "warnings" not in certificate
    with pytest.raises(StoreError, match=r"fps_shown: store 4\.0, this run 2\.0"):
        extract(replace(job, backbone=replace(job.backbone, fps_shown=2.0)))
