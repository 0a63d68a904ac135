"""Taps and prompts from the command to the store: filled, resumed, and added later."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.parity import certify
from hiprobe.extract.pipeline import extract
from hiprobe.extract.prompts import parse_prompts
from hiprobe.extract.workplace import Here
from hiprobe.store import FeatureStore, StoreError, VideoRecord, write_manifest
from hiprobe.store.verify import verify
from tests.extract.test_changed_files import interrupt

TAPS = ("heads", "frames_mean", "frames_last")
YES_NO, SEVERE = ("yes-no", "Is it abnormal? Answer Yes or No."), ("severe", "How severe is it?")


@pytest.fixture
def job(tmp_path, make_video, model):
    """A video of two blocks, and a short one."""
    records = [
        VideoRecord(name, str(make_video(f"{name}.mp4", num)), "train", "normal")
        for name, num in (("long", 24 * 66 + 5), ("short", 60))
    ]
    write_manifest(tmp_path / "m.csv", records)
    backbone = BackboneConfig(str(model), device="cpu", layers=(0, 1, 2))
    return ExtractConfig(tmp_path / "m.csv", tmp_path / "s.zarr", backbone, num_readers=1, parity=3)


def with_taps(job, taps=TAPS, prompts=(YES_NO,)):
    backbone = replace(job.backbone, taps=taps, further_prompts=prompts)
    return replace(job, backbone=backbone)


def assert_equal(one, other, videos=("long", "short"), *, exact=True):
    one, other = FeatureStore.open(one), FeatureStore.open(other)
    assert one.further_taps == other.further_taps
    assert one.further_taps
    for video_id in videos:
        for tap in (one.tap(), *one.further_taps):
            np.testing.assert_allclose(
                one.video(video_id, tap=tap.tap, prompt=tap.prompt),
                other.video(video_id, tap=tap.tap, prompt=tap.prompt),
                rtol=0,
                atol=0 if exact else 1e-5,
            )


@pytest.fixture
def whole(job):
    """All taps and prompts in one go."""
    whole = replace(with_taps(job), store=job.store.with_name("whole.zarr"))
    assert extract(whole).parity["exceeded"] == []
    return whole.store


def test_one_pass_fills_every_tap_and_prompt(job, whole):
    store = FeatureStore.open(whole)
    assert verify(whole).problems == []
    assert store.taps == ["hidden_states", *TAPS]
    assert store.prompts == ["", "yes-no"]
    assert store.heads(1).shape == (70, 4, 32)
    assert store.heads(1, prompt="yes-no").shape == (70, 4, 32)
    assert not np.array_equal(store.layer(2), store.layer(2, prompt="yes-no"))
    certificate = store.provenance["parity"]
    assert {*certificate["taps"]} == {tap.name for tap in store.further_taps}
    assert max(certificate["taps"].values()) < certificate["tolerance"]
    # Each prompt's states are those of a store that has this one only.
    alone = replace(job.backbone, prompt=YES_NO[1], taps=("heads",))
    alone = replace(job, backbone=alone, store=job.store.with_name("alone.zarr"))
    extract(alone)
    for layer in (1, 2):
        for tap in ("hidden_states", "heads"):
            np.testing.assert_allclose(
                store.layer(layer, tap=tap, prompt="yes-no"),
                FeatureStore.open(alone.store).layer(layer, tap=tap),
                rtol=0,
                atol=1e-5,
            )


def test_an_interrupted_run_goes_on_with_all_taps_though_nothing_asks_for_them(job, whole):
    interrupt(with_taps(job), num_batches=8)
    assert FeatureStore.open(job.store).segments.empty
    summary = extract(job)
    assert (summary.num_done, summary.parity["exceeded"]) == (2, [])
    assert verify(job.store).problems == []
    assert_equal(job.store, whole)


def test_a_cluster_fills_every_tap(job, whole):
    extract(replace(with_taps(job), num_workers=1))
    assert_equal(job.store, whole)


def test_taps_and_prompts_are_added_to_a_store_that_has_its_states_already(job, whole):
    extract(job)
    plain = {
        path: path.read_bytes()
        for path in (job.store / "hidden_states/c").rglob("*")
        if path.is_file()
    }
    summary = extract(with_taps(job, prompts=()))
    assert (summary.num_done, summary.run["num_segments"]) == (2, 70)
    summary = extract(with_taps(job, taps=()))
    assert (summary.num_done, summary.changed, summary.parity["exceeded"]) == (2, {}, [])
    assert verify(job.store).problems == []
    assert_equal(job.store, whole, exact=False)
    # What was there has not been touched.
    assert all(path.read_bytes() == content for path, content in plain.items())
    # And now there is nothing left to do.
    assert extract(with_taps(job)).run is None


def test_adding_goes_on_where_it_was(job, whole):
    interrupt(job, num_batches=8)  # before the long video's second block
    interrupt(with_taps(job), num_batches=8)
    assert FeatureStore.open(job.store).segments.empty
    assert extract(job).num_done == 2
    assert verify(job.store).problems == []
    assert_equal(job.store, whole, exact=False)


def test_a_video_that_cannot_be_added_to_stays_as_it_is_and_says_why(job):
    extract(job)
    path = Path(FeatureStore.open(job.store).videos.loc["short", "path"])
    path.rename(path.with_name("elsewhere.mp4"))
    summary = extract(with_taps(job))
    assert list(summary.changed) == ["short"]
    assert "no such file" in summary.changed["short"]
    store = FeatureStore.open(job.store)
    assert store.layer(1).shape == (70, 128)
    assert store.layer(1, ["long"], tap="heads").shape == (67, 128)
    with pytest.raises(StoreError, match=r"1 of 2 videos, such as 'short', have no taps/heads yet"):
        store.layer(1, tap="heads")
    path.with_name("elsewhere.mp4").rename(path)
    assert extract(job).changed == {}
    assert FeatureStore.open(job.store).layer(1, tap="heads").shape == (70, 128)


def test_states_that_come_out_otherwise_get_no_taps(job):
    extract(job)

    class Wrong(Backbone):
        def launch(self, inputs):
            states = super().launch(inputs)()
            return lambda: {name: one * 1.01 for name, one in states.items()}

    asked = with_taps(job)
    summary = extract(asked, workplace=Here(asked, Wrong(asked.backbone)))
    assert {*summary.changed} == {"long", "short"}
    assert "computed again: layer " in summary.changed["short"]
    assert "differs by 9.9e-03 (relative L2), 1e-04 is expected at most" in summary.changed["short"]
    assert FeatureStore.open(job.store).layer(2).shape == (70, 128)


def test_a_name_that_the_store_has_for_another_prompt_is_refused_before_the_model_is_loaded(job):
    named = replace(with_taps(job, prompts=(YES_NO,)), limit=1)
    named = replace(named, backbone=replace(named.backbone, prompt_name="describe"))
    extract(named)
    store = FeatureStore.open(job.store)
    assert store.prompts == ["describe", "yes-no"]
    np.testing.assert_array_equal(store.layer(1, prompt="describe"), store.layer(1))
    nowhere = replace(named.backbone, model="/nowhere", further_prompts=(("yes-no", "What?"),))
    with pytest.raises(StoreError, match="has a prompt 'yes-no' already: 'Is it abnormal"):
        extract(replace(named, backbone=nowhere))
    other = replace(named.backbone, model="/nowhere", prompt="What?")
    with pytest.raises(StoreError, match=r"prompt: store 'Is anything .*, this run 'What\?'"):
        extract(replace(named, backbone=other))
    # A new one beside them needs not name the first again.
    asked = replace(named.backbone, prompt=SEVERE[1], prompt_name=SEVERE[0], further_prompts=())
    extract(replace(named, backbone=asked, limit=None))
    assert FeatureStore.open(job.store).prompts == ["describe", "yes-no", "severe"]
    assert verify(job.store).problems == []


def test_the_certificate_is_made_again_with_taps_and_prompts(whole):
    certificate = certify(whole, 2)
    assert certificate["exceeded"] == []
    assert len(certificate["taps"]) == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("a=x", "y"), "of several prompts each needs a name, such as second='y'"),
        (("a=x", "a=y"), "two prompts have the name 'a'"),
        (("a= ",), "the text is empty"),
    ],
)
def test_prompts_that_cannot_be_told_apart_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        parse_prompts(values)


def test_a_text_with_an_equals_sign_that_is_no_name_is_a_text():
    assert [(one.name, one.text) for one in parse_prompts(["Is a = b?", "x=y=z"])] == [
        ("", "Is a = b?"),
        ("x", "y=z"),
    ]
