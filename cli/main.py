"""Puts the stages' commands together and prints users' errors as one plain message."""

from __future__ import annotations

import importlib.metadata
import io
import sys
from typing import Annotated, NoReturn

import typer

import hiprobe.cli.check
import hiprobe.cli.compare
import hiprobe.cli.compare_states
import hiprobe.cli.demo
import hiprobe.cli.detect
import hiprobe.cli.evaluate
import hiprobe.cli.evaluate_scores
import hiprobe.cli.explain
import hiprobe.cli.extract
import hiprobe.cli.layers
import hiprobe.cli.manifest
import hiprobe.cli.probe
import hiprobe.cli.report
import hiprobe.cli.store
import hiprobe.cli.sweep
import hiprobe.cli.table
from hiprobe.cli.output import EXIT_INTERRUPTED, EXIT_USER_ERROR
from hiprobe.store.errors import HiProbeError

app = typer.Typer(
    name="hiprobe",
    help="Probe the hidden states of frozen multimodal LLMs for video anomaly detection.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
manifest = typer.Typer(help="Make a manifest: which videos there are, and their labels.")
store = typer.Typer(help="Look into feature stores, check, join and shrink them.")

app.add_typer(manifest, name="manifest", no_args_is_help=True)
app.command()(hiprobe.cli.check.check)
app.command()(hiprobe.cli.extract.extract)
app.command()(hiprobe.cli.probe.probe)
app.command()(hiprobe.cli.layers.layers)
app.command()(hiprobe.cli.sweep.sweep)
app.command()(hiprobe.cli.table.table)
app.command()(hiprobe.cli.evaluate.evaluate)
app.command("evaluate-scores")(hiprobe.cli.evaluate_scores.evaluate_scores)
app.command()(hiprobe.cli.compare.compare)
app.command()(hiprobe.cli.report.report)
app.command()(hiprobe.cli.explain.explain)
app.command()(hiprobe.cli.detect.detect)
app.add_typer(store, name="store", no_args_is_help=True)
app.command()(hiprobe.cli.demo.demo)
manifest.command("folder")(hiprobe.cli.manifest.folder)
manifest.command("ucf-crime")(hiprobe.cli.manifest.ucf_crime)
manifest.command("xd-violence")(hiprobe.cli.manifest.xd_violence)
manifest.command("msad")(hiprobe.cli.manifest.msad)
manifest.command("shanghaitech")(hiprobe.cli.manifest.shanghaitech)
manifest.command("events")(hiprobe.cli.manifest.events)
store.command("info")(hiprobe.cli.store.info)
store.command("verify")(hiprobe.cli.store.verify)
store.command("relabel")(hiprobe.cli.store.relabel)
store.command("compare-states")(hiprobe.cli.compare_states.compare_states)
store.command("merge")(hiprobe.cli.store.merge)
store.command("subset")(hiprobe.cli.store.subset)
store.command("export")(hiprobe.cli.store.export)
store.command("import")(hiprobe.cli.store.import_)
store.command("import-features")(hiprobe.cli.store.import_features)


def _version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(f"hiprobe {importlib.metadata.version('hiprobe')}")
        raise typer.Exit


@app.callback()
def _hiprobe(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """Probe the hidden states of frozen multimodal LLMs for video anomaly detection."""


def main() -> None:
    """Run the command line; the one place where users' errors become messages."""
    # A file's name may hold bytes that are no UTF-8: they are shown, and end nothing.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except HiProbeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    # The net below `write_errors` and the readers: a full /tmp, a folder that was unmounted.
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        # Typer takes the interrupt itself, and says nothing.
        if end.code == EXIT_INTERRUPTED:
            _interrupted()
        raise


def _interrupted() -> NoReturn:
    print("interrupted: the same command goes on where it was", file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
