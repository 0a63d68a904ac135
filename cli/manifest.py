"""`hiprobe manifest …`: a manifest from a folder, a benchmark's own files, or events in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiprobe.cli import options
from hiprobe.cli.output import say, terminal, warn
from hiprobe.cli.requirements import require_video

if TYPE_CHECKING:
    from hiprobe.extract.video import VideoInfo
    from hiprobe.manifest.draft import Draft
    from hiprobe.store import VideoRecord

AnnotationFile = Annotated[
    Path, typer.Option("--annotations", help="Read the benchmark's original annotation file.")
]
Out = Annotated[Path, typer.Option(help="Write the manifest to this file.")]
Root = Annotated[
    Path | None,
    typer.Argument(help="The folder of the videos; without it, only labels are listed."),
]
TrainList = Annotated[
    Path | None, typer.Option(help="Read the benchmark's list of training videos.")
]
Lengths = Annotated[
    Path | None, typer.Option(help="Read the videos' true lengths, a CSV video_id,num_frames,fps.")
]


def folder(
    root: Annotated[
        Path,
        typer.Argument(
            help="The folder that holds [train|test]/normal/… and [train|test]/CATEGORY/…."
        ),
    ],
    out: Out,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Read frame ranges such as 120:480;900:1010 from a CSV video_id,annotations."
        ),
    ] = None,
    whole_video: Annotated[
        bool, typer.Option(help="Call anomalous videos without annotations anomalous throughout.")
    ] = False,
    test_fraction: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Test on this share of what is in neither train/ nor test/."
        ),
    ] = 0.3,
    seed: options.Seed = 0,
    normal: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Call what lies in folders of this name normal (repeatable)."
        ),
    ] = None,
) -> None:
    """List a folder's videos; the folders' names give split, label and category.

    Names such as normal, benign, NonFight or Training-Normal-Videos-Part-1 mean normal at any
    depth. A table says how each folder was read.
    """
    from hiprobe.manifest.folder import folder_manifest

    require_video()
    draft = folder_manifest(
        root,
        inspect=_inspect,
        annotations=annotations,
        whole_video=whole_video,
        test_fraction=test_fraction,
        seed=seed,
        normal=normal or (),
    )
    _write(draft, out)


def _benchmark(name: str, described: str) -> Callable[..., None]:
    """Make a benchmark's command, `described` in its help; their original files are of one form."""

    def command(
        annotations: AnnotationFile,
        out: Out,
        root: Root = None,
        train_list: TrainList = None,
        lengths: Lengths = None,
    ) -> None:
        from hiprobe.manifest import benchmarks

        read = getattr(benchmarks, name)
        _write(read(annotations, root=root, train_list=train_list, lengths=lengths), out)

    command.__doc__ = described
    return command


ucf_crime = _benchmark("ucf_crime", "Build UCF-Crime's manifest from its original files.")
xd_violence = _benchmark("xd_violence", "Build XD-Violence's manifest from its original files.")
msad = _benchmark(
    "msad",
    "Build MSAD's manifest from its original files; an interval's last frame belongs to it.",
)


def shanghaitech(
    masks: Annotated[
        Path,
        typer.Option(help="Read masks such as 01_0014.npy in this folder, or an .npz of them."),
    ],
    out: Out,
    root: Root = None,
    train_list: TrainList = None,
    test_list: Annotated[
        Path | None,
        typer.Option(help="Read the split for weak supervision from this and --train-list."),
    ] = None,
    lengths: Lengths = None,
) -> None:
    """Build ShanghaiTech's manifest from its per-frame masks.

    With both SHANGHAI_train.txt and SHANGHAI_test.txt it is the split for weak supervision: 238
    videos to train on, 199 to test on.
    """
    from hiprobe.manifest.shanghaitech import shanghaitech as draft_shanghaitech

    draft = draft_shanghaitech(
        masks, root=root, train_list=train_list, test_list=test_list, lengths=lengths
    )
    _write(draft, out)


def events(
    table: Annotated[
        Path,
        typer.Argument(
            help="A CSV video_id,path,split,label,category,start_seconds,stop_seconds; a line an "
            "interval, both empty for none."
        ),
    ],
    out: Out,
    lengths: Lengths = None,
) -> None:
    """Build a manifest from intervals in seconds, each video at its own frame rate."""
    from hiprobe.manifest.events import own_data

    _write(own_data(table, lengths=lengths, inspect=_inspect), out)


def _inspect(path: Path) -> VideoInfo:
    """Open a video for its length; the decoder is asked for only when one is opened."""
    require_video()
    from hiprobe.extract.video import inspect_video

    return inspect_video(path)


def _write(draft: Draft, out: Path) -> None:
    """Write the manifest; print what did not fit, and the totals of each split."""
    from hiprobe.store import write_manifest

    write_manifest(out, draft.records)
    if draft.folders:
        _print_folders(draft)
    warn(draft.warnings)
    for split in ("train", "test"):
        if records := [record for record in draft.records if record.split == split]:
            say(f"{split}: {_totals(records)}")
    say(f"wrote {out}")


def _print_folders(draft: Draft) -> None:
    """Print how each folder was read, so that a wrong label is seen."""
    from rich.table import Table

    table = Table("folder", "label", "category", "by its folder", "train", "test")
    table.columns[0].overflow = "fold"
    for one in draft.folders:
        style = "yellow" if one.told_by.endswith("?") else None
        drawn = " drawn" if one.is_drawn else ""
        counts = (f"{one.num_train}{drawn}", f"{one.num_test}{drawn}")
        table.add_row(one.folder, one.label, one.category, one.told_by, *counts, style=style)
    terminal().print(table)


def _totals(records: list[VideoRecord]) -> str:
    """Count videos, and frames where lengths are known."""
    anomalous = sum(record.label == "anomalous" for record in records)
    frames = sum(record.num_frames or 0 for record in records)
    flagged = sum(stop - start for record in records for start, stop in record.annotations)
    return f"{len(records)} videos, {anomalous} of them anomalous" + (
        f"; {frames:,} frames, {flagged:,} of them anomalous" if frames else ""
    )
