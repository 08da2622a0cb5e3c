"""Threads for file work: as many as are busy, no more than are allowed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from ray_agents.log.threads import THREADS_MAX, LogIO

PATIENCE = 10


BEFORE: set[threading.Thread] = set()


@pytest.fixture
def io() -> Iterator[LogIO]:
    BEFORE.clear()
    BEFORE.update(threading.enumerate())  # those of crashed runtimes, of other tests
    with closing(LogIO()) as io:
        yield io


def running() -> int:
    fresh = set(threading.enumerate()) - BEFORE
    return sum(thread.name.startswith("log-io") for thread in fresh)


def test_nothing_runs_before_there_is_work(io: LogIO) -> None:
    assert running() == 0


def test_one_thing_at_a_time_takes_one_thread(io: LogIO) -> None:
    assert io.start(running).result(PATIENCE) == 1


def test_as_much_is_under_way_at_once_as_there_may_be_threads(io: LogIO) -> None:
    together = threading.Barrier(THREADS_MAX)
    work = [io.start(together.wait, PATIENCE) for _ in range(THREADS_MAX)]
    assert sorted(each.result(PATIENCE) for each in work) == list(range(THREADS_MAX))


def test_there_are_no_more_threads_than_allowed(io: LogIO) -> None:
    work = [io.start(running) for _ in range(10 * THREADS_MAX)]
    assert max(each.result(PATIENCE) for each in work) <= THREADS_MAX


def test_what_is_put_in_later_begins_later() -> None:
    with closing(LogIO(threads_max=1)) as io:
        begun: list[int] = []
        for number in range(20):
            io.start(begun.append, number)
    assert begun == list(range(20))


def test_closing_waits_for_the_work_and_ends_the_threads(io: LogIO) -> None:
    work = [io.start(int, number) for number in range(20)]
    io.close()
    assert [each.result() for each in work] == list(range(20))
    assert running() == 0
    with pytest.raises(RuntimeError, match="ended"):
        io.start(int)


async def test_what_fails_in_a_thread_is_raised_where_it_is_awaited(io: LogIO) -> None:
    with pytest.raises(ValueError, match="x"):
        await io.run(int, "x")
    assert await io.run(int, "1") == 1
