"""The medium refuses: what was not acknowledged is not claimed to be, and nothing is retried."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from ray_agents.errors import StoreFull, StoreUnavailable
from ray_agents.events import Event
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.owner import LogIO, read_head
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.log_suite import Log, keys_of, message
from ray_agents.views import Durability

BROKEN = StoreUnavailable("the disk is on fire", path="somewhere")
FULL = StoreFull("no room", path="somewhere")


@pytest.fixture
def blobs() -> FaultyBlobs:
    return FaultyBlobs(MemoryBlobs())


@pytest.fixture
def log(blobs: FaultyBlobs) -> Iterator[Log]:
    with closing(Log(blobs)) as log:
        yield log


@pytest.mark.parametrize("operation", ["write", "sync", "sync_names", "exists", "append"])
async def test_a_refusal_ends_the_ownership_and_fails_every_append_that_waits(
    log: Log, blobs: FaultyBlobs, operation: str
) -> None:
    blobs.refuse[operation] = BROKEN
    owner = await log.claim()
    appends = [asyncio.create_task(owner.append([message(f"m{n}")])) for n in range(3)]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    assert owner.lost.is_set()
    assert owner.durable_tip == 0
    with pytest.raises(StoreUnavailable, match="fire"):
        owner.enqueue([message("late")])
    await owner.wait_beyond(10**9)
    await owner.seal()


async def test_after_a_failed_sync_the_file_is_never_written_or_synced_again(
    log: Log, blobs: FaultyBlobs
) -> None:
    owner = await log.claim()
    await owner.append([message("a")])
    blobs.refuse["sync"] = BROKEN
    with pytest.raises(StoreUnavailable):
        await owner.append([message("b")])
    del blobs.refuse["sync"]
    before = (blobs.calls["sync"], blobs.calls["write"])
    await owner.seal()
    await owner.seal()
    assert (blobs.calls["sync"], blobs.calls["write"]) == before
    assert keys_of(owner.history.read(0)) == ["a"]


async def test_nothing_is_deleted_before_what_replaces_it_is_durable(
    log: Log, blobs: FaultyBlobs
) -> None:
    await log.wake("a")
    owner = await log.claim()
    await owner.append([message("b")])
    await owner.tidy_up()
    blobs.refuse["sync"] = BROKEN
    with pytest.raises(StoreUnavailable):
        await owner.seal()
    assert blobs.deleted == []


async def test_a_segment_has_a_durable_name_before_it_ends(log: Log, blobs: FaultyBlobs) -> None:
    """Else whoever finds it sealed claims the next one, and of two names the later may survive."""
    order, written = list[str](), threading.Event()
    blobs.meanwhile["sync_names"] = lambda: (written.wait(0.05), order.append("named"))
    blobs.meanwhile["write"] = lambda: (order.append("ended"), written.set())
    owner = await log.claim()
    await owner.seal()
    assert order == ["named", "ended"]


async def test_a_full_disk_is_named_and_the_next_owner_goes_on_from_what_was_acknowledged(
    log: Log, blobs: FaultyBlobs
) -> None:
    owner = await log.claim()
    await owner.append([message("a")])
    blobs.refuse["write"] = FULL
    with pytest.raises(StoreFull):
        await owner.append([message("b")])
    await owner.abandon()
    del blobs.refuse["write"]
    after = await log.wake("c")
    assert keys_of(after.history.read(0)) == ["a", "c"]


async def test_appends_that_come_while_a_sync_is_under_way_share_the_next(
    log: Log, blobs: FaultyBlobs
) -> None:
    owner = await log.claim()
    await owner.append([message("first")])
    before = blobs.calls.copy()
    appends = [owner.enqueue([message(f"m{n}")]) for n in range(50)]
    await asyncio.gather(*(appending.durable() for appending in appends))
    calls = blobs.calls - before
    assert (calls["write"], calls["sync"], calls["sync_names"]) == (1, 1, 0)
    offsets = [event.offset for appending in appends for event in appending.events]
    assert offsets == list(range(offsets[0], offsets[0] + 50))
    await owner.seal()


async def test_an_append_to_an_idle_owner_is_not_held_back(log: Log, blobs: FaultyBlobs) -> None:
    owner = await log.claim()
    await owner.append([message("first")])
    before = blobs.calls["write"]
    appending = owner.enqueue([message("a")])
    await asyncio.sleep(0)
    assert blobs.calls["write"] == before + 1
    await appending.durable()
    await owner.seal()


async def test_an_append_waits_for_no_more_than_the_sync_under_way_and_its_own(
    log: Log, blobs: FaultyBlobs
) -> None:
    owner = await log.claim()
    await owner.append([message("first")])
    under_way, go_on = threading.Event(), threading.Event()
    blobs.meanwhile["sync"] = lambda: (under_way.set(), go_on.wait(10))
    early = owner.enqueue([message("early")])
    assert await asyncio.to_thread(under_way.wait, 10)
    before = blobs.calls.copy()
    late = [owner.enqueue([message(f"late{n}")]) for n in range(3)]
    go_on.set()
    await asyncio.gather(early.durable(), *(appending.durable() for appending in late))
    calls = blobs.calls - before
    assert (calls["write"], calls["sync"]) == (1, 1)
    await owner.seal()


async def test_a_group_is_bounded_in_bytes(
    log: Log, blobs: FaultyBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_agents.log.owner.GROUP_BYTES_MAX", 2500)
    owner = await log.claim()
    await owner.append([message("first")])
    before = blobs.calls.copy()
    appends = [owner.enqueue([message(f"m{n}", 1000 * "x")]) for n in range(5)]
    await asyncio.gather(*(appending.durable() for appending in appends))
    calls = blobs.calls - before
    assert (calls["write"], calls["sync"]) == (3, 3)
    await owner.seal()


async def test_a_wake_makes_three_syncs_and_reads_one_file(log: Log, blobs: FaultyBlobs) -> None:
    await log.wake("a")
    fresh = Log(blobs, io=LogIO())
    before = blobs.calls.copy()
    with closing(fresh):
        await fresh.wake("b", "c")
    calls = blobs.calls - before
    assert (calls["create"], calls["sync"]) == (1, 2)  # creating syncs once
    assert (calls["sync_names"], calls["read"], calls["names"]) == (1, 1, 2)
    assert calls["write"] == 3


async def test_a_log_that_was_sealed_in_this_process_is_not_read_again(blobs: FaultyBlobs) -> None:
    with closing(Log(blobs, io=LogIO())) as log:
        for number in range(5):
            await log.wake(f"m{number}")
        assert keys_of((await log.reader().read(0)).events) == [f"m{n}" for n in range(5)]
    assert blobs.calls["read"] == 0
    with closing(Log(blobs)) as afresh:
        assert keys_of((await afresh.claim()).history.read(0)) == [f"m{n}" for n in range(5)]


async def test_a_segment_that_may_grow_is_read_anew(blobs: FaultyBlobs) -> None:
    with closing(Log(blobs, io=LogIO())) as log:
        owner = await log.claim()
        for key in "ab":
            await owner.append([message(key)])
            assert await read_head(blobs, log.folder, io=log.io)  # reads it whole
        await owner.abandon()
        assert keys_of((await log.claim()).history.read(0)) == ["a", "b"]


async def test_a_file_that_is_read_page_by_page_is_read_once(log: Log, blobs: FaultyBlobs) -> None:
    await log.wake(*(f"m{n}" for n in range(20)))
    await log.wake("last")
    reader, found = log.reader(), list[Event]()
    before = blobs.calls["read"]
    while page := (await reader.read(found[-1].offset + 1 if found else 0, limit=3)).events:
        found += page
    assert keys_of(found) == [*(f"m{n}" for n in range(20)), "last"]
    assert blobs.calls["read"] - before == 2


async def test_a_cancelled_append_is_written_all_the_same_and_cancels_nobody_else(
    log: Log,
) -> None:
    owner = await log.claim()
    cancelled, kept = (asyncio.create_task(owner.append([message(key)])) for key in "ab")
    await asyncio.sleep(0)
    cancelled.cancel()
    await kept
    assert keys_of(owner.history.read(0)) == ["a", "b"]
    await owner.seal()


async def test_batch_durability_syncs_later_and_before_the_end(
    log: Log, blobs: FaultyBlobs
) -> None:
    owner = await log.claim(durability=Durability.BATCH)
    await owner.append([message("a")])
    assert blobs.calls["sync"] == 0
    await owner.seal()
    assert (blobs.calls["sync"], blobs.calls["sync_names"]) == (1, 1)


async def test_batch_durability_syncs_the_rest_before_the_end(
    log: Log, blobs: FaultyBlobs, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    owner = await log.claim(durability=Durability.BATCH)
    for key, seconds in (("a", 0), ("b", 3600)):
        monkeypatch.setattr("ray_agents.log.owner.BATCH_SYNC_WITHIN", seconds)
        await owner.append([message(key)])
        await wait_until(lambda: blobs.calls["sync"] == 1)
    await owner.seal()
    assert blobs.calls["sync"] == 2


async def test_a_sync_of_a_batch_that_outlasts_the_next_one_is_waited_for_at_the_end(
    log: Log, blobs: FaultyBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_agents.log.owner.BATCH_SYNC_WITHIN", 0)
    owner = await log.claim(durability=Durability.BATCH)
    syncs = [(threading.Event(), threading.Event()) for _ in range(2)]
    for key, (under_way, go_on) in zip("ab", syncs, strict=True):
        blobs.meanwhile["sync"] = lambda a=under_way, b=go_on: (a.set(), b.wait(10))
        await owner.append([message(key)])
        if key == "a":
            assert await asyncio.to_thread(under_way.wait, 10)
    (_, first_ends), (second_begins, second_ends) = syncs
    await log.io.run(str)  # the second is due by now
    first_ends.set()
    assert await asyncio.to_thread(second_begins.wait, 10)
    await log.io.run(str)  # and the loop knows that the first has ended
    sealing = asyncio.create_task(owner.seal())
    await log.io.run(str)
    assert not sealing.done()
    second_ends.set()
    await sealing
    assert blobs.calls["sync"] == 2


async def test_an_ownership_that_was_given_up_writes_nothing_that_still_waits(
    log: Log, blobs: FaultyBlobs
) -> None:
    owner = await log.claim()
    under_way, go_on = threading.Event(), threading.Event()
    blobs.meanwhile["sync"] = lambda: (under_way.set(), go_on.wait(10))
    owner.enqueue([message("early")])
    assert await asyncio.to_thread(under_way.wait, 10)
    late = owner.enqueue([message("late")])
    owner.give_up(FULL)
    go_on.set()
    with pytest.raises(StoreFull):
        await late.durable()
    owner.give_up(BROKEN)
    await owner.seal()
    assert (owner.cause, blobs.calls["write"]) == (FULL, 1)


async def test_batch_durability_that_fails_later_ends_the_ownership(
    log: Log, blobs: FaultyBlobs
) -> None:
    blobs.refuse["sync"] = BROKEN
    owner = await log.claim(durability=Durability.BATCH)
    await owner.append([message("a")])
    await asyncio.wait_for(owner.lost.wait(), 5)
    with pytest.raises(StoreUnavailable):
        owner.enqueue([message("b")])
    await owner.seal()
    assert blobs.calls["sync"] == 1


async def test_memory_durability_never_syncs(log: Log, blobs: FaultyBlobs) -> None:
    owner = await log.claim(durability=Durability.MEMORY)
    await owner.append([message("a")])
    await owner.seal()
    assert (blobs.calls["sync"], blobs.calls["sync_names"]) == (0, 0)


@pytest.mark.parametrize("operation", ["create", "read", "names"])
async def test_a_claim_that_the_medium_refuses_says_so(
    log: Log, blobs: FaultyBlobs, operation: str
) -> None:
    await log.wake("a")
    with closing(Log(blobs)) as fresh:
        blobs.refuse[operation] = BROKEN
        with pytest.raises(StoreUnavailable, match="fire"):
            await fresh.claim()
