"""Damage a store's files in ten thousand ways; does anybody read wrong? ``make stress-damage``.

A small store with thumbnails, a probe, results and an HDF5 export are made; then, again and again,
a file is damaged (or two are swapped, doubled, taken from a sister store or from an earlier state
of the same store), everything is read as its users do and compared with the truth, ``verify`` is
run, and the file is mended. Counted in ``benchmarks/out/stress_damage.json``:

- ``harmless``: reads exactly equal; ``refused``: a `HiProbeError`; ``unfinished``: a journal lost
  lines, and videos read as not finished, everything else as before;
- ``read_wrong_silently``, ``traceback``, ``hang``, ``crash``: the goal is 0 of each. With the
  suffix ``_store``, ``_hdf5``, ``_probe``, ``_results`` for these files alone;
- ``found_by_verify_share``: of the mutations of the store's files that changed anything (the lock
  has no content, and the torn last line of a journal is what a kill leaves), those that ``verify``
  names.

``--only INDEX`` runs one mutation again, and says what it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmarks.damage_mutations import World
from benchmarks.damage_reading import READERS, HangError, outcome_of, verify_store
from benchmarks.damage_world import HDF5, PROBE, RESULTS, STORE, make_world

NUM_WORKERS = 2
HANG_SECONDS = 10
# Code outside Python hears no alarm: the parent ends a worker that is silent for so long.
SILENCE_SECONDS = 3 * HANG_SECONDS
MEMORY_BYTES = 6 * 2**30
BAD = ("read_wrong_silently", "traceback", "hang", "crash")
CLASSES = ("harmless", "unfinished", "refused", *BAD)
DOMAINS = {STORE: "store", HDF5: "hdf5", PROBE: "probe", RESULTS: "results"}
EXAMPLES = 6


@dataclass(frozen=True)
class Choice:
    """What is damaged: with the index it gives the mutation."""

    seed: int
    kind: str

    def world(self, folder: Path, sister: Path) -> World:
        """Damage a world."""
        return World(folder, sister, self.kind)

    def random(self, index: int) -> random.Random:
        """Give each mutation numbers of its own."""
        return random.Random(f"{self.seed} {index}")


@dataclass(frozen=True)
class Trial:
    """One mutation and what came of it."""

    index: int
    domain: str
    kind: str
    how: str
    files: tuple[str, ...]
    outcome: str
    detail: str
    # 'found', 'clean', 'traceback', 'hang'; empty where there is nothing to find.
    verified: str = ""
    verify_detail: str = ""


def main() -> None:
    """Run the mutations, print the tables, write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="Run this one again and say what it was.")
    parser.add_argument("--kind", default="", help="Damage only kinds of files with this in it.")
    arguments = parser.parse_args()
    choice = Choice(arguments.seed, arguments.kind)
    began = time.monotonic()
    # In memory where there is such a folder: a store brings everything to the disk.
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="stress-damage-", dir=base) as name:
        folder = Path(name)
        make_world(folder / "world", arguments.seed)
        make_world(folder / "sister", arguments.seed + 1)
        if arguments.only is not None:
            for key, value in asdict(_run_one(folder, choice, arguments.only)).items():
                print(f"{key}: {value}")
            return
        trials = []
        for trial in _run_all(folder, choice, arguments.mutations):
            trials.append(trial)
            if len(trials) % 500 == 0:
                print(f"{len(trials)}: {dict(Counter(one.outcome for one in trials))}", flush=True)
            if time.monotonic() - began > arguments.seconds:
                break
    _print_tables(trials)
    _print_examples(trials, choice)
    counts = _counts(trials) | {"seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(counts, indent=1))
    out = Path("benchmarks/out/stress_damage.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(counts, indent=1) + "\n")


def _run_one(folder: Path, choice: Choice, index: int) -> Trial:
    world = choice.world(folder / "world", folder / "sister")
    truth = {domain: read(world.folder / domain) for domain, read in READERS.items()}
    return _trial(world, truth, choice, index)


def _run_all(folder: Path, choice: Choice, num: int) -> Iterator[Trial]:
    """Share the mutations among processes; one that dies or is silent is replaced."""
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, tuple[Any, int, float]] = {}

    def start(first: int) -> None:
        if first < num:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(theirs, folder, choice, first, num))
            process.start()
            theirs.close()
            running[ours] = process, first, time.monotonic() + SILENCE_SECONDS

    for first in range(NUM_WORKERS):
        start(first)
    try:
        while running:
            for pipe in wait(list(running), timeout=1):
                assert isinstance(pipe, Connection)
                process, index, _ = running[pipe]
                try:
                    trial = pipe.recv()
                except EOFError:  # it has ended: done, or died
                    del running[pipe]
                    process.join()
                    if index < num:
                        yield _lost(folder, choice, index, "crash", f"exit code {process.exitcode}")
                        start(index + NUM_WORKERS)
                    continue
                yield trial
                running[pipe] = process, index + NUM_WORKERS, time.monotonic() + HANG_SECONDS * 3
                if trial.outcome == "hang" or trial.verified == "hang":
                    # A thread of it may wait for ever.
                    del running[pipe]
                    process.kill()
                    start(index + NUM_WORKERS)
            for pipe, (process, index, deadline) in list(running.items()):
                if time.monotonic() > deadline:
                    del running[pipe]
                    process.kill()
                    yield _lost(folder, choice, index, "hang", "deaf to the alarm")
                    start(index + NUM_WORKERS)
    finally:
        for process, _, _ in running.values():
            process.kill()


def _work(pipe: Connection, folder: Path, choice: Choice, first: int, num: int) -> None:
    """Run every `NUM_WORKERS`-th mutation on a copy of the world."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    own = folder / f"world-{os.getpid()}"
    shutil.copytree(folder / "world", own)
    world = choice.world(own, folder / "sister")
    truth = {domain: read(own / domain) for domain, read in READERS.items()}
    for domain, reading in truth.items():
        assert not any(isinstance(one, Exception) for one in reading.values()), (domain, reading)
    assert verify_store(own / STORE) == ("clean", ""), verify_store(own / STORE)
    for index in range(first, num, NUM_WORKERS):
        pipe.send(_trial(world, truth, choice, index))
        if index // NUM_WORKERS % 200 == 0:
            world.check_pristine()
    shutil.rmtree(own)
    pipe.close()


def _trial(world: World, truth: dict[str, Any], choice: Choice, index: int) -> Trial:
    mutation = world.choose(choice.random(index))
    lines_only, torn_end = world.lost_lines(mutation)
    domain = mutation.domain
    world.apply(mutation)
    try:
        outcome, detail = _within_time(
            lambda: outcome_of(READERS[domain](world.folder / domain), truth[domain], lines_only)
        )
        verified = "", ""
        if domain == STORE and world.changes(mutation):
            verified = _within_time(lambda: verify_store(world.folder / STORE))
            # What a kill leaves, and a writer goes on after: nothing to find.
            if torn_end and verified[0] == "clean" and outcome in ("harmless", "unfinished"):
                verified = "", ""
    finally:
        world.mend(mutation)
    return Trial(index, domain, mutation.kind, mutation.special or mutation.how,
                 tuple(mutation.content), outcome, detail, *verified)  # fmt: skip


def _within_time(work: Any) -> tuple[str, str]:
    def ring(number: int, frame: object) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        answer: tuple[str, str] = work()
    except HangError:
        return "hang", f"more than {HANG_SECONDS} s"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return answer


def _lost(folder: Path, choice: Choice, index: int, outcome: str, detail: str) -> Trial:
    """The trial whose worker did not come back."""
    mutation = choice.world(folder / "world", folder / "sister").choose(choice.random(index))
    return Trial(index, mutation.domain, mutation.kind, mutation.special or mutation.how,
                 tuple(mutation.content), outcome, detail)  # fmt: skip


def _counts(trials: list[Trial]) -> dict[str, Any]:
    outcomes = Counter(trial.outcome for trial in trials)
    by_domain = Counter((trial.outcome, DOMAINS[trial.domain]) for trial in trials)
    verified = Counter(trial.verified for trial in trials if trial.verified)
    return {
        "mutations": len(trials),
        **{name: outcomes[name] for name in CLASSES},
        **{f"{name}_{one}": by_domain[name, one] for name in BAD for one in DOMAINS.values()},
        "changed_for_verify": verified.total(),
        "found_by_verify": verified["found"],
        "found_by_verify_share": round(verified["found"] / max(1, verified.total()), 6),
        "verify_traceback": verified["traceback"],
        "verify_hang": verified["hang"],
    }


def _print_tables(trials: list[Trial]) -> None:
    """File kind × mutation: wrong/traceback/hang of all, and what verify did not find of all."""
    hows = sorted({trial.how for trial in trials})
    for title, of, is_bad in (
        ("read wrong, traceback, hang or crash / mutations", trials, lambda t: t.outcome in BAD),
        ("not found by verify / that changed something",
         [t for t in trials if t.verified], lambda t: t.verified != "found"),
    ):  # fmt: skip
        bad: dict[tuple[str, str], int] = defaultdict(int)
        total: dict[tuple[str, str], int] = defaultdict(int)
        for trial in of:
            total[trial.kind, trial.how] += 1
            bad[trial.kind, trial.how] += is_bad(trial)
        print(f"\n{title}\n{'':18}" + "".join(f"{how:>14}" for how in hows))
        for kind in sorted({trial.kind for trial in of}):
            cells = [
                f"{bad[kind, how]}/{total[kind, how]}" if total[kind, how] else "" for how in hows
            ]
            print(f"{kind:18}" + "".join(f"{cell:>14}" for cell in cells))


def _print_examples(trials: list[Trial], choice: Choice) -> None:
    """The first few of each bad class, and what to run to see them again."""
    again = f"--seed {choice.seed}" + f" --kind {choice.kind!r}" * bool(choice.kind)
    classes = {name: [t for t in trials if t.outcome == name] for name in BAD}
    classes["not found by verify"] = [t for t in trials if t.verified == "clean"]
    classes["traceback or hang of verify"] = [
        t for t in trials if t.verified in ("traceback", "hang")
    ]
    for name, of in classes.items():
        seen: Counter[tuple[str, str]] = Counter()
        print(f"\n{name}: {len(of)}")
        for trial in of:
            seen[trial.kind, trial.how] += 1
            if seen[trial.kind, trial.how] > 1 or len(seen) > EXAMPLES * 3:
                continue
            detail = trial.verify_detail if name.startswith("traceback or") else trial.detail
            what = f"{trial.how} {', '.join(trial.files)}: {detail[:200]}"
            print(f"  {again} --only {trial.index}: {what}")


if __name__ == "__main__":
    main()
