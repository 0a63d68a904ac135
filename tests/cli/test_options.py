"""Options as a user meets them: described, limited and parsed alike in every command."""

from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from hiprobe.cli import compare, explain, options, table
from hiprobe.cli.main import app
from hiprobe.store import FeatureStore, format_annotations


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "250"})


def said(result):
    """What was printed, without the frame that Typer draws."""
    return " ".join(result.output.replace("│", " ").split())


def commands(group, name=""):
    """Each command of the application, by its whole name."""
    if not hasattr(group, "commands"):
        return {name.strip(): group}
    parts = (commands(one, f"{name} {word}") for word, one in group.commands.items())
    return {key: value for part in parts for key, value in part.items()}


COMMANDS = commands(typer.main.get_command(app))
PARAMETERS = [
    pytest.param(one, id=f"{name} {one.opts[0]}")
    for name, command in COMMANDS.items()
    for one in command.params
]


def choices(annotation):
    """The values of a shared option's ``Annotated[Literal[…], …]``."""
    return get_args(get_args(annotation)[0])


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_each_option_has_a_help_text_of_whole_sentences(parameter):
    assert parameter.help
    assert parameter.help[0].isupper()
    assert parameter.help.endswith(".")
    assert not parameter.help.startswith(("Of ", "Or ", "For "))


def test_options_of_one_name_mean_one_thing():
    texts = {}
    for command in ("probe", "layers", "evaluate"):
        for one in COMMANDS[command].params:
            if one.opts[0] in ("--manifest", "--split", "--seed", "--labels", "--scorer"):
                texts.setdefault(one.opts[0], set()).add(one.help)
    assert {len(text) for text in texts.values()} == {1}


LAYER_LISTS = [
    ("extract", "m.csv", "s.zarr", "--model", "m", "--layers"),
    ("sweep", "s.zarr", "t.csv", "--layers"),
    ("layers", "s.zarr", "out", "--tsne"),
]


@pytest.mark.parametrize("command", LAYER_LISTS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    "text", ["5-2", "", "4,,8", "x", "3-", "-1", "4, 8", "0-9999999999", "[red]"]
)
def test_what_is_no_list_of_layers_is_wrong_usage(command, text):
    result = run(*command[:-1], f"{command[-1]}={text}")
    assert result.exit_code == 2
    assert f"Invalid value for '{command[-1]}': {text!r}: expected" in said(result)
    assert "or layers such as 0,8,16-24" in said(result)


@pytest.mark.parametrize("word", ["all", "auto"])
@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("3", (3,)),
        ("0,8,16-18", (0, 8, 16, 17, 18)),
        ("8,4-6,5", (4, 5, 6, 8)),
        ("7-7", (7,)),
    ],
)
def test_layers_are_parsed(word, text, layers):
    parse = options.layers(word, "").parser
    assert parse(text) == layers
    assert parse(word) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "s", "t", "--l2", "0,,1"], "'--l2': '0,,1': expected numbers such as 0.1,1"),
        (["sweep", "s", "t", "--kappas", "nan"], "'nan': expected numbers such as 0.1,1"),
        (["sweep", "s", "t", "--num-videos", "10.5"], "'10.5': expected numbers such as 10,20"),
        (["sweep", "s", "t", "--scorers", "svm,"], "'': expected logistic, svm, distance"),
        (["probe", "s", "p", "--layer", "best"], "'--layer': 'best': expected auto, dlsp, last, "),
        (["probe", "s", "p", "--layer", "8,"], "stable-dlsp, or layers such as 0,8,16-24"),
        (["probe", "s", "p", "--mil", "-1"], "Invalid value for '--mil'"),
        (["probe", "s", "p", "--scorer", "tree"], "'tree': expected logistic, svm, "),
        (["probe", "s", "p", "--scorer", "my:"], "nearest, spherical or module:Class"),
        (["probe", "s", "p", "--target-far", "1"], "expected a share above 0 and below 1"),
        (["evaluate", "s", "p", "r", "--trust", "Tree"], "'Tree': expected module:Class"),
        (["probe", "s", "p", "--scorer", "svm", "--l2", "0"], "--scorer svm needs a penalty"),
        (["probe", "s", "p", "--split", "all"], "'all' is not one of 'train', 'test'"),
        (["evaluate", "s", "p", "r", "--threshold", "nan"], "expected a number, or auto"),
        (["evaluate", "s", "p", "r", "--ends", "x"], "'x' is not one of 'exclusive', 'inclusive'"),
        (["table", "other", "s", "--out", "t"], "'other' is not one of 'cross-dataset'"),
    ],
)
def test_wrong_values_are_wrong_usage(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in said(result)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("auto", None),
        ("dlsp", "dlsp"),
        ("3", 3),
        ("8,4-6", (4, 5, 6, 8)),
        ("upper-half", "upper-half"),
    ],
)
def test_layers_are_chosen_by_number_or_rule(text, layers):
    assert options._layer_choice(text) == layers


def test_choices_are_those_of_the_stages():
    from hiprobe.evaluate.comparison import SCORES
    from hiprobe.evaluate.convention import AS_SCORED
    from hiprobe.evaluate.test_set import ENDS, LENGTHS
    from hiprobe.extract.backbone import DTYPES
    from hiprobe.extract.explain import KINDS
    from hiprobe.probe.layer_rules import LAYER_RULES
    from hiprobe.store.localization import DEFAULT_SIGMA
    from hiprobe.store.manifest import SPLITS
    from hiprobe.sweep.tables import TABLES

    assert tuple(LAYER_RULES) == options.LAYER_RULES
    assert choices(options.Split) == SPLITS
    assert choices(options.Length) == LENGTHS
    assert choices(options.ScoredLength) == (*LENGTHS, AS_SCORED)
    assert choices(options.Ends) == ENDS
    assert choices(options.Dtype) == ("auto", *DTYPES)
    assert options.DEFAULT_SIGMA == DEFAULT_SIGMA
    for function, name, values in (
        (explain.explain, "which", ("both", *KINDS)),
        (compare.compare, "scores", tuple(SCORES)),
        (table.table, "kind", tuple(TABLES)),
    ):
        assert set(get_args(get_type_hints(function)[name])) == set(values)


def test_brackets_and_colons_in_paths_are_printed_as_they_are(make_store, tmp_path):
    folder = tmp_path / "[red] [0] :fire:"
    folder.mkdir()
    store = make_store().rename(folder / "s.zarr")
    for arguments in (
        ["store", "info", store],
        ["store", "verify", store],
        ["store", "export", store, folder / "s.h5"],
        ["probe", store, folder / "probe.json"],
        ["evaluate", store, folder / "probe.json", folder / "results", "--resamples", "0"],
        ["sweep", store, folder / "sweep.csv"],
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert folder.name in result.output, arguments
    assert Path(folder / "results/report.html").exists()


def test_manifest_leaves_out_and_warns_alike_in_every_command(make_store, tmp_path):
    store, manifest, probe = make_store(), tmp_path / "m.csv", tmp_path / "probe.json"
    videos = FeatureStore.open(store).videos.iloc[:18]
    lines = [
        f"{name},{row.path},{row.split},{row.label},{format_annotations(row.annotations)}"
        for name, row in videos.iterrows()
    ]
    manifest.write_text("\n".join(["video_id,path,split,label,annotations", *lines]) + "\n")
    for command, left_out in (
        (["probe", store, probe], "2 train"),
        (["layers", store, tmp_path / "layers", "--draws", "2"], "2 train"),
        (["evaluate", store, probe, tmp_path / "results", "--resamples", "0"], "4 test"),
        (["sweep", store, tmp_path / "sweep.csv", "--scorers", "logistic"], "2 train"),
        (["table", "ablation", store, "--out", tmp_path / "tables", "--latex"], "2 train"),
    ):
        result = run(*command, "--manifest", manifest)
        assert result.exit_code == 0, result.output
        assert f"{left_out} videos of the store are not in m.csv" in said(result)
    assert "wrote ablation.md, .csv, .json, .tex in" in said(result)
    assert (tmp_path / "tables/ablation.tex").exists()
