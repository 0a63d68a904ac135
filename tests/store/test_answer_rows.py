"""Answers in a store: written, read, checked, copied; and what they say of states."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from hiprobe.store import FeatureStore, StoreError, StoreWriter
from hiprobe.store.answer_rows import ARRAYS, Answers, log_odds
from hiprobe.store.hdf5_export import export_hdf5
from hiprobe.store.hdf5_import import import_hdf5
from hiprobe.store.merge import merge
from hiprobe.store.subset import subset
from hiprobe.store.verify import seal_digests, verify
from tests.conftest import forget_digests
from tests.store.test_relabel import killed_at
from tests.store.test_taps import LAYERS, ROW_BLOCK, WIDTH, fill


def answers(seed=0, words=("Yes", " yes", "No", "A")):
    rng = np.random.default_rng(seed)
    head, bias, norm = (
        rng.normal(size=shape).astype("f4") for shape in ((len(words), WIDTH), len(words), WIDTH)
    )
    return Answers(words, tuple(range(7, 7 + len(words))), head, bias, norm, 1e-6, LAYERS[-1])


def create(path, names=("a", "b"), kept=None):
    writer = StoreWriter.create(
        path, layers=LAYERS, num_features=WIDTH, provenance={}, row_block=ROW_BLOCK, answers=kept
    )
    with writer:
        fill(writer, names, ())
    return path


def test_answers_are_read_as_they_were_written(tmp_path):
    path = create(tmp_path / "s.zarr", kept=answers())
    store = FeatureStore.open(path)
    assert store.answers == answers()
    assert store.answers != answers(seed=1)
    assert verify(path).problems == []
    group = zarr.open_group(path, mode="r")
    for name, (dims, _) in ARRAYS.items():
        assert group[name].metadata.dimension_names == dims


def test_a_store_without_answers_has_none(tmp_path):
    path = create(tmp_path / "s.zarr")
    assert FeatureStore.open(path).answers is None
    assert not (path / "answer_head").exists()


@pytest.mark.parametrize("file", ["answer/c/0", "answer_head/c/0/0", "answer_bias/c/0",
                                  "final_norm/c/0", "final_norm/zarr.json"])  # fmt: skip
def test_damaged_answers_are_refused_and_found(tmp_path, file):
    path = create(tmp_path / "s.zarr", kept=answers())
    content = bytearray((path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (path / file).write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        _ = FeatureStore.open(path).answers
    assert any(file in problem for problem in verify(path).problems)
    (path / file).unlink()
    with pytest.raises(StoreError, match="damaged"):
        _ = FeatureStore.open(path).answers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [1, 1, 2, 3]}, "tokens"),
        ({"tokens": [1, 2, 3, 4, 5]}, "4 words, 5 tokens"),
        ({"tokens": 7}, "int"),
        ({"epsilon": "small"}, "epsilon"),
        ({"norm": "layer"}, "layer"),
        ({"num_layers": None}, "num_layers"),
    ],
)
def test_answers_that_cannot_be_are_refused(tmp_path, change, message):
    path = create(tmp_path / "s.zarr", kept=answers())
    forget_digests(path)
    group = zarr.open_group(path, mode="r+")
    group.attrs["answers"] = {**group.attrs["answers"], **change}
    with pytest.raises(StoreError, match=rf"its answers cannot be: .*{message}"):
        _ = FeatureStore.open(path).answers
    assert verify(path).problems


def test_values_that_are_not_finite_or_not_of_this_width_are_refused(tmp_path):
    path = create(tmp_path / "s.zarr", kept=answers())
    forget_digests(path)
    group = zarr.open_group(path, mode="r+")
    group["answer_bias"][0] = np.nan
    with pytest.raises(StoreError, match="answer_bias has values that are not finite"):
        _ = FeatureStore.open(path).answers
    group["answer_bias"][0] = 0
    group["final_norm"].resize((WIDTH + 1,))
    with pytest.raises(StoreError, match="final_norm has the shape"):
        _ = FeatureStore.open(path).answers


def test_sealed_digests_cover_answers(tmp_path):
    path = create(tmp_path / "s.zarr", kept=answers())
    forget_digests(path)
    seal_digests(path)
    assert FeatureStore.open(path).answers == answers()
    file = path / "answer_head/c/0/0"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(StoreError, match="answer_head"):
        _ = FeatureStore.open(path).answers


def test_copies_keep_answers_and_only_equal_ones_merge(tmp_path):
    parts = [create(tmp_path / "0.zarr", ("a",), answers()),
             create(tmp_path / "1.zarr", ("b",), answers())]  # fmt: skip
    merge(tmp_path / "all.zarr", parts)
    assert FeatureStore.open(tmp_path / "all.zarr").answers == answers()
    for _ in range(2):  # the second goes on
        subset(tmp_path / "all.zarr", tmp_path / "some.zarr", layers=[0, 1])
    assert FeatureStore.open(tmp_path / "some.zarr").answers == answers()
    for number, other in enumerate([None, answers(seed=1), answers(words=("Yes", "No"))]):
        part = create(tmp_path / f"other-{number}.zarr", ("c",), other)
        with pytest.raises(StoreError, match="answers is"):
            merge(tmp_path / "no.zarr", [parts[0], part])


MORE = ("w", *answers().words, "x", "y")


def more_answers():
    """Those of `answers`, and three beside them."""
    few, many = answers(), answers(seed=5, words=MORE)
    head, bias = many.head.copy(), many.bias.copy()
    head[1:5], bias[1:5] = few.head, few.bias
    tokens = (3, *few.tokens, 100, 101)
    return replace(few, words=MORE, tokens=tokens, head=head, bias=bias)


def add(path, added, words=()):
    with StoreWriter(path) as writer:
        return writer.add_answers(added, words)


def files_of(path):
    return {one.relative_to(path).as_posix(): one.read_bytes()
            for one in path.rglob("*") if one.is_file() and one.name != "lock"}  # fmt: skip


@pytest.mark.parametrize("is_older", [False, True], ids=["with_digests", "older"])
def test_a_store_without_answers_gains_them(tmp_path, is_older):
    path = create(tmp_path / "s.zarr")
    if is_older:
        forget_digests(path)
    before = files_of(path)
    assert add(path, answers()) == answers().words
    store = FeatureStore.open(path)
    assert (store.answers, store.answers.words) == (answers(), answers().words)
    assert verify(path).problems == []
    after = files_of(path)
    assert {name: after[name] for name in before if name != "zarr.json"} == {
        name: content for name, content in before.items() if name != "zarr.json"
    }
    # Once more is nothing more.
    assert add(path, answers(), ("Yes",)) == ()
    assert FeatureStore.open(path).answers == answers()


def test_a_store_gains_more_words_and_what_it_has_stays(tmp_path):
    path = create(tmp_path / "s.zarr", kept=answers())
    chunk = (path / "answer_head/c/0/0").read_bytes()
    assert add(path, more_answers(), ("x", "Yes")) == ("x",)
    assert add(path, more_answers(), ("w", "y")) == ("w", "y")
    store = FeatureStore.open(path)
    assert store.answers.words == (*answers().words, "x", "w", "y")
    assert store.answers == more_answers()
    assert (path / "answer_head/c/0/0").read_bytes() == chunk
    assert verify(path).problems == []
    # Whatever the order, they are those of a store that has had them from the beginning.
    other = create(tmp_path / "other.zarr", ("c",), more_answers())
    merge(tmp_path / "all.zarr", [path, other])
    subset(tmp_path / "all.zarr", tmp_path / "some.zarr", layers=[0, 1])
    export_hdf5(tmp_path / "some.zarr", tmp_path / "s.h5")
    import_hdf5(tmp_path / "s.h5", tmp_path / "imported.zarr")
    for copy in ("all.zarr", "some.zarr", "imported.zarr"):
        assert FeatureStore.open(tmp_path / copy).answers == more_answers()
        assert verify(tmp_path / copy).problems == []


@pytest.mark.parametrize(
    "change",
    [{"head": answers(seed=1).head}, {"norm": answers(seed=1).norm}, {"num_layers": 99},
     {"epsilon": 1e-5}, {"tokens": (7, 8, 9, 11)}, {"words": ("yes", "Yes", "No", "A")}],
)  # fmt: skip
def test_rows_of_another_model_are_refused_and_nothing_changes(tmp_path, change):
    path = create(tmp_path / "s.zarr", kept=answers())
    with pytest.raises(StoreError, match="cannot take answers of this model: "):
        add(path, replace(answers(), **change), ("A",))
    assert FeatureStore.open(path).answers == answers()
    assert verify(path).problems == []


@pytest.mark.parametrize("kept", [None, answers()], ids=["none", "some"])
def test_killed_anywhere_a_store_has_the_answers_that_it_had_or_all(tmp_path, monkeypatch, kept):
    path = create(tmp_path / "s.zarr", kept=kept)
    outcomes = []
    for last in range(60):
        copy = tmp_path / f"copy-{last}"
        shutil.copytree(path, copy)
        with killed_at(last, monkeypatch) as came:
            add(copy, more_answers(), MORE)
        found = FeatureStore.open(copy).answers
        assert found in (kept, more_answers())
        outcomes.append(found != kept)
        assert verify(copy).problems == []
        # Another writer, who wants fewer or none of them, settles what was left.
        if last % 3:
            writer = StoreWriter(copy)
            if last % 3 == 1 and kept is not None:
                writer.add_answers(more_answers(), ("x",))
                assert {"x"} <= {*FeatureStore.open(copy).answers.words} <= {*MORE}
            writer.close()
            assert verify(copy).problems == []
        add(copy, more_answers(), MORE)
        assert FeatureStore.open(copy).answers == more_answers()
        assert verify(copy).problems == []
        assert not [*copy.rglob("*.partial")]
        if not came[0]:
            break
    assert not came[0]
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) >= 5


def test_spellings_of_a_word_are_found_by_what_they_say():
    kept = answers(words=("Yes", " yes", "YES", "No", "yesterday", "A"))
    assert kept.columns(["yes"]) == [0, 1, 2]
    assert kept.columns(["yes", "a"]) == [0, 1, 2, 5]
    assert kept.columns(["maybe"]) == []


def test_logits_are_norm_then_head_and_the_last_layer_is_normed_already():
    kept, rng = answers(), np.random.default_rng(3)
    states = rng.normal(size=(5, WIDTH)).astype("f4")
    for layer in (0, LAYERS[-1]):
        found = kept.logits(states, layer)
        for row, state in enumerate(states.astype("f8")):
            size = math.sqrt(sum(x * x for x in state) / WIDTH + 1e-6)
            normed = state if layer == LAYERS[-1] else state / size * kept.norm
            for column in range(4):
                logit = sum(x * y for x, y in zip(normed, kept.head[column], strict=True))
                assert found[row, column] == pytest.approx(logit + kept.bias[column], abs=1e-9)


logits = st.lists(st.floats(-30, 30), min_size=5, max_size=5)


@given(logits)
def test_probability_is_the_softmax_over_both_words_spellings(values):
    weights = [math.exp(value) for value in values]
    expected = (weights[0] + weights[3]) / (weights[0] + weights[3] + weights[1])
    found = expit(log_odds(np.array([values]), [0, 3], [1]))
    assert found == pytest.approx(expected, abs=1e-12)


@given(logits, st.floats(-1e3, 1e3))
def test_probabilities_of_both_sides_add_up_and_a_common_shift_is_nothing(values, shift):
    one = log_odds(np.array([values]), [0, 1], [2])
    two = log_odds(np.array([values]) + shift, [2], [0, 1])
    assert one == pytest.approx(-two, abs=1e-9)


def test_far_apart_logits_neither_overflow_nor_turn_to_nan():
    values = np.array([[1e4, -1e4], [-1e4, 1e4], [0, 0]])
    with np.errstate(over="raise"):
        np.testing.assert_array_equal(expit(log_odds(values, [0], [1])), [1, 0, 0.5])
