"""Work ahead of the model and behind it, in threads with bounded queues.

Decoding, resizing and fsync leave Python's lock alone, so threads are enough: while the model
works on one batch, the next ones are made ready and the last ones are written.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition, Event, Lock, Thread
from types import TracebackType
from typing import Any, Self, TypeVar

Job = TypeVar("Job")
Item = TypeVar("Item")
_END = object()


def read_ahead(
    jobs: Iterable[Job],
    read: Callable[[Job], Iterator[Item]],
    num_threads: int,
    depth: int,
    *,
    num_bytes: Callable[[Item], int] = lambda item: 0,
    max_bytes: float = math.inf,
) -> Iterator[Item]:
    """Read jobs in threads; at most `depth` items of `max_bytes` together wait to be taken.

    Parameters
    ----------
    jobs : iterable
        Each is read by one thread.
    read : callable
        Gives a job's items; they come out in their order, those of different jobs mixed.
    num_threads, depth : int
    num_bytes : callable
        How large an item is.
    max_bytes : float
        An item that is larger waits alone.

    Raises
    ------
    BaseException
        Whatever `read` raises.

    Notes
    -----
    Closing the iterator stops the threads. Beside those that wait, each thread holds an item that
    it has just made, and the caller the one that it has taken.
    """
    waiting, stop, lock, pending = _Waiting(depth, max_bytes), Event(), Lock(), iter(jobs)

    def next_job() -> Any:
        with lock:
            return next(pending, _END)

    def work() -> None:
        try:
            while (job := next_job()) is not _END:
                for item in read(job):
                    if not waiting.put((item, None), num_bytes(item), stop):
                        return
        except BaseException as error:  # handed to whoever takes the items
            waiting.put((None, error), 0, stop)
        waiting.put(_END, 0, stop)

    threads = [Thread(target=work, daemon=True) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    try:
        num_ended = 0
        while num_ended < num_threads:
            if (taken := waiting.take()) is _END:
                num_ended += 1
                continue
            item, error = taken
            if error is not None:
                raise error
            yield item
            # Or it lives on in this frame while the next one is waited for.
            del item, taken
    finally:
        stop.set()
        waiting.wake()
        for thread in threads:
            thread.join()


class _Waiting:
    """What waits to be taken: `queue.Queue`, bounded by bytes as well as by number."""

    def __init__(self, depth: int, max_bytes: float) -> None:
        self._items: deque[tuple[Any, int]] = deque()
        self._depth, self._max_bytes, self._num_bytes = depth, max_bytes, 0
        self._changed = Condition()

    def put(self, item: Any, num_bytes: int, stop: Event) -> bool:
        """Wait for room and add it; False where it was stopped first."""
        with self._changed:
            self._changed.wait_for(lambda: stop.is_set() or self._has_room(num_bytes))
            if stop.is_set():
                return False
            self._items.append((item, num_bytes))
            self._num_bytes += num_bytes
            self._changed.notify_all()
            return True

    def take(self) -> Any:
        """Wait for an item."""
        with self._changed:
            self._changed.wait_for(lambda: self._items)
            item, num_bytes = self._items.popleft()
            self._num_bytes -= num_bytes
            self._changed.notify_all()
            return item

    def wake(self) -> None:
        """Let whoever waits look again whether it was stopped."""
        with self._changed:
            self._changed.notify_all()

    def _has_room(self, num_bytes: int) -> bool:
        fits = self._num_bytes + num_bytes <= self._max_bytes
        return not self._items or (len(self._items) < self._depth and fits)


class WriteBehind:
    """Calls functions in order in one thread; at most `depth` calls wait.

    A context manager: leaving it waits for all calls. An error of a call is raised by the next
    `submit`, or on leaving.

    Attributes
    ----------
    seconds_blocked : float
        How long `submit` has waited for earlier calls, all in all.
    """

    def __init__(self, depth: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Future[None]] = deque()
        self._depth = depth
        self._has_failed = False
        self.seconds_blocked = 0.0

    def submit(self, function: Callable[..., None], *arguments: Any, **options: Any) -> None:
        """Call it when the earlier calls are done."""
        started = time.monotonic()
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self._depth):
            self._waiting.popleft().result()
        self.seconds_blocked += time.monotonic() - started
        self._waiting.append(self._executor.submit(self._call, function, arguments, options))

    def _call(
        self, function: Callable[..., None], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        # After an error, the calls behind it must not happen: they may build on it.
        if self._has_failed:
            return
        try:
            function(*arguments, **options)
        except BaseException:
            self._has_failed = True
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._executor.shutdown(wait=True)
        if kind is None:
            for future in self._waiting:
                future.result()
