"""The index calls who is due, oldest first, until they answer; its log stays small and survives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster import dueindex
from ray_agents.cluster.calls import Activate, Answer, Call, Due
from ray_agents.cluster.dueindex import CONCURRENT_MAX, DueIndex
from ray_agents.cluster.folders import index_folder
from ray_agents.errors import EntityGone, Fenced, RuntimeUnavailable, StoreUnavailable
from ray_agents.log.threads import LogIO
from ray_agents.ports import Blobs
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.views import EntityView, Status
from tests.cluster.clocks import BEGIN, ManualClock
from tests.cluster.stores import memory

SECOND = 1_000_000
Make = Callable[..., DueIndex]


class Sleepers:
    """Who is called: they answer at once, unless ``closed``, and then fail as ``error`` says."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.next_due: int | None = None

    async def route(self, address: Address, call: Call) -> Answer:
        assert isinstance(call, Activate)
        assert call.due is not None
        self.called.append(address.id)
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return EntityView(
            address=str(address),
            type=address.type,
            id=address.id,
            status=Status.IDLE,
            created=0,
            next_due=self.next_due,
        )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def sleepers() -> Sleepers:
    return Sleepers()


@pytest.fixture
async def make(clock: ManualClock, sleepers: Sleepers) -> AsyncIterator[Make]:
    made: list[DueIndex] = []
    io = LogIO()

    def index(blobs: Blobs, name: str = "keeper") -> DueIndex:
        made.append(DueIndex(blobs, io=io, clock=clock, route=sleepers.route, name=name))
        return made[-1]

    yield index
    for each in made:
        await each.bury()
    io.close()


def due(name: str, seconds: float | None, epoch: int = 1) -> Due:
    at = None if seconds is None else BEGIN + int(seconds * SECOND)
    return Due(address=Address("t", name), at=at, epoch=epoch)


async def test_who_is_due_is_called_then(
    make: Make, clock: ManualClock, sleepers: Sleepers
) -> None:
    index = make(memory())
    for name, seconds in (("b", 2), ("a", 1), ("c", 300)):
        await index.register(due(name, seconds))
    await clock.advance(timedelta(seconds=1))
    assert sleepers.called == ["a"]
    await clock.advance(timedelta(seconds=1))
    assert sleepers.called == ["a", "b"]
    for _ in range(5):
        await clock.advance(timedelta(minutes=1))
    assert sleepers.called == ["a", "b", "c"]


async def test_nobody_waits_for_anything_while_it_is_empty(make: Make, clock: ManualClock) -> None:
    index = make(memory())
    await index.register(due("a", 60))
    assert clock.sleepers
    await index.register(due("a", None))
    await clock.advance(timedelta(minutes=1))
    assert not clock.sleepers
    assert len(index) == 0


async def test_what_was_registered_again_takes_no_room(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dueindex, "SUPERSEDED_ROWS_MAX", 10)
    index = make(memory())
    await index.register(due("first", 30))
    for epoch in range(100):
        await index.register(due("a", 60, epoch=epoch))
    queue: list[object] = vars(index)["_queue"]
    assert len(queue) <= 14


async def test_what_was_missed_is_called_oldest_first_and_not_all_at_once(
    make: Make, clock: ManualClock, sleepers: Sleepers, wait_until: Any
) -> None:
    store = memory()
    index = make(store)
    names = [str(number) for number in range(3 * CONCURRENT_MAX)]
    for number, name in enumerate(names):
        await index.register(due(name, 100 - number))
    await index.bury()
    await clock.advance(timedelta(hours=1))
    sleepers.open.clear()
    await make(store).open()
    await clock.advance(timedelta())
    assert sleepers.called == names[: -CONCURRENT_MAX - 1 : -1]
    sleepers.open.set()
    await wait_until(lambda: len(sleepers.called) == len(names))
    assert sleepers.called == names[::-1]


async def test_an_entry_stays_until_the_entity_has_answered(
    make: Make, clock: ManualClock, sleepers: Sleepers
) -> None:
    store = memory()
    sleepers.error = RuntimeUnavailable("no host")
    index = make(store)
    await index.register(due("a", 1))
    for _ in range(8):
        await clock.advance(timedelta(seconds=1))
    assert len(sleepers.called) == 4  # at once, and after 1, 2, 4 seconds more
    await index.bury()
    sleepers.error = None
    again = make(store)
    await again.open()
    await clock.advance(timedelta())
    assert len(sleepers.called) == 5
    for _ in range(20):
        await clock.advance(timedelta())
    await again.bury()
    last = make(store)
    await last.open()
    assert len(last) == 0


async def test_one_that_waits_for_more_is_called_when_it_has_registered_again(
    make: Make, clock: ManualClock, sleepers: Sleepers
) -> None:
    index = make(memory())
    sleepers.next_due = BEGIN + 5 * SECOND
    await index.register(due("a", 1))
    await clock.advance(timedelta(seconds=10))
    assert sleepers.called == ["a"]
    await index.register(due("a", 12))
    await clock.advance(timedelta(seconds=2))
    assert sleepers.called == ["a", "a"]


async def test_the_dead_are_forgotten(make: Make, clock: ManualClock, sleepers: Sleepers) -> None:
    index = make(memory())
    sleepers.error = EntityGone("killed")
    await index.register(due("a", 1))
    await clock.advance(timedelta(seconds=1))
    assert len(index) == 0


async def test_what_is_registered_while_it_is_called_is_not_forgotten(
    make: Make, clock: ManualClock, sleepers: Sleepers
) -> None:
    index = make(memory())
    sleepers.open.clear()
    await index.register(due("a", 1))
    await clock.advance(timedelta(seconds=1))
    await index.register(due("a", 3, epoch=2))
    sleepers.open.set()
    await clock.advance(timedelta())
    assert len(index) == 1
    await clock.advance(timedelta(seconds=2))
    assert sleepers.called == ["a", "a"]


async def test_a_stale_owner_takes_nothing_back(make: Make) -> None:
    index = make(memory())
    await index.register(due("a", 60, epoch=7))
    await index.register(due("a", None, epoch=6))
    await index.register(due("a", 90, epoch=6))
    assert index.next_due == BEGIN + 60 * SECOND


async def test_the_same_registration_is_written_once(make: Make) -> None:
    blobs = FaultyBlobs(memory())
    index = make(blobs)
    await index.register(due("a", 60))
    writes = blobs.calls["write"]
    for epoch in range(2, 10):
        await index.register(due("a", 60, epoch=epoch))
    assert blobs.calls["write"] == writes


async def test_a_registration_that_cannot_be_written_is_refused_and_may_be_repeated(
    make: Make, clock: ManualClock
) -> None:
    store = memory()
    blobs = FaultyBlobs(store)
    index = make(blobs)
    await index.open()
    blobs.refuse["write"] = StoreUnavailable("no")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await index.register(due("a", 60))
    blobs.refuse.clear()
    await index.register(due("a", 60))
    await index.bury()
    after = make(store)
    await after.open()
    assert len(after) == 1


async def test_a_new_keeper_fences_the_old_one_off(make: Make) -> None:
    store = memory()
    old, new = make(store, "old"), make(store, "new")
    await old.register(due("a", 60))
    await new.open()
    assert await old.holder() == "new"
    await new.register(due("a", 90))
    assert old.is_open  # it does not know yet
    with pytest.raises(Fenced):
        await old.register(due("b", 60))
    await old.register(due("b", 100))  # takes it back, with what the new one knew
    assert old.next_due == BEGIN + 90 * SECOND
    assert len(old) == 2


async def test_its_log_does_not_grow_with_the_registrations(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dueindex, "SUPERSEDED_ROWS_MAX", 20)
    store = memory()
    index = make(store)
    for number in range(200):
        await index.register(due("a", 60 + number))
        await index.register(due(f"gone {number}".replace(" ", "-"), 60))
        await index.register(due(f"gone {number}".replace(" ", "-"), None))
    await index.close()
    folder = index_folder(1)
    rows = sum(len(store.read(f"{folder}/{n}") or b"") for n in store.names(folder))
    rows += sum(
        len(store.read(f"{folder}/sealed/{n}") or b"") for n in store.names(f"{folder}/sealed")
    )
    assert rows < 60_000
    after = make(store)
    await after.open()
    assert len(after) == 1
    assert after.next_due == BEGIN + 259 * SECOND
