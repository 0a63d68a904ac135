"""Which device: GPUs that cannot be used, and which process gets which of several."""

import subprocess
import sys

import pytest
import torch

from hiprobe.demo.model import build_random_model
from hiprobe.extract import devices, loading
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.devices import Gpu, GpuClaims, GpuError, gpu_errors, in_turn, resolve_device
from hiprobe.store import ModelError

GPUS = [Gpu(index, f"GPU-{index}", "Card", 24 * 2**30) for index in range(4)]
VERSION = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021\n"
    "GCC version:  gcc version 9.3.0\n"
)


def seen_by_worker(first):
    """The GPUs in the order of LocalCUDACluster's CUDA_VISIBLE_DEVICES, numbered anew."""
    rotated = GPUS[first:] + GPUS[:first]
    return [Gpu(index, gpu.uuid, gpu.name, gpu.num_bytes) for index, gpu in enumerate(rotated)]


@pytest.fixture
def process(tmp_path):
    """Make the claims of one process more on this machine."""
    made = []

    def make():
        made.append(GpuClaims(tmp_path / "locks"))
        return made[-1]

    yield make
    for one in made:
        one.release()


def test_an_nvidia_gpu_that_torch_cannot_use_is_refused(tmp_path, monkeypatch):
    (tmp_path / "version").write_text(VERSION)
    monkeypatch.setattr(devices, "PROC_VERSION", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for device in ("auto", "cuda:0"):
        with pytest.raises(ModelError, match=r"driver 470\.57\.02, but torch \S+ \(.*CUDA") as told:
            resolve_device(device)
        assert str(told.value).startswith(f"--device {device}: ")
        assert str(told.value).endswith("or say --device cpu.")
    assert resolve_device("cpu").type == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert resolve_device("auto").type == "cpu"


def test_the_open_drivers_version_is_read_too(tmp_path, monkeypatch):
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build\n"
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(devices, "PROC_VERSION", tmp_path / "version")
    assert devices.driver_version() == "560.35.03"


def test_a_machine_without_nvidia_takes_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "PROC_VERSION", tmp_path / "none")
    monkeypatch.setattr(devices, "DEVICE_NODE", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"


def test_workers_that_see_all_gpus_get_one_each(process):
    """`dask worker --nworkers`, a local cluster, and several `hiprobe extract`."""
    workers = [process() for _ in range(4)]
    assert [one.claim(GPUS).index for one in workers] == [0, 1, 2, 3]
    # The same process again, as for another store.
    assert workers[2].claim(GPUS).index == 2


def test_workers_of_a_rotated_list_get_their_first(process):
    """LocalCUDACluster: 4 workers on GPUs 0, 1, 2, 3, and each says cuda:0."""
    got = [process().claim(seen_by_worker(rank)) for rank in range(4)]
    assert [gpu.uuid for gpu in got] == ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]
    assert {gpu.index for gpu in got} == {0}


def test_a_worker_that_is_started_anew_gets_the_gpu_of_the_dead_one(process):
    workers = [process() for _ in range(4)]
    for one in workers:
        one.claim(GPUS)
    workers[1].release()
    assert process().claim(GPUS).uuid == "GPU-1"


def test_slurms_number_on_the_node_comes_first(process, monkeypatch):
    for rank in (2, 5):
        monkeypatch.setenv("SLURM_LOCALID", str(rank))
        assert process().claim(in_turn(GPUS)).index == {2: 2, 5: 1}[rank]
    # With --gpus-per-task each task sees its own only.
    assert in_turn([GPUS[3]]) == [GPUS[3]]


def test_two_models_on_one_gpu_are_an_error_unless_asked_for(process):
    process().claim(GPUS[:1])
    with pytest.raises(ModelError, match=r"^cuda:0 Card GPU-0: another process .* --share-gpu"):
        process().claim(GPUS[:1])
    assert process().claim(GPUS[:1], share=True).index == 0
    # Where there are several, the one of fewest.
    process().claim(GPUS[:2], share=True)
    assert process().claim(GPUS[:3], share=True).index == 2


def test_a_claim_ends_with_its_process(process, tmp_path):
    code = f"""
from pathlib import Path
from hiprobe.extract.devices import Gpu, GpuClaims
claims = GpuClaims(Path({str(tmp_path / "locks")!r}))
claims.claim([Gpu(0, "GPU-0", "Card", 1)])
print("claimed", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(ModelError, match="another process"):
            process().claim(GPUS[:1])
        other.kill()
    assert process().claim(GPUS[:1]).uuid == "GPU-0"


def test_only_cudas_own_errors_are_the_gpus():
    said = r"^v\.mp4: the GPU failed: CUDA error: an illegal memory"
    with pytest.raises(GpuError, match=said), gpu_errors("v.mp4"):
        raise torch.AcceleratorError("CUDA error: an illegal memory access\nCompile with")
    with pytest.raises(RuntimeError, match="shape") as told, gpu_errors("v.mp4"):
        raise RuntimeError("shape mismatch")
    assert not isinstance(told.value, GpuError)
    for text in (
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
    ):
        assert devices.is_out_of_memory(RuntimeError(text))
        assert not devices.is_gpu_error(RuntimeError(text))


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A checkpoint in float16, as LLaVA-OneVision's is."""
    folder = build_random_model(tmp_path_factory.mktemp("half") / "qwen")
    model = loading.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float16)
    model.save_pretrained(folder)
    return BackboneConfig(str(folder))


@pytest.mark.parametrize(("has_it", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_checkpoint_in_float16_runs_in_bfloat16_where_the_card_has_it(
    half, monkeypatch, has_it, dtype
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_it)
    model, _, _ = loading._load(half, torch.device("cpu"), "auto", with_head=False)
    assert model.dtype == dtype


def test_weights_that_do_not_fit_are_one_message(half, monkeypatch):
    def no_room(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(loading, "_placed", no_room)
    with pytest.raises(ModelError, match=r"do not fit into the memory of cpu: CUDA out of.*8bit"):
        loading.load_model(half, torch.device("cpu"))


def test_quantised_weights_need_accelerate_too(half, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == "accelerate" else name)
    with pytest.raises(ModelError, match=r"no accelerate\..*saves memory, not time"):
        loading._load_options(replace(half, load_in="8bit"), torch.device("cuda"))
