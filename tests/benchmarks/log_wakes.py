"""How long the wake of an entity takes that has handled much, beside one that has handled little.

Both histories are made of the rows that the runtime writes for a handled message (the message, a
wake begun, a wake handled), appended by the log's own code in the course of the same number of
ownerships; the entity itself was spawned by the runtime, which also answers every message below.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.local import LocalRuntime
from ray_agents.cluster.waking import upkeep_of
from ray_agents.definition import Registry
from ray_agents.events import Draft, MessageReceived, WakeRecorded, WakeStatus
from ray_agents.log.owner import LogIO
from ray_agents.log.store import open_blobs
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.views import Durability, Status
from tests.benchmarks.figures import Figure, Printout, median
from tests.benchmarks.logs import (
    CLOCK,
    EPOCHS,
    drop_cache,
    files_of,
    owned,
    taken,
)
from tests.benchmarks.stage import PATIENCE, until

ROUNDS = 5
WAKE_BAR = 1.2
APPEND_MESSAGES = 100
registry = Registry()


@registry.entity("echo", idle_timeout=timedelta(0))
async def _echo(_ctx: Any, wake: Any) -> Any:
    return wake.payload


async def print_wakes(out: Printout, store: str, *, handled: tuple[int, int]) -> None:
    """From the sending of a message to a sleeper until it is handled, each time by a new host."""
    out.head(f"log: wake behind handled messages, medians of {ROUNDS} by new hosts")
    addresses = [Address.of("echo", f"handled-{count}") for count in handled]
    await make_handled(store, addresses, handled)
    for cold in (False, True):
        few, many = await _wakes(store, addresses, cold=cold)
        cache = "page cache cold" if cold else "page cache warm"
        for count, value in zip(handled, (few, many), strict=True):
            out.add(Figure(name=f"wake, {count:,} handled, {cache}", value=value, unit="ms"))
        name = f"wake behind {handled[1]:,} over {handled[0]:,}, {cache}"
        out.add(Figure(name=name, value=many / few, unit="x", bar=WAKE_BAR))


async def make_handled(store: str, addresses: list[Address], handled: tuple[int, ...]) -> None:
    """Entities that have handled so many messages each, asleep."""
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry)
        for address in addresses:
            await runtime.spawn(address, SpawnRequest())
            await _asleep(runtime, address)
    for address, count in zip(addresses, handled, strict=True):
        await _handle(store, address, count)


async def _wakes(store: str, addresses: list[Address], *, cold: bool) -> tuple[float, float]:
    waited: dict[Address, list[float]] = {address: [] for address in addresses}
    for _ in range(ROUNDS):
        for address in addresses:
            if cold:
                drop_cache(files_of(store, entity_folder(address)))
            waited[address].append(await _wake(store, address))
    few, many = (median(each) for each in waited.values())
    return few, many


async def _wake(store: str, address: Address) -> float:
    """Milliseconds of a wake in a host that has nothing of the entity in memory."""
    async with LocalRuntime(open_blobs(store), io=LogIO()) as runtime:
        warm_up = Address.of("echo", CLOCK.fresh_id())
        await runtime.spawn(warm_up, SpawnRequest())
        await runtime.ask(warm_up, SendRequest(payload="x"), within=PATIENCE)
        request = SendRequest(payload="x")
        wall, _ = await taken(lambda: runtime.ask(address, request, within=PATIENCE))
        await _asleep(runtime, address)
    return wall


async def _asleep(runtime: LocalRuntime, address: Address) -> None:
    async def sleeps() -> bool:
        return (await runtime.inspect(address)).status is Status.SLEEPING

    await until(sleeps, f"{address} asleep")


async def _handle(store: str, address: Address, count: int) -> None:
    """Append what so many handled messages leave behind."""
    left = count
    (definition,) = registry
    upkeep = upkeep_of(definition)
    for epoch in range(EPOCHS):
        share = left // (EPOCHS - epoch)
        left -= share
        folder = entity_folder(address)
        async with owned(store, folder, durability=Durability.MEMORY, upkeep=upkeep) as owner:
            while share:
                messages = min(share, APPEND_MESSAGES)
                share -= messages
                await owner.append(_rows(owner.tip, messages))


def _rows(first: int, messages: int) -> list[Draft]:
    """The rows of so many messages, each handled before the next; ``first`` is their offset."""
    return [row for n in range(messages) for row in _rows_of_one(first + 3 * n)]


def _rows_of_one(offset: int) -> list[Draft]:
    now = CLOCK.now()
    message = MessageReceived(
        key=CLOCK.fresh_id(), payload="x", message_type="message", sender=None, timestamp=now
    )
    started = WakeRecorded(
        key=f"wake-{offset + 1}",
        status=WakeStatus.STARTED,
        source="inbox",
        from_offset=offset,
        to_offset=offset + 1,
        event_count=1,
        attempt=1,
        deaths=0,
        host="benchmark",
        definition_version=1,
        timestamp=now,
    )
    handled = replace(started, status=WakeStatus.HANDLED, reply="x")
    return [message.draft(), started.draft(), handled.draft()]
