"""Forks, looks at the past and exports of entities whose logs were merged, and partly let go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Definition, Registry, Retention
from ray_agents.errors import OffsetGone
from ray_agents.log import tidying
from ray_agents.log.examination import examine_log
from ray_agents.log.memory import MemoryBlobs
from ray_agents.requests import ForkRequest, SpawnRequest
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.views import Status
from tests.cluster.conftest import ask, log_of

pytestmark = pytest.mark.slow  # a second of preparation for each
ALL, SOME = Address.parse("/all/a"), Address.parse("/some/a")


class Note(BaseModel):
    key: str


async def keeper(ctx: Any, wake: Any) -> Any:
    """Keep every tenth of what it is told, and forget the one before."""
    n = wake.payload
    if isinstance(n, int) and n % 10 == 0:
        ctx.state.notes.upsert({"key": f"n{n}"})
        if f"n{n - 20}" in ctx.state.notes:
            ctx.state.notes.delete(f"n{n - 20}")
    return [note.key for note in ctx.state.notes.list()]


def registered() -> Registry:
    registry = Registry()
    for name, retention in (("all", Retention()), ("some", Retention(bytes_max=20_000))):
        registry.define(
            name,
            Definition(
                type=name,
                handler=keeper,
                state={"notes": Note},
                idle_timeout=timedelta(0),
                retention=retention,
            ),
        )
    return registry


@pytest.fixture
async def runtime(monkeypatch: pytest.MonkeyPatch, wait_until: Any) -> AsyncIterator[LocalRuntime]:
    """Two entities of forty wakes, each wake an ownership."""
    monkeypatch.setattr(tidying, "UNMERGED_SEGMENTS_MAX", 3)
    monkeypatch.setattr(tidying, "SNAPSHOT_ROWS_MIN", 8)
    async with LocalRuntime(FaultyBlobs(MemoryBlobs())) as runtime:
        await runtime.register(registered())
        for address in (ALL, SOME):
            await runtime.spawn(address, SpawnRequest(tags={"t": "1"}))
            for n in range(40):
                await ask(runtime, address, n)

                async def asleep() -> bool:
                    return (await runtime.inspect(address)).status is Status.SLEEPING  # noqa: B023

                await wait_until(asleep)
        yield runtime


def sound(runtime: LocalRuntime, address: Address) -> bool:
    return examine_log(runtime.blobs, entity_folder(address), in_use=lambda _: False).sound


async def test_every_offset_of_a_merged_log_can_be_looked_at_and_forked(
    runtime: LocalRuntime,
) -> None:
    tip = (await runtime.inspect(ALL)).events
    rows = await log_of(runtime, ALL)
    for at in range(2, tip + 1, 7):
        then = await runtime.state(ALL, at=at)
        fork = Address.parse(f"/all/f{at}")
        await runtime.fork(ALL, ForkRequest(to=str(fork), at=at))
        assert (await runtime.state(fork)).collections == then.collections
        assert [e for e in await log_of(runtime, fork) if e.offset < at] == [
            e for e in rows if e.offset < at
        ]
        assert sound(runtime, fork)
    assert (await ask(runtime, Address.parse("/all/f2"), "?")).value == []


async def test_a_fork_copies_no_merged_row_and_goes_on_merging(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    blobs: Any = runtime.blobs
    blobs.bytes_created, size = 0, sum(map(len, _files(runtime, ALL)))
    fork = Address.parse("/all/f")
    await runtime.fork(ALL, ForkRequest(to=str(fork)))
    assert blobs.calls["link"] >= 3
    assert blobs.bytes_created < size / 2
    for n in range(40, 60):
        assert (await ask(runtime, fork, n)).value == (await ask(runtime, ALL, n)).value
        await wait_until(lambda: not runtime.hosts.host.awake)
    assert sound(runtime, fork)
    assert sound(runtime, ALL)


async def test_what_was_let_go_is_not_forked_and_what_led_to_it_is_gone(
    runtime: LocalRuntime,
) -> None:
    view, fork = await runtime.inspect(SOME), Address.parse("/some/f")
    assert view.first > 0
    assert (await runtime.fork(SOME, ForkRequest(to=str(fork)))).first == view.first
    assert (await runtime.state(fork)).collections == (await runtime.state(SOME)).collections
    assert (await ask(runtime, fork, "?")).value == ["n20", "n30"]
    for refused in (
        runtime.state(SOME, at=5),
        runtime.fork(SOME, ForkRequest(to="/some/g", at=5)),
        runtime.state(SOME, at=view.first),
    ):
        with pytest.raises(OffsetGone):
            await refused
    assert sound(runtime, fork)


@pytest.mark.parametrize("address", [ALL, SOME])
async def test_an_export_of_either_is_taken_in_with_its_state(
    runtime: LocalRuntime, address: Address
) -> None:
    before, view = await runtime.state(address), await runtime.inspect(address)
    rows = await log_of(runtime, address)
    offsets = [*range(max(view.first, 2), view.events + 1, 3), view.events]
    past = [await collections_at(runtime, address, at) for at in offsets]
    data = [chunk async for chunk in runtime.export(address)]
    await runtime.hosts.close()

    async def arriving() -> AsyncIterator[bytes]:
        for chunk in data:
            yield chunk

    async with LocalRuntime("memory:") as elsewhere:
        await elsewhere.register(registered())
        (made,) = await elsewhere.import_(arriving())
        assert (made.first, made.tags) == (view.first, {"t": "1"})
        assert (await elsewhere.state(address)).collections == before.collections
        assert (await log_of(elsewhere, address))[: len(rows)] == rows
        assert [await collections_at(elsewhere, address, at) for at in offsets] == past
        assert (await ask(elsewhere, address, 40)).value == ["n30", "n40"]
        assert sound(elsewhere, address)


async def collections_at(runtime: LocalRuntime, address: Address, at: int) -> object:
    """The collections as of an offset; None if what led to it is gone."""
    try:
        return (await runtime.state(address, at=at)).collections
    except OffsetGone:
        return None


def _files(runtime: LocalRuntime, address: Address) -> list[bytes]:
    folder, blobs = entity_folder(address), runtime.blobs
    places = ["", *(f"/{name}" for name in blobs.names(folder) if "." not in name)]
    names = [f"{folder}{place}/{name}" for place in places for name in blobs.names(folder + place)]
    return [blobs.read(name) or b"" for name in names]
