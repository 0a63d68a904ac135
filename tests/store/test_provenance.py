"""What may differ between two records of how states were made, for each purpose."""

import pytest

from hiprobe.store import FeatureStore, PlannedVideo, StoreError, StoreWriter, VideoRecord
from hiprobe.store.merge import merge
from hiprobe.store.provenance import (
    RULES,
    Provenance,
    Purpose,
    Verdict,
    segment_frames_attribute,
)

MODEL = {
    "id": "org/model",
    "revision": "main",
    "weights_digest": "sha256:1",
    "files_digest": "sha256:f",
    "class": "Model",
    "dtype": "bfloat16",
    "attention": "sdpa",
    "load_in": None,
    "compile": False,
}
ATTRIBUTES = {
    "model": MODEL,
    "prompt": "What happens?",
    "prompt_text": "<user>What happens?",
    "processor": {"class": "Processor", "video": {"size": 448, "mean": [0.5]}},
    "segment_frames": 24,
    "keyframes": 8,
    "frame_pixels": [100352, 602112],
    "fps_shown": 2.0,
    "layers": [0, 1, 2],
    "thumbnails": None,
    "numerics": {"torch": "2"},
    "manifest": {"path": "/m.csv", "digest": "sha256:m"},
    "taps": {"prompts/yes-no/hidden_states": {"prompt": "yes-no", "text": "Is it odd?"}},
    "batch_size": "auto",
    "created": "2026-01-01",
}
OTHER = {
    "model.weights_digest": "sha256:2",
    "model.files_digest": "sha256:g",
    "model.class": "Other",
    "model.dtype": "float16",
    "model.attention": "eager",
    "model.load_in": "4bit",
    "model.compile": True,
    "num_features": 65,
    "prompt": "Why?",
    "prompt_text": "<user>Why?",
    "prompts": {"prompts/yes-no/hidden_states": {"prompt": "yes-no", "text": "Is it right?"}},
    "processor": {"class": "Processor", "video": {"size": 224, "mean": [0.5]}},
    "segment_frames": "whole",
    "keyframes": 4,
    "window": {"frames": 48},
    "frame_pixels": [100352, 200704],
    "fps_shown": 4.0,
    "layers": [1, 2],
    "numerics": {"torch": "3"},
    "thumbnails": [72, 128],
    "manifest.digest": "sha256:n",
}
WHERE = {"prompts": "taps"}
INNERMOST = {
    "processor": "processor.video.size",
    "numerics": "numerics.torch",
    "prompts": "prompts.yes-no",
}
# Purposes for which a difference is refused, and for which it is worth a warning.
EXPECTED = {
    "model.weights_digest": ("FILL SCORE AGAIN ABLATE", "DESCRIBE"),
    "model.files_digest": ("FILL SCORE AGAIN ABLATE", "DESCRIBE"),
    "model.class": ("FILL SCORE AGAIN ABLATE", ""),
    "model.dtype": ("FILL", "SCORE AGAIN ABLATE"),
    "model.attention": ("FILL", "SCORE AGAIN ABLATE"),
    "model.load_in": ("FILL", "SCORE AGAIN ABLATE"),
    "model.compile": ("FILL", "AGAIN"),
    "num_features": ("FILL SCORE AGAIN ABLATE", ""),
    "prompt": ("FILL AGAIN ABLATE", "SCORE"),
    "prompt_text": ("FILL", "AGAIN"),
    "prompts": ("FILL AGAIN ABLATE", "SCORE"),
    "processor": ("FILL", "AGAIN"),
    "segment_frames": ("FILL AGAIN ABLATE", "SCORE"),
    "keyframes": ("FILL AGAIN", "SCORE"),
    "window": ("FILL AGAIN ABLATE", "SCORE"),
    "frame_pixels": ("FILL AGAIN ABLATE", "SCORE"),
    "fps_shown": ("FILL AGAIN ABLATE", "SCORE"),
    "layers": ("FILL", ""),
    "numerics": ("FILL", "AGAIN"),
    "thumbnails": ("FILL", ""),
    "manifest.digest": ("ABLATE", ""),
}


def record(changes=(), num_features=64, **attributes):
    """A record with some settings, named as in `RULES`, replaced; those that are None left out."""
    content = {**ATTRIBUTES, "model": dict(MODEL), "manifest": dict(ATTRIBUTES["manifest"])}
    for name, value in {**dict(changes), **attributes}.items():
        outer, _, inner = WHERE.get(name, name).partition(".")
        if name == "num_features":
            num_features = value
        else:
            (content[outer] if inner else content)[inner or outer] = value
    return Provenance.of(content, num_features)


def verdicts(one, two, purpose):
    comparison = one.compare(two, purpose)
    assert all(difference.verdict is Verdict.REFUSE for difference in comparison.refused)
    assert all(difference.verdict is Verdict.WARN for difference in comparison.warned)
    return [
        [difference.name for difference in part] for part in (comparison.refused, comparison.warned)
    ]


def test_every_rule_is_tried_here():
    assert set(OTHER) == set(EXPECTED) == RULES.keys() - {"model.id"}


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("name", OTHER)
def test_a_difference_is_refused_warned_of_or_nothing(name, purpose):
    refused, warned = verdicts(record(), record({name: OTHER[name]}), purpose)
    expected = [purpose.name in names.split() for names in EXPECTED[name]]
    innermost = INNERMOST.get(name, name)
    assert [refused, warned] == [[innermost] * one for one in expected]


@pytest.mark.parametrize("purpose", Purpose)
def test_equal_records_have_no_difference_and_neither_have_empty_ones(purpose):
    assert verdicts(record(), record(), purpose) == [[], []]
    assert verdicts(Provenance.of({}), Provenance.of({"schema_version": 1}), purpose) == [[], []]


def test_a_difference_names_the_innermost_setting_with_both_values():
    (one,) = record().compare(record(processor=OTHER["processor"]), Purpose.FILL).refused
    assert (one.name, one.first, one.second) == ("processor.video.size", 448, 224)


@pytest.mark.parametrize("purpose", [one for one in Purpose if one is not Purpose.FILL])
def test_what_one_side_does_not_record_is_at_most_a_warning(purpose):
    refused, warned = verdicts(record(), Provenance.of({}), purpose)
    assert refused == []
    column = {name: purpose.name in " ".join(names).split() for name, names in EXPECTED.items()}
    known = {name for name, value in column.items() if value}
    # As if not recorded; and prompts are compared where both have one of the name.
    known -= {"model.load_in", "thumbnails", "window", "prompts"}
    assert {name.split(".")[0] for name in warned} == {name.split(".")[0] for name in known}


def test_nobody_fills_a_store_of_which_it_is_not_known_how_it_was_made():
    refused, warned = verdicts(record(), Provenance.of({}, 64), Purpose.FILL)
    assert "model.weights_digest" in refused
    assert "prompt" in refused
    assert warned == []


@pytest.mark.parametrize("purpose", Purpose)
def test_a_model_that_has_moved_is_the_same_model(purpose):
    moved = record({"model.id": "/disk/model", "model.revision": None, "created": "2027"})
    assert verdicts(record(), moved, purpose) == [[], []]


def test_without_digests_the_models_name_is_what_there_is_to_go_by():
    one = record({"model.weights_digest": None})
    two = record({"model.weights_digest": None, "model.id": "org/other"})
    assert verdicts(one, two, Purpose.FILL) == [["model.id"], []]
    for purpose in set(Purpose) - {Purpose.FILL}:
        assert verdicts(one, two, purpose) == [[], ["model.id"]]


@pytest.mark.parametrize("purpose", Purpose)
def test_what_earlier_versions_did_not_record_stops_nobody(purpose):
    earlier = record({"model.files_digest": None})
    warned = ["model.files_digest"] if purpose is Purpose.AGAIN else []
    assert verdicts(earlier, record(), purpose) == [[], warned]


def test_filling_refuses_a_setting_that_no_rule_names_where_both_record_it():
    one, two = record(temperature=0.1), record(temperature=0.2)
    assert verdicts(one, two, Purpose.FILL) == [["temperature"], []]
    assert verdicts(one, record(), Purpose.FILL) == [[], []]
    assert verdicts(one, two, Purpose.SCORE) == [[], []]
    adapters = [record({"model.adapter": name}) for name in "ab"]
    assert verdicts(*adapters, Purpose.FILL) == [["model.adapter"], []]


def test_tuples_are_the_lists_that_json_makes_of_them():
    one, two = record(layers=(0, 1, 2), thumbnails=(72, 128)), record(thumbnails=[72, 128])
    assert verdicts(one, two, Purpose.FILL) == [[], []]
    assert one.layers == two.layers == (0, 1, 2)


def test_bf16_and_fp16_score_each_other_but_fill_no_store_together():
    one, two = record(), record({"model.dtype": "float16"})
    assert verdicts(one, two, Purpose.SCORE) == [[], ["model.dtype"]]
    assert verdicts(one, two, Purpose.FILL) == [["model.dtype"], []]


def test_fields_are_read_as_they_are_recorded():
    origin = record()
    assert (origin.model.id, origin.model.model_class) == ("org/model", "Model")
    assert (origin.prompt, origin.keyframes, origin.num_features) == ("What happens?", 8, 64)
    assert (origin.manifest_digest, origin.frames_per_segment) == ("sha256:m", 24)
    assert record(segment_frames="whole").frames_per_segment is None
    assert segment_frames_attribute(None) == "whole"
    assert segment_frames_attribute(24) == 24


def test_a_store_that_records_nothing_has_an_origin(make_store):
    store = FeatureStore.open(make_store(num_videos=4, provenance={}))
    empty = Provenance.of({"model": "not an object", "layers": 7, "manifest": None})
    assert empty.model.id == "an unknown model"
    assert (empty.layers, empty.manifest_digest, empty.segment_frames) == (None, None, None)
    assert store.origin.num_features == 16
    assert store.origin.compare(empty, Purpose.SCORE).refused == ()
    assert "16 features of an unknown model</p>" in store._repr_html_()


def test_equal_ids_mean_equal_videos_in_stores_of_one_manifest_only():
    assert record().same_manifest(record())
    assert not record().same_manifest(record({"manifest.digest": "sha256:n"}))
    assert Provenance.of({}).same_manifest(Provenance.of({}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"provenance": {"prompt": "Why?"}}, r"prompt is 'Why\?', not 'What\?'"),
        ({"layers": [0, 2]}, r"layers is \[0, 2\], not \[0, 1\]"),
        ({"row_block": 8}, "row_block is 8, not 4"),
        ({"num_features": 3}, "num_features is 3, not 2"),
        ({"thumbnail_size": (2, 2)}, r"thumbnail_size is \(2, 2\), not None"),
    ],
)
def test_only_parts_of_one_extraction_merge(tmp_path, change, message):
    settings = {"layers": [0, 1], "num_features": 2, "row_block": 4}
    settings |= {"provenance": {"prompt": "What?", "created": "now"}}
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, own in zip(paths, ({}, {"provenance": {"prompt": "What?"}}, change), strict=True):
        with StoreWriter.create(path, **settings | own) as writer:
            record = VideoRecord(path.name, "/v.mp4", "test", "normal")
            writer.add_videos([PlannedVideo(record, 24, 25.0, [(0, 24)])])
    assert merge(tmp_path / "merged", paths[:2]) == 0
    with pytest.raises(StoreError, match=message) as error:
        merge(tmp_path / "merged", paths)
    assert str(error.value).startswith(f"{paths[2]}: made with other settings than {paths[0]}: ")
    assert str(error.value).endswith("Only parts of one extraction merge.")
