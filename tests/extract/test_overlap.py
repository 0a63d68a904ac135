"""Reading ahead and writing behind: order, bounds, errors, and stopping early."""

import threading
import time

import pytest

from hiprobe.extract.overlap import WriteBehind, read_ahead


def test_items_of_a_job_keep_their_order_and_none_is_lost():
    def read(job):
        for number in range(5):
            time.sleep(0.001)
            yield job, number

    taken = list(read_ahead(range(20), read, num_threads=3, depth=2))
    assert len(taken) == 100
    for job in range(20):
        assert [number for one, number in taken if one == job] == list(range(5))


def test_no_more_than_the_depth_is_read_ahead():
    made = []

    def read(job):
        for number in range(50):
            made.append(number)
            yield number

    items = read_ahead([0], read, num_threads=1, depth=3)
    next(items)
    time.sleep(0.3)
    assert len(made) <= 1 + 3 + 1  # taken, waiting, and the one that waits to be put
    items.close()


def test_no_more_bytes_than_the_budget_wait():
    made = []

    def read(job):
        for number in range(50):
            made.append(number)
            yield number

    items = read_ahead([0], read, 1, depth=40, num_bytes=lambda item: 100, max_bytes=350)
    next(items)
    time.sleep(0.3)
    assert len(made) == 1 + 3 + 1  # taken, waiting, and the one that waits to be put
    assert list(items) == list(range(1, 50))


def test_an_item_larger_than_the_budget_waits_alone():
    made = []

    def read(job):
        for number in range(5):
            made.append(number)
            yield number

    items = read_ahead([0], read, 1, depth=4, num_bytes=lambda item: 100, max_bytes=10)
    next(items)
    time.sleep(0.3)
    assert len(made) == 1 + 1 + 1
    assert list(items) == [1, 2, 3, 4]


def test_an_error_of_a_reader_reaches_the_taker():
    def read(job):
        yield job
        raise ZeroDivisionError("in the thread")

    items = read_ahead([1], read, num_threads=1, depth=2)
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        next(items)


def test_closing_stops_the_threads():
    before = threading.active_count()

    def read(job):
        while True:
            yield job

    items = read_ahead([1, 2], read, num_threads=2, depth=2)
    next(items)
    items.close()
    assert threading.active_count() == before


def test_calls_happen_in_order_before_the_end():
    done = []
    with WriteBehind(depth=2) as behind:
        for number in range(10):
            behind.submit(lambda n: (time.sleep(0.002), done.append(n)), number)
    assert done == list(range(10))


def test_an_error_of_a_call_is_raised_and_stops_the_calls_behind_it():
    done = []

    def call(number):
        if number == 1:
            time.sleep(0.05)
            raise OSError("disk full")
        done.append(number)

    def submit_all(behind):
        for number in range(20):
            behind.submit(call, number)

    with pytest.raises(OSError, match="disk full"), WriteBehind(depth=2) as behind:
        submit_all(behind)
    assert done == [0]
