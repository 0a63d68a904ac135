"""The extraction job: manifest → plan → videos extracted, here or on a cluster → sealed store.

Run by ``hiprobe extract``. The same call goes on where an interrupted one was: what the
store's journal holds is not computed again. A video that fails is recorded with its reason,
and the batch goes on.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from hiprobe.extract.backbone import BackboneDescription
from hiprobe.extract.changed_files import (
    CHANGED,
    find_changed,
    find_moved,
    set_changed_aside,
)
from hiprobe.extract.config import ExtractConfig
from hiprobe.extract.layers_from import check_fits_probe
from hiprobe.extract.plan import jobs_left, plan_new_videos, read_records, select, set_failed_aside
from hiprobe.extract.recipe import gone_on_with
from hiprobe.extract.settings import check_settings, refuse_other_settings
from hiprobe.extract.tally import OnProgress, Progress, Tally
from hiprobe.extract.thumbnails import THUMBNAIL_SIZE
from hiprobe.extract.workplace import Workplace, workplace_for
from hiprobe.store import (
    DONE,
    FAILED,
    PENDING,
    FeatureStore,
    StoreError,
    StoreWriter,
    VideoRecord,
    file_digest,
)
from hiprobe.store.errors import listing
from hiprobe.store.provenance import Provenance, segment_frames_attribute
from hiprobe.store.relabel import Differences, describe, label_differences
from hiprobe.store.store_folder import is_store
from hiprobe.store.taps import Tap
from hiprobe.store.windows import window_record

RUNS_KEPT = 100
LIBRARIES = ("hiprobe", "torch", "transformers", "torchvision", "av", "zarr", "numpy")


@dataclass(frozen=True)
class ExtractSummary:
    """What the store holds after a run.

    Attributes
    ----------
    num_done, num_pending : int
        Videos.
    num_segments : int
        Segments of the finished videos.
    failures, notes : dict of str to str
        Reason, or remark, by video id.
    parity : dict or None
        The certificate of this run, see `hiprobe.extract.parity`.
    changed : dict of str to str
        Videos that were left as they are because their files have changed, by id, with how.
    run : dict or None
        What this run did, how fast, and what its model waited for: as in the store's ``runs``.
    failed_earlier : tuple of str
        Videos of `failures` that this run has not tried.
    """

    num_done: int
    num_pending: int
    num_segments: int
    failures: dict[str, str]
    notes: dict[str, str]
    parity: dict[str, Any] | None
    changed: dict[str, str] = field(default_factory=dict)
    run: dict[str, Any] | None = None
    failed_earlier: tuple[str, ...] = ()


def extract(
    config: ExtractConfig,
    on_progress: OnProgress = lambda progress: None,
    on_plan: Callable[[int, int], None] = lambda num_videos, num_segments: None,
    workplace: Workplace | None = None,
    on_warning: Callable[[str], None] = lambda text: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> ExtractSummary:
    """Run, or go on with, an extraction.

    Parameters
    ----------
    config : ExtractConfig
    on_progress : callable
        Called with a `Progress`.
    on_plan : callable
        Called once with the videos and the segments left to do in this run.
    workplace : Workplace, optional
        Where the model runs, for example a `Here` around a backbone that is loaded already; left
        open. Default: the one that `config` asks for.
    on_warning : callable
        Called, before anything is computed, with labels that manifest and store disagree about.
    on_note : callable
        Called with the name of each device, before the model is loaded, then with what is to be
        known of the model's passes, and with what befalls workers.

    Raises
    ------
    ManifestError, ModelError, StoreError
        Nothing was lost; the message says what to do.
    """
    records = read_records(config)
    config = gone_on_with(config)
    check_settings(config)
    place = closing(workplace_for(config, on_note)) if workplace is None else nullcontext(workplace)
    with place as chosen, _open_writer(config, chosen.description, on_warning) as writer:
        for note in chosen.description.notes + _add_answers(writer, chosen.description, config):
            on_note(note)
        selected = select(records, config)
        if config.retry_failed:
            set_failed_aside(writer, selected)
        earlier = writer.index.video_table()["status"]
        changed = find_changed(writer.index, selected)
        if config.replace_changed:
            set_changed_aside(writer, changed)
            changed = {}
        if differences := label_differences(writer.index.video_table(), records):
            on_warning(_disagreement(config, differences))
        plan_new_videos(writer, records, config.segment_frames, config.window)
        unchanged = [record for record in selected if record.video_id not in changed]
        writer.move_videos(find_moved(writer.index, unchanged))
        jobs, num_segments = jobs_left(writer, unchanged, config.limit)
        on_plan(len(jobs), num_segments)
        tally = Tally()
        tally.plan(len(jobs), num_segments)

        def on_step(step: Progress) -> None:
            tally.add(step)
            if step.outcome == CHANGED:
                changed[step.video_id] = step.reason
            on_progress(step)

        try:
            chosen.extract(writer, jobs, on_step)
        except KeyboardInterrupt:
            _record_run(writer, tally)
            raise
        run = _record_run(writer, tally)
        certificate = _certify(config, writer, chosen) if jobs else None
    summary = _summarise(FeatureStore.open(config.store), records, certificate, changed)
    failed = tuple(name for name in summary.failures if earlier.get(name) == FAILED)
    return replace(summary, run=run, failed_earlier=failed)


def _record_run(writer: StoreWriter, tally: Tally) -> dict[str, Any] | None:
    """Keep in the store what a run did, how fast, and what it waited for; None for nothing."""
    if not tally.num_ended and not tally.segments_done:
        return None
    run = {"ended": datetime.now(UTC).isoformat(timespec="seconds"), **tally.as_record()}
    writer.record("runs", [*writer.provenance.get("runs", []), run][-RUNS_KEPT:])
    return run


def _disagreement(config: ExtractConfig, differences: Differences) -> str:
    """Say which labels of the manifest are not the store's, and how they get there."""
    return (
        f"{config.manifest} and {config.store} disagree about {len(differences)} videos (the "
        f"store's → the manifest's):\n{listing(describe(differences))}\nThe store keeps its own: "
        f"`hiprobe store relabel {config.store} {config.manifest}` writes the manifest's."
    )


def _certify(
    config: ExtractConfig, writer: StoreWriter, workplace: Workplace
) -> dict[str, Any] | None:
    """Compute some segments again and record how they compare; None where there are none."""
    writer.refresh()  # workers have journals of their own
    if not (config.parity and len(writer.index.done_videos())):
        return None
    certificate = workplace.recompute(config.parity, seed=0)
    if certificate["segments"]:
        writer.record("parity", certificate)
    return certificate


def _open_writer(
    config: ExtractConfig, backbone: BackboneDescription, on_warning: Callable[[str], None]
) -> StoreWriter:
    """Create the store, or open it after checking that this run would give the same numbers."""
    fixed = {
        **backbone.provenance,
        "segment_frames": segment_frames_attribute(config.segment_frames),
        "keyframes": config.keyframes,
        "window": window_record(config.window),
        "layers": list(backbone.layers),
        "thumbnails": list(THUMBNAIL_SIZE) if config.thumbnails else None,
    }
    if config.layers_from is not None:
        check_fits_probe(
            config.layers_from, Provenance.of(fixed, backbone.num_features), on_warning
        )
    if is_store(config.store):
        writer = StoreWriter(config.store)
        try:
            refuse_other_settings(
                config.store, Provenance.of(writer.provenance), Provenance.of(fixed)
            )
            _add_taps(writer, backbone.taps)
        except StoreError:
            writer.close()
            raise
        return writer
    return StoreWriter.create(
        config.store,
        layers=backbone.layers,
        num_features=backbone.num_features,
        thumbnail_size=THUMBNAIL_SIZE if config.thumbnails else None,
        taps=backbone.taps,
        answers=backbone.answers,
        has_windows=config.window is not None,
        provenance={
            **fixed,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "manifest": {
                "path": str(config.manifest.absolute()),
                "digest": file_digest(config.manifest),
            },
            "batch_size": config.batch_size or "auto",
            "device": backbone.device,
            "libraries": {name: version(name) for name in LIBRARIES}
            | {"python": platform.python_version()},
        },
    )


def _add_taps(writer: StoreWriter, taps: Sequence[Tap]) -> None:
    """Let a store keep what it did not so far.

    Raises
    ------
    StoreError
        It keeps one otherwise, or one that the model is not asked for.
    """
    given = {tap.name: tap for tap in taps}
    for name, tap in writer.taps.items():
        if name not in given or not tap.fits(given[name]):
            raise StoreError(
                f"{writer.path}: keeps {name} of {len(tap.layers)} layers and {tap.num_features} "
                f"features, which this run does not give: {given.get(name, 'nothing of it')}. Run "
                "with the store's settings, or write to another store."
            )
    writer.add_taps(taps)


def _add_answers(
    writer: StoreWriter, backbone: BackboneDescription, config: ExtractConfig
) -> tuple[str, ...]:
    """Let a store keep answers that it does not have yet, and say so.

    They are the checkpoint's, which is the store's own: that was compared when it was opened. No
    video is looked at for them.
    """
    if backbone.answers is None:
        return ()
    added = writer.add_answers(backbone.answers, config.backbone.answers)
    words = ", ".join(map(repr, added))
    return (f"answers: {config.store} keeps these too now: {words}",) if added else ()


def _summarise(
    store: FeatureStore,
    records: Sequence[VideoRecord],
    parity: dict[str, Any] | None,
    changed: dict[str, str],
) -> ExtractSummary:
    """Count what the store holds of the manifest's videos."""
    videos = store.videos.loc[[record.video_id for record in records]]
    done, failed = videos[videos["status"] == DONE], videos[videos["status"] == FAILED]
    return ExtractSummary(
        num_done=len(done),
        num_pending=int((videos["status"] == PENDING).sum()),
        num_segments=int(done["num_segments"].sum()),
        failures=dict(failed["error"]),
        notes={str(key): note for key, note in done["error"].items() if note},
        parity=parity,
        changed=changed,
    )
