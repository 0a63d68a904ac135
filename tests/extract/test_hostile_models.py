"""Model folders that are damaged or made to harm: one clear error, and none of their code runs."""

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hiprobe.demo.model import build_random_model
from hiprobe.extract import chat_template
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.generation import Describer
from hiprobe.extract.loading import files_digest
from hiprobe.store import ModelError
from tests.extract.tiny_models import build_internvl

ROOT = Path(__file__).parents[2]
AUTO_MAPS = {
    "config.json": {
        name: f"evil.{name}"
        for name in ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor")
    },
    "processor_config.json": {"AutoProcessor": "evil.AutoProcessor"},
    "preprocessor_config.json": {"AutoImageProcessor": "evil.AutoImageProcessor"},
    "video_preprocessor_config.json": {"AutoVideoProcessor": "evil.AutoVideoProcessor"},
    "tokenizer_config.json": {"AutoTokenizer": ["evil.AutoTokenizer", "evil.AutoTokenizer"]},
}
LOAD = """
import sys
from hiprobe.extract.backbone import Backbone
from hiprobe.extract.config import BackboneConfig
from hiprobe.extract.generation import Describer
from hiprobe.store import HiProbeError
for kind in (Backbone, Describer):
    try:
        kind(BackboneConfig(sys.argv[1], device="cpu"))
        print("loaded")
    except HiProbeError as error:
        print("refused:", error)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return build_random_model(tmp_path_factory.mktemp("model") / "qwen")


@pytest.fixture
def folder(whole, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for file in whole.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def change_json(path, changes):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def load(folder):
    return Backbone(BackboneConfig(str(folder), device="cpu"))


def plant_code(folder):
    """Put code into every place where Transformers looks for some; it leaves a mark when run."""
    marker = folder / "ran"
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("evil.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    for name, auto_map in AUTO_MAPS.items():
        change_json(folder / name, {"auto_map": auto_map})
    return marker


def load_with_yes(folder, tmp_path):
    """Load it in a process whose standard input says yes to everything."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)],
        cwd=ROOT, input="y\n" * 50, capture_output=True, text=True, timeout=300, check=False,
        env={"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": ""},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_the_code_of_a_model_that_transformers_knows_never_runs(folder, tmp_path):
    marker = plant_code(folder)
    said = load_with_yes(folder, tmp_path)
    assert said.count("loaded") == 2, said
    assert not marker.exists()


@pytest.mark.parametrize("changes", [{"model_type": "evil"}, {"model_type": None}])
def test_a_model_that_needs_its_own_code_is_refused(folder, tmp_path, changes):
    marker = plant_code(folder)
    change_json(folder / "config.json", changes)
    said = load_with_yes(folder, tmp_path)
    assert said.count("refused:") == 2, said
    assert "needs code of its own (auto_map), which hiprobe never runs" in said
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("processor_config.json", {"processor_class": "Evil"}),
        ("tokenizer_config.json", {"tokenizer_class": "Evil", "processor_class": "Evil"}),
    ],
)
def test_processors_and_tokenizers_of_their_own_code_never_run(folder, tmp_path, name, changes):
    marker = plant_code(folder)
    change_json(folder / name, changes)
    load_with_yes(folder, tmp_path)
    assert not marker.exists()


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("torchs_own_format", [True, False])
@pytest.mark.parametrize("architecture", ["native", "internvl_chat"])
def test_a_pickle_of_code_is_refused(folder, tmp_path, torchs_own_format, architecture):
    marker = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    if torchs_own_format:
        torch.save({"weight": Evil(marker)}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(marker)))
    marker.unlink(missing_ok=True)
    if architecture == "internvl_chat":
        change_json(folder / "config.json", {"model_type": "internvl_chat"})
    with pytest.raises(ModelError, match="cannot load it as"):
        load(folder)
    assert not marker.exists()


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def weights_of(content):
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def config_of(**changes):
    return lambda folder: change_json(folder / "config.json", changes)


def file_of(name, content):
    return lambda folder: (folder / name).write_text(content)


def without(*patterns):
    def change(folder):
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return change


DAMAGE = {
    "empty folder": without("*"),
    "cut weights": cut_weights,
    "no weights": without("*.safetensors"),
    "garbage for weights": weights_of(b"\x00\xff" * 5000),
    "a huge header": weights_of((2**60).to_bytes(8, "little") + b"{}"),
    "empty weights": weights_of(b""),
    "no config": without("config.json"),
    "config is a list": file_of("config.json", "[1, 2]"),
    "config is cut": file_of("config.json", '{"model_type": "qwen2'),
    "config is binary": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
    "config is deep": file_of("config.json", "[" * 100_000),
    "text_config is a number": config_of(text_config=7),
    "vision_config is a list": config_of(vision_config=[]),
    "hidden size is a text": config_of(text_config={"hidden_size": "wide"}),
    "num_hidden_layers is negative": config_of(text_config={"num_hidden_layers": -3}),
    "architectures is a number": config_of(architectures=5),
    "model_type is a list": config_of(model_type=["qwen2_5_vl"]),
    "model_type is another's": config_of(model_type="bert"),
    "no tokenizer": without("tokenizer*"),
    "no processor": without("*processor*"),
    "tokenizer is garbage": file_of("tokenizer.json", "{]"),
    "tokenizer is empty": file_of("tokenizer.json", "{}"),
    "tokenizer_config is a list": file_of("tokenizer_config.json", "[]"),
    "processor_config is a number": file_of("processor_config.json", "3"),
    "internvl_chat without more": config_of(model_type="internvl_chat"),
    "internvl_chat of numbers": config_of(
        model_type="internvl_chat", llm_config=3, vision_config=4, template="internvl2_5"
    ),
    "a kernel of the hub": config_of(attn_implementation="evil/kernel"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_one_clear_error(folder, kind):
    DAMAGE[kind](folder)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder}: ")


TEMPLATES = {
    "broken": "{% for message in messages %}",
    "no such filter": "{{ messages | nothing }}",
    "undefined": "{{ messages.nothing.at.all }}",
    "raises": "{{ raise_exception('no') }}",
    "forbidden": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "changes what it is given": "{{ messages.append(1) }}",
    "recursive": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "a power": "{{ 9**9**9 }}",
}
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)


def write_template(folder, template):
    for name in ("tokenizer_config.json", "processor_config.json", "chat_template.json"):
        if (folder / name).exists():
            change_json(folder / name, {"chat_template": template})
    (folder / "chat_template.jinja").write_text(template)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_chat_template_that_fails_is_one_clear_error(folder, kind):
    write_template(folder, TEMPLATES[kind])
    for build in (Backbone, Describer):
        with pytest.raises(ModelError, match="its chat template cannot be used"):
            build(BackboneConfig(str(folder), device="cpu"))


def test_no_chat_template_is_one_clear_error(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="its chat template cannot be used"):
        load(folder)


def test_a_chat_template_that_never_ends_is_stopped(folder, monkeypatch):
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 1.0)
    write_template(folder, ENDLESS)
    with pytest.raises(ModelError, match="it does not end: stopped after 1 s"):
        load(folder)
    # And its thread with it: a process that lives on must not pay for it.
    time.sleep(0.5)
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.5


def test_stars_in_a_templates_text_are_no_powers(folder):
    path = folder / "chat_template.jinja"
    path.write_text("**bold** " + path.read_text())
    assert load(folder)._text.startswith("**bold** ")


@pytest.mark.parametrize("build", [build_random_model, build_internvl])
def test_the_digest_of_the_files_tells_what_changes_the_states(tmp_path, build):
    folder = build(tmp_path / "model")
    before = files_digest(folder)
    assert load(folder).describe().provenance["model"]["files_digest"] == before
    seen = {before}
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "tokenizer_config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b"\n")
        seen.add(files_digest(folder))
        (folder / name).write_bytes(content)
    assert len(seen) == 5
    for name in ("generation_config.json", "README.md", "vocab.json"):
        (folder / name).write_text("{}")
    assert files_digest(folder) == before
    assert load_file(folder / "model.safetensors")
