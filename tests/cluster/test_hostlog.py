"""A host's own log: mended after the medium refused, lost for good when somebody else has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.folders import host_folder
from ray_agents.cluster.hostlog import HostLog
from ray_agents.errors import Fenced, StoreUnavailable
from ray_agents.log.owner import Claim, LogIO, LogOwner, read_head
from ray_agents.testing.faulty_blobs import FaultyBlobs
from tests.cluster.stores import memory

ADA = Address.of("note", "ada")


@pytest.fixture
async def equipment() -> AsyncIterator[Any]:
    with closing(LogIO(threads_max=2)) as io:
        yield SimpleNamespace(blobs=FaultyBlobs(memory()), host="h", clock=SystemClock(), io=io)


async def broken(e: Any) -> HostLog:
    """A host log that the medium has refused once."""
    log = await HostLog.open(e)
    await log.awake(ADA, epoch=1)
    e.blobs.refuse["write"] = StoreUnavailable("no", path="")
    with pytest.raises(StoreUnavailable):
        await log.awake(ADA, epoch=2)
    del e.blobs.refuse["write"]
    assert log.broken
    return log


async def test_a_host_log_is_claimed_anew_when_the_medium_takes_rows_again(equipment: Any) -> None:
    log = await broken(equipment)
    waiting = asyncio.create_task(log.lost_for_good())
    await log.mend()
    await log.awake(ADA, epoch=3)
    assert (log.lost, waiting.done()) == (False, False)
    waiting.cancel()
    await log.seal()


async def test_a_host_log_that_somebody_else_has_is_not_mended(equipment: Any) -> None:
    e, log = equipment, await broken(equipment)
    waiting = asyncio.create_task(log.lost_for_good())
    head = await read_head(e.blobs, host_folder("h"), io=e.io)
    claim = Claim(host="recovery", token="t")
    other = await LogOwner.claim(
        e.blobs, host_folder("h"), head=head, claim=claim, clock=e.clock, io=e.io
    )
    await other.seal()
    with pytest.raises(Fenced):
        await log.mend()
    assert (log.lost, log.broken) == (True, False)
    await asyncio.wait_for(waiting, 5)
    await log.mend()  # there is nothing to mend
    await log.abandon()
