"""What this process has in memory of a log's files is not fetched in a thread again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.threads import LogIO
from ray_agents.testing.log_suite import Log


@pytest.fixture
def log() -> Iterator[Log]:
    with closing(Log(MemoryBlobs(), io=LogIO(threads_max=2))) as log:
        yield log


async def test_whether_an_id_is_fresh_is_known_at_once_where_the_log_was_written(log: Log) -> None:
    for key in "abc":
        await log.wake(key)
    owner = await log.claim()
    assert owner.history.knows("inbox", "fresh")
    assert owner.history.find("inbox", "fresh") is None
    assert [owner.history.find("inbox", key) is not None for key in "abc"] == [True] * 3
    await owner.abandon()


async def test_elsewhere_it_takes_a_look_at_the_files(log: Log) -> None:
    for key in "abc":
        await log.wake(key)
    with closing(Log(log.blobs, io=LogIO(threads_max=1))) as elsewhere:
        owner = await elsewhere.claim()
        assert not owner.history.knows("inbox", "fresh")
        await owner.ready_to_find("inbox", "fresh")
        assert owner.history.knows("inbox", "fresh")
        await owner.abandon()
