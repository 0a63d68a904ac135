"""The notebooks run from top to bottom, in a real kernel, on a store of real videos."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from hiprobe.demo.clips import plan_clips, write_clips
from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.extract.backbone import BackboneConfig
from hiprobe.extract.pipeline import ExtractConfig, extract
from hiprobe.extract.video import inspect_video
from hiprobe.manifest.folder import folder_manifest
from hiprobe.store import write_manifest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    write_clips(plan_clips(60, seed=7), folder / "videos")
    draft = folder_manifest(
        folder / "videos", inspect=inspect_video, annotations=folder / "videos/annotations.csv"
    )
    write_manifest(folder / "manifest.csv", draft.records)
    backbone = BackboneConfig(
        str(TRAINED_MODEL), device="cpu", taps=("heads", "frames_mean", "frames_last")
    )
    extract(ExtractConfig(folder / "manifest.csv", folder / "features.zarr", backbone))
    return folder / "features.zarr"


def test_there_are_four():
    assert len(NOTEBOOKS) == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, store, tmp_path, monkeypatch):
    monkeypatch.setenv("HIPROBE_STORE", str(store))
    notebook = nbformat.read(path, as_version=4)
    assert any(cell.get("outputs") for cell in notebook.cells), "it was committed without outputs"
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
