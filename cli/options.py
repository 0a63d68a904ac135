"""Options that several commands take: each is described, limited and parsed once, here.

Imports nothing heavy, for ``hiprobe --help`` imports it: where a stage has the list of choices in a
heavy module, the choices stand here again and a test holds the two together.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hiprobe.store.scorers import SCORERS, is_name

NumberKind = type[int] | type[float]
METHODS = ("hiprobe", "robust-heads", "spherical", "answers", "ordinal")
LAYER_RULES = (
    "dlsp",
    "last",
    "upper-half",
    "all",
    "top3",
    "cv",
    "mmd",
    "fisher",
    "stable-dlsp",
)


def layers(word: str, described: str) -> Any:
    """Make an option that takes layers such as ``0,8,16-24``, or a word.

    Parameters
    ----------
    word : str
        What stands for the default, and gives None: 'all' or 'auto'.
    described : str
        The help text.

    Returns
    -------
    OptionInfo
        Gives ascending layers, each once; what is no such list is wrong usage.
    """

    def parse(text: str) -> tuple[int, ...] | None:
        return None if text == word else _layer_list(text, word)

    return typer.Option(parser=parse, metavar="LAYERS", help=described)


def chosen_layers(layers: Any, layers_from: Path | None) -> tuple[int, ...] | None:
    """Put ``--layers`` and ``--layers-from`` together; None for all layers."""
    from hiprobe.store import Probe

    if layers_from is None:
        return layers  # type: ignore[no-any-return]
    if layers is not None:
        raise typer.BadParameter("give --layers or --layers-from, not both")
    return Probe.load(layers_from).layers_of_all_draws


def _layer_list(text: str, words: str) -> tuple[int, ...]:
    """Read ``0,8,16-24``; anything else is wrong usage."""
    chosen: set[int] = set()
    for part in text.split(","):
        # Four digits are enough for any model; 0-9999999999 would fill the memory.
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        own = range(int(match[1]), int(match[2] or match[1]) + 1) if match else ()
        if not own:
            raise typer.BadParameter(f"{text!r}: expected {words}, or layers such as 0,8,16-24")
        chosen.update(own)
    return tuple(sorted(chosen))


def _taps(text: str) -> tuple[str, ...]:
    """Read ``heads,frames_mean``; anything else is wrong usage."""
    from hiprobe.store.taps import HIDDEN_STATES, TAPS

    chosen = text.split(",") if text else []
    for tap in chosen:
        if tap not in TAPS:
            raise typer.BadParameter(f"{tap!r}: expected some of {', '.join(TAPS)}, with commas")
    return tuple(tap for tap in TAPS if tap in chosen and tap != HIDDEN_STATES)


def _layer_choice(text: str) -> str | int | tuple[int, ...] | None:
    """Read ``auto``, the name of a rule, a layer, or several; anything else is wrong usage."""
    if text == "auto" or text in LAYER_RULES:
        return None if text == "auto" else text
    found = _layer_list(text, f"auto, {', '.join(LAYER_RULES)}")
    return found[0] if len(found) == 1 else found


def method(text: str) -> str:
    """Read a method's name; anything else is wrong usage."""
    if text not in METHODS:
        raise typer.BadParameter(f"{text!r}: expected {', '.join(METHODS)}")
    return text


def number(word: str, described: str, kind: NumberKind, minimum: float = -math.inf) -> Any:
    """Make an option that takes a number of at least `minimum`, or a word, which gives None."""

    def parse(text: str) -> float | None:
        try:
            return None if text == word else _number(text, kind, minimum)
        except ValueError:
            raise typer.BadParameter(f"{text!r}: expected a number, or {word}") from None

    return typer.Option(parser=parse, metavar="NUMBER", help=described)


def numbers(described: str, kind: NumberKind = float, minimum: float = 0) -> Any:
    """Make an option that takes numbers such as ``0.1,1``, each at least `minimum`."""
    example = "0.1,1" if kind is float else "10,20"

    def parse(text: str) -> tuple[float, ...]:
        try:
            return tuple(_number(part, kind, minimum) for part in text.split(","))
        except ValueError:
            raise typer.BadParameter(f"{text!r}: expected numbers such as {example}") from None

    return typer.Option(parser=parse, metavar="NUMBERS", help=described)


def _number(text: str, kind: NumberKind, minimum: float) -> float:
    """Read one finite number; raise ValueError where it is none, or too small."""
    value = kind(text)
    # Written so that nan, of which every comparison is false, is refused too.
    if not minimum <= value < math.inf:
        raise ValueError(text)
    return value


def _scorers(text: str) -> tuple[str, ...]:
    """Read ``logistic,svm``; anything else is wrong usage."""
    return tuple(map(_scorer, text.split(",")))


def _scorer(text: str) -> str:
    """Read ``logistic``, or ``module:Class``; anything else is wrong usage."""
    if text not in SCORERS and not is_name(text):
        raise typer.BadParameter(f"{text!r}: expected {', '.join(SCORERS)} or module:Class")
    return text


def _rate(text: str) -> float:
    """Read a share above 0 and below 1; anything else is wrong usage."""
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < 1:
        raise typer.BadParameter(f"{text!r}: expected a share above 0 and below 1, such as 0.05")
    return rate


def _trusted(text: str) -> str:
    """Read ``module:Class``; anything else is wrong usage."""
    if not is_name(text):
        raise typer.BadParameter(f"{text!r}: expected module:Class")
    return text


def rules(text: str) -> tuple[str, ...]:
    """Read ``last,upper-half``; anything else is wrong usage."""
    names = tuple(text.split(","))
    if not set(names) <= set(LAYER_RULES):
        raise typer.BadParameter(f"{text!r}: expected some of {','.join(LAYER_RULES)}")
    return names


Rules = Annotated[
    Any,
    typer.Option(
        parser=rules,
        metavar="RULES",
        help="Read what rules choose among the layers too, one row each: some of "
        f"{','.join(LAYER_RULES)}.",
    ),
]


# Files and folders.
StorePath = Annotated[Path, typer.Argument(help="The store that `hiprobe extract` wrote.")]
ProbePath = Annotated[Path, typer.Argument(help="The probe that `hiprobe probe` wrote.")]
NewResults = Annotated[
    Path, typer.Argument(help="The folder to write metrics, scores and the report to.")
]
Manifest = Annotated[
    Path | None,
    typer.Option(
        help="Take splits, labels and annotations from this manifest instead of the store."
    ),
]
Refine = Annotated[
    Literal["within-video"] | None,
    typer.Option(
        help="Make each score the softmax-weighted mean of those of the segments of the same video "
        "that look most alike, by the store's tap frames_mean.",
    ),
]
AllowOverlap = Annotated[
    bool,
    typer.Option("--allow-overlap", help="Test on videos that were trained on too; say so."),
]

# What the commands draw, and from which videos.
Split = Annotated[Literal["train", "test"], typer.Option(help="Use the videos of this split.")]
Seed = Annotated[
    int, typer.Option(help="Draw at random with this seed; the same one draws the same.")
]
Resamples = Annotated[
    int,
    typer.Option(
        min=0, help="Draw the videos so many times for the bootstrap's confidence intervals."
    ),
]
Labels = Annotated[
    Literal["video", "segment"],
    typer.Option(help="Label each sample as its video, or as the annotations of its own segments."),
]
SamplesPerVideo = Annotated[
    int, typer.Option(min=1, help="Average a video's segments in so many temporal bins.")
]

# The layer and the scorer.
LayerChoice = Annotated[
    Any,
    typer.Option(
        parser=_layer_choice,
        metavar="LAYERS",
        help="Read this layer, such as 20; or several, such as 12-20 or 8,16, whose log odds are "
        f"averaged; or let one of the rules {', '.join(LAYER_RULES)} choose. auto is "
        "upper-half; the paper's rule is dlsp.",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        parser=method,
        metavar="METHOD",
        help=f"Make the probe by this method, of {', '.join(METHODS)}: the paper's; on attention "
        "heads of two prompts or more, HeadHunt-VAD's; prototypes on the sphere, SphereVAD's; and "
        "without any label the model's own p(yes), or its mean over prompts NAME-10 to NAME-100.",
    ),
]
Tap = Annotated[
    Literal["hidden_states", "heads", "frames_mean", "frames_last"] | None,
    typer.Option(
        help="Read the layers of this tap, as `extract --taps` stored them; the method's own if "
        "left out.",
    ),
]
PromptName = Annotated[
    str,
    typer.Option(
        "--prompt",
        metavar="NAME",
        help="Read the states of this prompt, by its name; the store's first if left out.",
    ),
]
Mil = Annotated[
    int,
    typer.Option(
        min=0,
        help="Fit again so many times, on the top 30 % of each anomalous video's segments and all "
        "of normal videos.",
    ),
]
Bins = Annotated[int, typer.Option(min=2, help="Measure the entropy over so many bins.")]
Kappa = Annotated[float, typer.Option(help="Set the threshold to μ + κσ with this κ.")]
L2 = Annotated[
    float,
    typer.Option(min=0, help="Penalise the scorer's weights so much; 0 is the paper's setting."),
]
Scorer = Annotated[
    str,
    typer.Option(
        parser=_scorer,
        metavar="SCORER",
        help=f"Train a scorer of this kind, of {', '.join(SCORERS)}; or any scikit-learn estimator "
        "by its name, module:Class. mahalanobis and nearest need no anomalous videos.",
    ),
]
Scorers = Annotated[
    Any,
    typer.Option(
        parser=_scorers,
        metavar="SCORERS",
        help=f"Train scorers of these kinds, of {','.join(SCORERS)}, or module:Class.",
    ),
]

TargetFar = Annotated[
    float | None,
    typer.Option(
        parser=_rate,
        metavar="RATE",
        help="Set the threshold so that this share of normal training videos' segments is above "
        "it, each scored by a probe of other videos; instead of μ + κσ.",
    ),
]
Calibrate = Annotated[
    Literal["platt"] | None,
    typer.Option(
        help="Make probabilities of the scores, fitted to training videos' segments that are each "
        "scored by a probe of other videos."
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        parser=_trusted,
        metavar="MODULE:CLASS",
        help="Trust this class inside the probe, which may run code; give it once for each.",
    ),
]

# How scores become intervals and figures.
DEFAULT_SIGMA = 0.4  # for all: differently smoothed results do not compare
Sigma = Annotated[
    float, typer.Option(min=0, help="Smooth the scores with a σ of so many segments; 0 does not.")
]
Threshold = Annotated[
    Any,
    number("auto", "Call scores above this anomalous; auto takes the probe's threshold.", float),
]
Length = Annotated[
    Literal["true", "cut-16", "cut-16-xd", "pad-16"],
    typer.Option(
        help="Count a video's T true frames, or ⌊T/16⌋, ⌊(T-1)/16⌋ (xd) or ⌈T/16⌉ (pad) times 16."
    ),
]
ScoredLength = Annotated[
    Literal["true", "cut-16", "cut-16-xd", "pad-16", "as-scored"],
    typer.Option(
        help="Count a video's T true frames, or ⌊T/16⌋, ⌊(T-1)/16⌋ (xd) or ⌈T/16⌉ (pad) times 16, "
        "or as many as it has scores of."
    ),
]
Ends = Annotated[
    Literal["exclusive", "inclusive"],
    typer.Option(help="Read the last frame of an annotation as outside or inside it."),
]

# The model.
Model = Annotated[str, typer.Option(help="Load the model of this hub id or local folder.")]
Revision = Annotated[str | None, typer.Option(help="Take this revision of the model from the hub.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        help="Compute in this precision; auto is the checkpoint's own on a GPU and float32 on a "
        "CPU, and for `detect` that of the probe's store."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="Compute on this device, such as cpu or cuda:0; auto takes a GPU if there is one."
    ),
]
ShareGpu = Annotated[
    bool,
    typer.Option("--share-gpu", help="Put the model on a GPU that has another one already, too."),
]
Attention = Annotated[
    Literal["auto", "sdpa", "flash_attention_2", "eager"],
    typer.Option(help="Compute attention with this implementation."),
]
LoadIn = Annotated[
    Literal["full", "int8", "fp8", "8bit", "4bit"],
    typer.Option(
        help="Load the weights in full, or quantised: int8 and fp8 by torchao, with activations; "
        "8bit and 4bit by bitsandbytes, which saves memory, not time."
    ),
]
Keyframes = Annotated[
    int, typer.Option(min=1, help="Show the model so many frames of a segment, K.")
]
SegmentFrames = Annotated[
    Any,
    number("whole", "Cut videos into segments of so many frames; whole cuts nothing.", int, 1),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="Put this text after the video instead of "
        "'Is anything abnormal happening in this video? Describe it.'."
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]TEXT",
        help="Put this text after the video instead of "
        "'Is anything abnormal happening in this video? Describe it.'. Several, each with a name, "
        "share the pass over the video.",
    ),
]
Taps = Annotated[
    Any,
    typer.Option(
        parser=_taps,
        metavar="TAPS",
        help="Keep these too, of the same pass: some of heads, frames_mean, frames_last. A store "
        "that has its states already gets them added.",
    ),
]
MinPixels = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Show Qwen's models frames of at least so many pixels; by default 128 tokens' worth "
        "(100352), and 0 leaves the range to the checkpoint.",
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Show Qwen's models frames of at most so many pixels; by default 768 tokens' worth "
        "(602112).",
    ),
]
FramesOnDevice = Annotated[
    bool | None,
    typer.Option(
        "--frames-on-device/--frames-on-cpu",
        help="Resize and normalise frames on the model's device, or before they get there; by "
        "default on a GPU, and as in the store.",
        show_default=False,
    ),
]
FpsShown = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        help="Tell the model that keyframes follow at so many a second; by default the truth, "
        "which Qwen2.5-VL can hardly tell apart within a segment.",
    ),
]
Layers = Annotated[
    Any,
    layers(
        "all",
        "Keep all layers, or such as 0,8,16-24, where 0 is the embedding. The model stops after "
        "the highest.",
    ),
]

LayersFrom = Annotated[
    Path | None,
    typer.Option(
        metavar="PROBE.json",
        help="Keep the layers, taps and prompts that this probe reads, instead of --layers.",
    ),
]

# Where the work is done.
Workers = Annotated[
    int,
    typer.Option(min=0, help="Work in so many processes on this machine; 0 works in this one."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Work on the running Dask cluster of this address, tcp://HOST:8786."),
]
