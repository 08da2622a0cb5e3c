"""Export and import: an entity, with its children, in one file, and in another store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.calls import Challenge
from ray_agents.cluster.carrying import EPOCHS_BEYOND, Carrier
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.errors import (
    EntityExists,
    InvalidAddress,
    InvalidPayload,
    UnknownEntity,
)
from ray_agents.events import Draft, Event
from ray_agents.log.examination import examine_log
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.owner import Claim, LogIO, LogOwner, read_head
from ray_agents.log.reader import LogReader
from ray_agents.ports import Blobs
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.testing.log_suite import Ticks
from ray_agents.views import Status
from tests.cluster.conftest import ask, log_of, spawned
from tests.cluster.logs import random_log

registry = Registry()
A = Address.parse("/keeper/a")
B = Address.parse("/keeper/b")


class Note(BaseModel):
    key: str


@registry.entity("keeper", state={"notes": Note})
async def keeper(ctx: Any, wake: Any) -> Any:
    """Keep what it is told; or have a child."""
    match wake.payload:
        case {"child": name}:
            await ctx.spawn("keeper", name)
        case None:
            pass
        case key:
            ctx.state.notes.upsert({"key": key})
    return len(ctx.state.notes)


def lives(runtime: LocalRuntime, address: Address) -> bool:
    """Whether it is awake and has been spawned: its host owns it a little before."""
    entity = runtime.hosts.host.entity(address)
    return entity is not None and entity.state.created is not None


@pytest.fixture(autouse=True)
async def registered(runtime: LocalRuntime) -> None:
    await runtime.register(registry)


async def of(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def exported(runtime: LocalRuntime, address: Address, *, children: bool = False) -> bytes:
    chunks = [chunk async for chunk in runtime.export(address, children=children)]
    return b"".join(chunks)


async def last_export(runtime: LocalRuntime, address: Address, *, children: bool = False) -> bytes:
    """An export, and the end of its hosts: those of one process answer for each other."""
    data = await exported(runtime, address, children=children)
    await runtime.hosts.close()
    return data


@pytest.fixture
async def elsewhere() -> AsyncIterator[LocalRuntime]:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        yield runtime


async def test_an_imported_entity_goes_on_where_it_was(
    runtime: LocalRuntime, elsewhere: LocalRuntime
) -> None:
    before = await runtime.spawn(A, SpawnRequest(args={"x": 1}, tags={"t": "1"}))
    for key in "abc":
        await ask(runtime, A, key)
    rows = await log_of(runtime, A)
    (view,) = await elsewhere.import_(of(await last_export(runtime, A)))
    assert (view.address, view.status, view.created) == (str(A), Status.SLEEPING, before.created)
    assert (view.args, view.tags) == ({"x": 1}, {"t": "1"})
    assert view.forked_from is not None
    assert view.forked_from.cause == "import"
    assert view == await elsewhere.inspect(A)
    assert (await log_of(elsewhere, A))[: len(rows)] == rows
    assert (await ask(elsewhere, A, "d")).value == 4
    assert len(elsewhere.hosts.host.awake) == 1


async def test_children_come_along_and_keep_their_parents(
    runtime: LocalRuntime, elsewhere: LocalRuntime, wait_until: Any
) -> None:
    await spawned(runtime, str(A))
    await spawned(runtime, "/keeper/stranger")
    await ask(runtime, A, {"child": "b"})
    await wait_until(lambda: lives(runtime, B))
    await ask(runtime, B, {"child": "c"})
    await wait_until(lambda: lives(runtime, Address.parse("/keeper/c")))
    await ask(runtime, Address.parse("/keeper/c"), "x")
    child = await exported(runtime, B)
    views = await elsewhere.import_(of(await last_export(runtime, A, children=True)))
    assert [(view.address, view.parent) for view in views] == [
        ("/keeper/a", None),
        ("/keeper/b", "/keeper/a"),
        ("/keeper/c", "/keeper/b"),
    ]
    (alone,) = await elsewhere.import_(of(child), to=Address.parse("/keeper/d"))
    assert alone.parent is None


async def test_what_was_left_to_do_is_not_taken_over_nor_are_message_ids(
    runtime: LocalRuntime, elsewhere: LocalRuntime
) -> None:
    await spawned(runtime, str(A))
    await ask(runtime, A, "a", "m1")
    await runtime.send(A, SendRequest(payload="later", after_seconds=1000))
    (view,) = await elsewhere.import_(of(await last_export(runtime, A)))
    assert (view.schedules, view.next_due, view.backlog) == (0, None, 0)
    assert (await ask(elsewhere, A, "b", "m1")).value == 2


async def test_an_import_that_meets_an_entity_makes_none(
    runtime: LocalRuntime, elsewhere: LocalRuntime, wait_until: Any
) -> None:
    await spawned(runtime, str(A))
    await ask(runtime, A, {"child": "b"})
    await wait_until(lambda: lives(runtime, B))
    await ask(runtime, B, None)
    data = await exported(runtime, A, children=True)
    with pytest.raises(EntityExists):
        await runtime.import_(of(data))
    await runtime.hosts.close()
    await spawned(elsewhere, str(B))
    with pytest.raises(EntityExists, match="/keeper/b"):
        await elsewhere.import_(of(data))
    with pytest.raises(UnknownEntity):
        await elsewhere.inspect(A)
    with pytest.raises(InvalidPayload, match="2 entities"):
        await elsewhere.import_(of(data), to=Address.parse("/keeper/z"))


async def test_the_same_file_again_goes_on_and_does_not_undo(
    runtime: LocalRuntime, elsewhere: LocalRuntime
) -> None:
    await spawned(runtime, str(A))
    await ask(runtime, A, "a")
    data = await last_export(runtime, A)
    first = await elsewhere.import_(of(data))
    assert await elsewhere.import_(of(data)) == first
    await ask(elsewhere, A, "b")
    with pytest.raises(EntityExists):
        await elsewhere.import_(of(data))


async def test_a_damaged_file_or_a_name_of_another_type_is_refused(
    runtime: LocalRuntime, elsewhere: LocalRuntime
) -> None:
    await spawned(runtime, str(A))
    data = await exported(runtime, A)
    flipped = data[:700] + bytes([data[700] ^ 1]) + data[701:]
    with pytest.raises(InvalidPayload, match="damaged"):
        await elsewhere.import_(of(flipped))
    with pytest.raises(InvalidAddress, match="keeps its type"):
        await elsewhere.import_(of(data), to=Address.parse("/other/a"))
    with pytest.raises(UnknownEntity):
        await exported(runtime, Address.parse("/keeper/nobody"))


async def test_a_killed_entity_is_restored_as_that(
    runtime: LocalRuntime, elsewhere: LocalRuntime
) -> None:
    await spawned(runtime, str(A))
    await runtime.kill(A)
    (view,) = await elsewhere.import_(of(await last_export(runtime, A)))
    assert view.status is Status.STOPPED
    assert (await elsewhere.spawn(A, SpawnRequest())).life == 1


async def test_an_import_begins_beyond_every_epoch_that_may_be_alive() -> None:
    """A host that has lost its store acknowledges nothing when the backup stands in its place."""
    blobs, io, folder = MemoryBlobs(), LogIO(), entity_folder(A)
    async with LocalRuntime(blobs, io=io) as runtime:
        await runtime.register(registry)
        await spawned(runtime, str(A))
        data = await exported(runtime, A)
        for name in blobs.names(folder):
            blobs.delete(f"{folder}/{name}")
        await runtime.import_(of(data))
        head = await read_head(blobs, folder, io=io)
        assert head is not None
        assert head.epoch == 1 + EPOCHS_BEYOND
        entity = runtime.hosts.host.awake[0]
        await runtime.hosts.host.call(A, Challenge())
        assert entity.owner.lost.is_set()
        assert (await ask(runtime, A, "a")).value == 1
        head = await read_head(blobs, folder, io=io)
        assert head is not None
        assert head.epoch == 2 + EPOCHS_BEYOND


async def write(blobs: Blobs, address: Address, events: list[Event], io: LogIO) -> None:
    """These rows as an entity's log, at some offsets or other."""
    head = await read_head(blobs, entity_folder(address), io=io)
    claim = Claim(host="h", token="t")
    folder = entity_folder(address)
    owner = await LogOwner.claim(blobs, folder, head=head, claim=claim, clock=Ticks(), io=io)
    for event in events:
        owner.enqueue([_draft(event)])
    await owner.seal()


def _draft(event: Event) -> Draft:
    return Draft(
        type=event.type,
        key=event.key,
        operation=event.operation,
        text=event.text,
        headers=event.headers,
    )


def carrier(blobs: Blobs, io: LogIO) -> Carrier:
    async def described(address: Address) -> Any:
        return str(address)

    return Carrier(blobs, io=io, clock=Ticks(), describe=described)


async def there_and_back(seed: int, steps: int) -> None:
    io = LogIO(threads_max=1)
    here, there, again = MemoryBlobs(), MemoryBlobs(), MemoryBlobs()
    try:
        await write(here, A, random_log(seed, steps=steps), io)
        stores = [here, there, again]
        for source, target in pairwise(stores):
            carriers = [carrier(blobs, io) for blobs in (source, target)]
            data = b"".join([chunk async for chunk in carriers[0].export([A])])
            await carriers[1].take_in(of(data, 10_000))
        logs = [await _rows(blobs, io) for blobs in stores]
        for shorter, longer in pairwise(logs):
            assert longer[: len(shorter)] == shorter
            assert longer[len(shorter)].type == "log_manifest"
            assert longer[len(shorter) + 1].type == "entity_forked"
        assert all(
            examine_log(blobs, entity_folder(A), in_use=lambda _: False).sound for blobs in stores
        )
    finally:
        io.close()


async def _rows(blobs: Blobs, io: LogIO) -> list[Event]:
    return (await LogReader(blobs, entity_folder(A), io).read(0, limit=100_000)).events


@pytest.mark.slow
@given(seed=st.integers(0, 10_000), steps=st.integers(1, 80))
def test_what_is_exported_and_imported_has_the_same_rows(seed: int, steps: int) -> None:
    asyncio.run(there_and_back(seed, steps))
