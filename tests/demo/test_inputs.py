import pytest

from hiprobe.demo.inputs import DemoInputs
from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.store import HiProbeError


def test_clips_and_model_are_made_once(tmp_path):
    inputs = DemoInputs(tmp_path / "demo", num_clips=2)
    assert not inputs.are_made()
    done = []
    inputs.make(done.append)
    assert done == [1, 2]
    assert inputs.are_made()
    assert len(list(inputs.videos.rglob("*.mp4"))) == 2
    assert inputs.annotations.exists()
    assert {path.name for path in inputs.model.iterdir()} == {
        path.name for path in TRAINED_MODEL.iterdir()
    }


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(HiProbeError, match="holds something else, or an unfinished demo"):
        DemoInputs(tmp_path).are_made()
    (tmp_path / "inputs-seed-0.done").touch()
    assert DemoInputs(tmp_path, seed=0).are_made()
    with pytest.raises(HiProbeError, match="holds something else"):
        DemoInputs(tmp_path, seed=1).are_made()
