"""Which segments' pictures the report shows, and that they are those of the store."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from hiprobe.demo.model import TRAINED_MODEL
from hiprobe.evaluate.peaks import peaks
from hiprobe.evaluate.pipeline import EvaluateConfig, run_evaluate
from hiprobe.extract.backbone import BackboneConfig
from hiprobe.extract.pipeline import ExtractConfig, extract
from hiprobe.probe.pipeline import ProbeConfig, run_probe
from hiprobe.store import FeatureStore, VideoRecord, write_manifest


@pytest.mark.parametrize(
    ("smoothed", "expected"),
    [
        ([0.1, 0.9, 0.1], [1]),
        ([0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.8], [0, 6]),
        ([0.5, 0.1, 0.9, 0.1, 0.6], [2]),  # too near to the highest
        ([0.3], [0]),
        ([0.0, 1, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0], [5, 9, 13]),
    ],
)
def test_the_highest_peaks_apart_from_each_other(smoothed, expected):
    assert peaks(np.array(smoothed)) == expected


def test_the_results_hold_the_stores_pictures(make_video, tmp_path):
    records = [
        VideoRecord(f"v{i}", str(make_video(f"{i}.mp4", seed=i)), ("train", "test")[i > 3],
                    ("normal", "anomalous")[i % 2], annotations=((0, 20),) * (i % 2))
        for i in range(6)
    ]  # fmt: skip
    write_manifest(tmp_path / "m.csv", records)
    store = tmp_path / "s.zarr"
    backbone = BackboneConfig(str(TRAINED_MODEL), device="cpu")
    extract(ExtractConfig(tmp_path / "m.csv", store, backbone, parity=0, thumbnails=True))
    run_probe(ProbeConfig(store)).save(tmp_path / "p.json")
    run_evaluate(EvaluateConfig(store, tmp_path / "p.json", tmp_path / "r", num_resamples=0))
    content = json.loads((tmp_path / "r/thumbnails.json").read_text())
    assert list(content) == ["v4", "v5"]
    (picture,) = content["v5"]
    decoded = Image.open(io.BytesIO(base64.b64decode(picture["jpeg"])))
    # 96 x 64 into 128 x 72: 108 columns, without the black beside them.
    assert decoded.size == (108, 72)
    stored = FeatureStore.open(store).thumbnails("v5", [picture["frame"] // 24])[0][:, 10:118]
    assert np.abs(np.asarray(decoded).astype(int) - stored).mean() < 25
