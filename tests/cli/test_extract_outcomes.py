"""How `hiprobe extract` ends: what is listed, and with which exit code."""

import pytest

from hiprobe.demo.model import build_random_model
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig, ExtractConfig
from hiprobe.extract.pipeline import extract
from hiprobe.extract.workplace import Here
from hiprobe.store import FeatureStore, VideoRecord, write_manifest
from tests.cli.test_cli import hiprobe


@pytest.fixture
def job(tmp_path, make_video):
    records = [
        VideoRecord(name, str(make_video(f"{name}.mp4", 30)), "test", "normal")
        for name in ("wrong", "right")
    ]
    (tmp_path / "broken.mp4").write_text("no video")
    records.append(VideoRecord("broken", str(tmp_path / "broken.mp4"), "test", "normal"))
    write_manifest(tmp_path / "m.csv", records)
    backbone = BackboneConfig(str(build_random_model(tmp_path / "model")), device="cpu")
    return ExtractConfig(tmp_path / "m.csv", tmp_path / "s.zarr", backbone, parity=0)


def run(job, *options):
    command = ["extract", "m.csv", "s.zarr", "--model", "model", "--device", "cpu", *options]
    return hiprobe(*command, cwd=job.store.parent)


def test_states_that_are_not_the_models_are_exit_code_1_and_named(job):
    class Wrong(Backbone):
        def launch(self, inputs):
            states = super().launch(inputs)()
            return lambda: {name: one * 1.01 for name, one in states.items()}

    extract(ExtractConfig(job.manifest, job.store, job.backbone, limit=1, parity=0),
            workplace=Here(job, Wrong(job.backbone)))  # fmt: skip
    result = run(job, "--parity", "100")
    assert result.returncode == 1
    # The failed video is listed all the same.
    assert "1 failed" in result.stdout
    assert "cannot be read as a video" in " ".join(result.stdout.split())
    said = " ".join(result.stderr.split())
    assert "parity failed: 2 of 4 segments computed again differ" in said
    assert "wrong, segment 0 wrong, segment 1 Batches" in said
    assert "Traceback" not in result.stderr
    certificate = FeatureStore.open(job.store).provenance["parity"]
    assert certificate["exceeded"] == [["wrong", 0], ["wrong", 1]]
    assert 0.009 < certificate["relative_l2"]["5"] < 0.011

    verified = hiprobe(
        *("store", "verify", "s.zarr", "--parity", "9", "--device", "cpu"), cwd=job.store.parent
    )
    assert verified.returncode == 1
    assert "wrong, segment 1" in verified.stderr
    assert "Traceback" not in verified.stderr


def test_a_changed_video_is_listed_with_exit_code_3_until_it_is_replaced(job, make_video):
    (job.store.parent / "broken.mp4").unlink()
    make_video("broken.mp4", 30)
    first = run(job)
    assert first.returncode == 0, first.stderr
    make_video("wrong.mp4", 60, seed=3)
    changed = run(job)
    assert changed.returncode == 3
    said = " ".join(changed.stdout.replace("│", " ").split())
    assert "1 changed" in said
    assert "--replace-changed" in said
    assert "3 videos done, 0 failed, 1 changed; 6 segments" in said
    again = run(job, "--replace-changed")
    assert again.returncode == 0, again.stdout
    assert "3 videos done, 0 failed; 7 segments" in " ".join(again.stdout.split())


def test_a_corrected_label_is_said_until_the_store_is_relabelled(job):
    (job.store.parent / "broken.mp4").unlink()
    run(job)
    text = job.manifest.read_text()
    job.manifest.write_text(text.replace("right.mp4,test,normal,,", "right.mp4,test,anomalous,F,"))
    for _ in range(2):
        said = " ".join((result := run(job)).stderr.split())
        assert "m.csv and s.zarr disagree about 1 videos" in said, result
        assert "right: label 'normal' → 'anomalous', category '' → 'F'" in said
        assert "`hiprobe store relabel s.zarr m.csv`" in said
    relabelled = hiprobe("store", "relabel", "s.zarr", "m.csv", cwd=job.store.parent)
    assert relabelled.returncode == 0, relabelled.stderr
    assert "s.zarr: 1 videos relabelled" in relabelled.stdout
    assert "disagree" not in run(job).stderr
    assert FeatureStore.open(job.store).videos.loc["right", "label"] == "anomalous"
