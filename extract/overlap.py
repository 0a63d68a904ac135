"""Work ahead of the model and behind it, in threads with bounded queues.

Decoding, resizing and fsync leave Python's lock alone, so threads are enough: while the model
works on one batch, the next ones are made ready and the last ones are written.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
) -> Iterator[Item]:
    """Read jobs in threads; at most `depth` items wait to be taken.

    Parameters
    ----------
    jobs : iterable
        Each is read by one thread.
    read : callable
        Gives a job's items; they come out in their order, those of different jobs mixed.
    num_threads, depth : int

    Raises
    ------
    BaseException
        Whatever `read` raises.

    Notes
    -----
    Closing the iterator stops the threads.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stop, lock, pending = threading.Event(), threading.Lock(), iter(jobs)

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def next_job() -> Any:
        with lock:
            return next(pending, _END)

    def work() -> None:
        try:
            while (job := next_job()) is not _END:
                for item in read(job):
                    if not put((item, None)):
                        return
        except BaseException as error:  # handed to whoever takes the items
            put((None, error))
        put(_END)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    try:
        num_ended = 0
        while num_ended < num_threads:
            if (taken := waiting.get()) is _END:
                num_ended += 1
                continue
            item, error = taken
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class WriteBehind:
    """Calls functions in order in one thread; at most `depth` calls wait.

    A context manager: leaving it waits for all calls. An error of a call is raised by the next
    `submit`, or on leaving.
    """

    def __init__(self, depth: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Future[None]] = deque()
        self._depth = depth
        self._has_failed = False

    def submit(self, function: Callable[..., None], *arguments: Any, **options: Any) -> None:
        """Call it when the earlier calls are done."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self._depth):
            self._waiting.popleft().result()
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
