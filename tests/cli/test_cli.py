"""The command line as a user meets it: in processes of its own."""

import json
import os
import re
import subprocess
import sys

import pytest

from hiprobe.demo.model import build_random_model

# A machine without the GPU job's libraries: importing any of them fails.
WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "transformers", "av"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def hiprobe(*arguments, cwd=None, env=None):
    return subprocess.run(
        [sys.executable, "-m", "hiprobe.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        env=os.environ | {"COLUMNS": "250"} | (env or {}),
    )


def run_without_torch(code):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + code], capture_output=True, text=True, check=False
    )


def test_probe_and_evaluate_work_on_a_machine_without_torch(make_store, tmp_path):
    store, probe, results = make_store(), tmp_path / "probe.json", tmp_path / "results"
    code = f"""
from hiprobe.cli.main import app
for arguments in (["probe", {str(store)!r}, {str(probe)!r}],
                  ["layers", {str(store)!r}, {str(tmp_path / "layers")!r}, "--draws", "2"],
                  ["sweep", {str(store)!r}, {str(tmp_path / "sweep.parquet")!r}],
                  ["evaluate", {str(store)!r}, {str(probe)!r}, {str(results)!r}]):
    app(arguments, standalone_mode=False)
import hiprobe.store, hiprobe.probe, hiprobe.evaluate, hiprobe.sweep
assert not {{"torch", "transformers", "av"}} & set(sys.modules)
"""
    result = run_without_torch(code)
    assert result.returncode == 0, result.stderr
    assert json.loads((results / "metrics.json").read_text())["num_videos"] == 12


def test_extract_without_torch_says_what_to_install(tmp_path):
    code = f"""
import sys
sys.argv = ["hiprobe", "extract", "m.csv", {str(tmp_path)!r}, "--model", "x"]
import importlib.util
importlib.util.find_spec = lambda name: None
from hiprobe.cli.main import main
main()
"""
    result = run_without_torch(code)
    assert result.returncode == 1
    assert "pip install 'hiprobe[extract]'" in result.stderr


def test_help_imports_nothing_heavy():
    code = """
from hiprobe.cli.main import app
try:
    app(["--help"])
except SystemExit:
    pass
heavy = {"torch", "transformers", "av", "sklearn", "scipy", "pandas", "zarr", "plotly"}
heavy |= {"matplotlib", "distributed", "dask", "pyarrow"}
print("heavy:", sorted(heavy & set(sys.modules)))
"""
    assert "heavy: []" in run_without_torch("import sys" + code).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "nothing.zarr", "p.json"], "nothing.zarr: no such store"),
        (["evaluate", "nothing.zarr", "p.json", "r"], "nothing.zarr: no such store"),
        (["store", "info", "nothing.zarr"], "nothing.zarr: no such store"),
        (["extract", "nothing.csv", "s.zarr", "--model", "m"], "nothing.csv: no such manifest"),
        (["manifest", "folder", "nothing", "--out", "m.csv"], "nothing: no such folder"),
    ],
)
def test_users_errors_are_one_message_and_exit_code_1(tmp_path, arguments, message):
    result = hiprobe(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_wrong_usage_is_exit_code_2():
    assert hiprobe("extract").returncode == 2


def test_manifest_extract_and_info_by_hand(tmp_path, make_video):
    for split in ("train", "test"):
        for category in ("normal", "Fire"):
            make_video(f"videos/{split}/{category}/{split}-{category}.mp4", num_frames=30)
    (tmp_path / "videos/test/Fire/broken [red], 坏 #1.mp4").write_text("no video")
    build_random_model(tmp_path / "model")
    manifest = ["manifest", "folder", "videos", "--whole-video", "--out", "manifest.csv"]
    made = hiprobe(*manifest, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "test: 3 videos, 2 of them anomalous" in made.stdout
    extracted = hiprobe("extract", "manifest.csv", "s.zarr", "--model", "model", cwd=tmp_path)
    assert extracted.returncode == 3
    assert "test/Fire/broken [red], 坏 #1" in extracted.stdout
    assert "cannot be read as a video" in extracted.stdout
    assert "4 videos done, 1 failed; 8 segments" in " ".join(extracted.stdout.split())
    assert (
        "layers 0 to 10 (11), 128 features"
        in hiprobe("store", "info", "s.zarr", cwd=tmp_path).stdout
    )


def test_parts_by_slurms_environment_merge_and_verify(tmp_path, make_video):
    for name in ("a", "b", "c"):
        make_video(f"videos/test/normal/{name}.mp4", num_frames=30)
    build_random_model(tmp_path / "model")
    hiprobe("manifest", "folder", "videos", "--out", "m [b] :fire:.csv", cwd=tmp_path)
    extract = ["extract", "m [b] :fire:.csv", "s.zarr", "--model", "model"]
    plan = hiprobe(*extract, "--dry-run", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert "Dry run: m [b] :fire:.csv → s.zarr" in plan.stdout
    assert "at most 34 kB" in plan.stdout
    assert re.search(r"[\d.]+ to [\d.]+ s a segment, in several batches", plan.stdout)
    assert not (tmp_path / "s.zarr").exists()
    for rank in range(2):
        slurm = {"SLURM_NTASKS": "2", "SLURM_PROCID": str(rank)}
        done = hiprobe(*extract, cwd=tmp_path, env=slurm)
        assert done.returncode == 0, done.stderr
    merged = hiprobe("store", "merge", "s.zarr", "s.0-of-2.zarr", "s.1-of-2.zarr", cwd=tmp_path)
    assert "3 finished videos of 2 stores" in merged.stdout, merged.stderr
    verified = hiprobe("store", "verify", "s.zarr", "--parity", "2", cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    assert "3 finished videos, 3 blocks" in verified.stdout
    assert "2 segments computed again one by one" in verified.stdout
    (tmp_path / "s.zarr/hidden_states/c/0/1/0").unlink()
    broken = hiprobe("store", "verify", "s.zarr", cwd=tmp_path)
    assert broken.returncode == 1
    assert "is missing" in broken.stdout
    assert "Traceback" not in broken.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-size", "many"], "expected a number, or auto"),
        (["--rank", "2", "--world-size", "2"], "expected 0 to 1"),
        (["--attention", "none"], "'none' is not one of 'auto', 'sdpa'"),
    ],
)
def test_wrong_options_of_extract_are_exit_code_2(tmp_path, options, said):
    result = hiprobe("extract", "m.csv", "s.zarr", "--model", "m", *options, cwd=tmp_path)
    assert result.returncode == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_a_probe_with_types_that_nobody_trusts_is_refused_until_they_are_named(
    make_store, tmp_path
):
    store, probe, results = make_store(), tmp_path / "p.json", tmp_path / "r"
    forest = ("--scorer", "sklearn.ensemble:ExtraTreesClassifier", "--layer", "3")
    done = hiprobe("probe", store, probe, *forest)
    assert done.returncode == 0, done.stderr
    assert "no probabilities" in done.stdout
    refused = hiprobe("evaluate", store, probe, results, "--resamples", "0")
    assert refused.returncode == 1
    assert "--trust sklearn.tree._tree:Tree" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr
    trusted = ("--resamples", "0", "--trust", "sklearn.tree._tree:Tree")
    done = hiprobe("evaluate", store, probe, results, *trusted)
    assert done.returncode == 0, done.stderr
