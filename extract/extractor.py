"""Videos → segments → backbone → blocks, with decoding ahead of the model and writing behind it.

The thread that calls `extract_videos` does nothing but run the model: `read_batches` works in the
readers' threads, the store's writer in one of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import numpy as np

from hiprobe.extract.backbone import Backbone, States
from hiprobe.extract.batch_size import LARGEST_BATCH, BatchSize, launch_of_any_size
from hiprobe.extract.batches import Batch, End, Part, read_batches
from hiprobe.extract.devices import GpuError, gpu_errors
from hiprobe.extract.open_video import OpenVideo
from hiprobe.extract.overlap import WriteBehind, read_ahead
from hiprobe.extract.plan import Job, packs
from hiprobe.extract.tally import WAITS, OnProgress, Progress
from hiprobe.store import BlockWriter, VideoError
from hiprobe.store.windows import Window

# Batches that wait for the model (so many, and so large together), and blocks that wait for the
# disk: what bounds the memory.
BATCHES_AHEAD, BYTES_AHEAD, BLOCKS_BEHIND = 4, 2**31, 4


def extract_videos(
    writer: BlockWriter,
    backbone: Backbone,
    jobs: Sequence[Job],
    *,
    segment_frames: int | None,
    keyframes: int,
    batch_size: BatchSize,
    num_readers: int,
    on_progress: OnProgress,
    window: Window | None = None,
) -> None:
    """Extract videos and commit each one's outcome; one that fails does not stop the others.

    Parameters
    ----------
    writer : BlockWriter
    backbone : Backbone
    jobs : sequence of Job
    segment_frames : int or None
    keyframes : int
    batch_size : BatchSize
    num_readers : int
        Threads that decode and preprocess, a pack of videos each.
    on_progress : callable
    window : Window, optional
        What keyframes are taken from; default: the segments.
    """
    read = partial(
        read_batches, backbone=backbone, writer=writer, batch_size=batch_size,
        segment_frames=segment_frames, keyframes=keyframes, window=window,
    )  # fmt: skip
    # Several readers, a pack each: their items come mixed, those of one video in order.
    with WriteBehind(BLOCKS_BEHIND) as behind:
        model = _Model(writer, backbone, batch_size, behind)
        items = read_ahead(
            packs(jobs, writer.row_block, LARGEST_BATCH), read, num_readers, BATCHES_AHEAD,
            num_bytes=attrgetter("num_bytes"), max_bytes=BYTES_AHEAD,
        )  # fmt: skip
        clock = _Clock(behind)
        try:
            for item in clock.timed(items):
                clock.report(model.take(item), on_progress)
            clock.report(model.finish(), on_progress)
        except (GpuError, KeyboardInterrupt):
            # What was launched before may be computed: keep it. Not after other errors, for the
            # store may be somebody else's by now.
            clock.report(model.finish(), on_progress)
            raise
        finally:
            # Also after Ctrl-C: stops the readers before the writer has its last blocks.
            items.close()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Step:
    """What an item was for one of its videos."""

    video: OpenVideo
    progress: Progress


# A batch's parts, and for some of them together what waits for their states, or why there are none.
_Passes = list[tuple[Sequence[Part], Callable[[], States] | VideoError]]


class _Model:
    """Gives batches to the model, and each video what becomes of its segments.

    A batch's states are waited for when the next batch has been launched: a GPU that is done with
    one begins with the other at once. What comes behind a batch waits with it, so each video's
    items keep their order.
    """

    def __init__(
        self, writer: BlockWriter, backbone: Backbone, batch_size: BatchSize, behind: WriteBehind
    ) -> None:
        self._writer, self._behind = writer, behind
        self._backbone, self._batch_size = backbone, batch_size
        self._videos: dict[int, OpenVideo] = {}
        self._launched: _Passes = []
        self._ends: list[End] = []

    def take(self, item: Batch | End) -> list[_Step]:
        """Launch a batch, or note a video's end; give what became of the items before it.

        Nothing for what comes after a failure.
        """
        if isinstance(item, End):
            self._ends.append(item)
            return [] if self._launched else self.finish()
        is_left = any(not self._video(part.job).has_failed for part in item.parts)
        launched = self._launch(item) if is_left else []
        steps = self.finish()
        self._launched = launched
        return steps

    def finish(self) -> list[_Step]:
        """Give what became of all items so far."""
        launched, ends = self._launched, self._ends
        self._launched, self._ends = [], []
        steps = [step for parts, fetch in launched for step in self._fetched(parts, fetch)]
        for end in ends:
            video = self._video(end.job)
            del self._videos[end.job.video]
            if not video.has_failed:
                steps.append(_Step(video, video.end(end)))
        return steps

    def _video(self, job: Job) -> OpenVideo:
        if job.video not in self._videos:
            self._videos[job.video] = OpenVideo(job, self._writer, self._behind)
        return self._videos[job.video]

    def _launch(self, batch: Batch) -> _Passes:
        try:
            with gpu_errors(batch.parts[0].job.record.path):
                fetch = launch_of_any_size(
                    self._backbone, batch.inputs, batch.num_segments, self._batch_size
                )
        except VideoError as error:
            if len(batch.parts) == 1:
                return [(batch.parts, error)]
        else:
            return [(batch.parts, fetch)]
        # Each by itself, so that only those fail whose fault it is.
        return [launched for alone in batch.split() for launched in self._launch(alone)]

    def _fetched(
        self, parts: Sequence[Part], fetch: Callable[[], States] | VideoError
    ) -> Iterator[_Step]:
        """Give each part's video its states, or why there are none."""
        states: Sequence[States | VideoError]
        if isinstance(fetch, VideoError):
            states = [fetch]  # there is one part, whose fault it is
        else:
            with gpu_errors(parts[0].job.record.path):
                fetched = fetch()
            ends = np.cumsum([part.num_segments for part in parts])[:-1]
            by_name = {name: np.split(one, ends, axis=1) for name, one in fetched.items()}
            states = [{name: one[at] for name, one in by_name.items()} for at in range(len(parts))]
        for part, own in zip(parts, states, strict=True):
            video = self._video(part.job)
            if not video.has_failed:
                yield _Step(video, video.take(part, own))


class _Clock:
    """Tells steps what time they took, and what of it the model waited for."""

    def __init__(self, behind: WriteBehind) -> None:
        self._behind = behind
        self._started = time.monotonic()
        self._waits = dict.fromkeys(WAITS, 0.0)
        self._blocked = 0.0

    def timed(self, items: Iterator[Batch | End]) -> Iterator[Batch | End]:
        """Go through items, and note the waiting for each."""
        while True:
            started = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            for name, seconds in _shares(item, time.monotonic() - started).items():
                self._waits[name] += seconds
            yield item

    def report(self, steps: Sequence[_Step], on_progress: OnProgress) -> None:
        """Report steps, which share the time since the last ones by their segments."""
        if not steps:
            return
        now, blocked = time.monotonic(), self._behind.seconds_blocked
        seconds, waits = now - self._started, self._waits
        waits["writing"] = blocked - self._blocked
        self._started, self._waits, self._blocked = now, dict.fromkeys(WAITS, 0.0), blocked
        num_segments = sum(step.progress.num_segments for step in steps)
        for step in steps:
            share = step.progress.num_segments / num_segments if num_segments else 1 / len(steps)
            waited_on = {name: share * value for name, value in waits.items()}
            on_progress(step.video.counted(step.progress, share * seconds, waited_on))


def _shares(item: Batch | End, seconds_waited: float) -> dict[str, float]:
    """Part what the model waited for a batch as its reader's time parts."""
    preparing = item.preparing_seconds / max(item.decoding_seconds + item.preparing_seconds, 1e-9)
    preparing *= seconds_waited
    return {"decoding": seconds_waited - preparing, "preprocessing": preparing}
