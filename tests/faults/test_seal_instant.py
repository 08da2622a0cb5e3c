"""Messages sent in the instant in which their entity falls asleep: none lost, none doubled.

``SENDS=10000 SEED=3`` is the long trial. Each send is timed around the idle deadline of its entity;
the distances to the nearest seal are printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from bisect import bisect
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.entity import Entity
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Packed, Registry
from ray_agents.events import MessageReceived, WakeRecorded
from ray_agents.requests import SendRequest, SpawnRequest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SENDS = int(os.environ.get("SENDS", "1000"))
SEED = int(os.environ.get("SEED", "1"))
ENTITIES = 10
IDLE = timedelta(milliseconds=20)
CLOSE = 0.005
registry = Registry()


@registry.entity("brief", placement=Packed(), idle_timeout=IDLE)
async def brief(ctx: Any, wake: Any) -> int:
    """Nothing: how long it stays awake is the point."""
    return len(ctx.events)


class Seals:
    """When each entity began to seal, by address, and an event for the next time."""

    def __init__(self) -> None:
        self.instants: defaultdict[str, list[float]] = defaultdict(list)
        self.next: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def note(self, name: str) -> None:
        self.instants[name].append(time.monotonic())
        self.next.pop(name, asyncio.Event()).set()


@pytest.fixture
def seals(monkeypatch: pytest.MonkeyPatch) -> Seals:
    """Filled as entities seal."""
    seal, seals = Entity.seal, Seals()

    async def noted(self: Entity) -> None:
        seals.note(self.name)
        await seal(self)

    monkeypatch.setattr(Entity, "seal", noted)
    return seals


async def test_messages_that_meet_the_seal_are_neither_lost_nor_doubled(
    tmp_path: Path, seals: Seals
) -> None:
    print(f"SENDS={SENDS} SEED={SEED}")
    async with LocalRuntime(str(tmp_path / "store")) as runtime:
        await runtime.register(registry)
        addresses = [Address("brief", str(number)) for number in range(ENTITIES)]
        chances = [random.Random(f"{SEED}-{address}") for address in addresses]
        sends = await asyncio.gather(
            *(send_around(runtime, *each, seals) for each in zip(addresses, chances, strict=True))
        )
        distances = [
            near(seals.instants[str(address)], instant)
            for address, instants in zip(addresses, sends, strict=True)
            for instant in instants
        ]
        for address in addresses:
            await assert_once(runtime, address, SENDS // ENTITIES)
    show(distances)
    assert sum(abs(each) <= CLOSE for each in distances) >= 0.2 * len(distances)


async def send_around(
    runtime: LocalRuntime, address: Address, chance: random.Random, seals: Seals
) -> list[float]:
    """Send, each time near the instant in which the entity is about to seal; when each was sent.

    Every second one is aimed by the clock, before or after the deadline (one that comes before it
    puts the seal off); the others follow the beginning of the seal, which takes milliseconds.
    """
    await runtime.spawn(address, SpawnRequest())
    sent = list[float]()
    for number in range(SENDS // ENTITIES):
        if number % 2:
            await pause(IDLE.total_seconds() + chance.gauss(0, 0.004))
        else:
            await seals.next[str(address)].wait()
            if chance.random() < 0.5:
                await pause(chance.uniform(0, 0.003))
        sent.append(time.monotonic())
        await runtime.send(address, SendRequest(id=str(number)))
    return sent


async def pause(seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0, seconds)):
            await asyncio.Event().wait()


async def assert_once(runtime: LocalRuntime, address: Address, count: int) -> None:
    """Each message once in the inbox, and in exactly one closed wake."""
    receipt = await runtime.ask(address, SendRequest(id="last"), within=timedelta(seconds=10))
    assert receipt.wake
    events = [event async for event in runtime.observe(address, live=False)]
    inbox = [event for event in events if event.type == MessageReceived.TYPE]
    assert sorted(event.key for event in inbox) == sorted([*map(str, range(count)), "last"])
    wakes = [WakeRecorded.of(event) for event in events if event.type == WakeRecorded.TYPE]
    ranges = [(wake.from_offset, wake.to_offset) for wake in wakes if wake.closed]
    covers = Counter(
        event.key for event in inbox for low, high in ranges if low <= event.offset < high
    )
    assert set(covers.values()) == {1}
    assert len(covers) == len(inbox)


def near(instants: list[float], at: float) -> float:
    """The distance of ``at`` to the nearest of ``instants``, in seconds; negative before it."""
    place = bisect(instants, at)
    return min((at - each for each in instants[max(0, place - 1) : place + 1]), key=abs)


def show(distances: list[float]) -> None:
    """The distribution, in milliseconds from the seal."""
    edges = [-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50]
    counts = Counter(bisect(edges, each * 1000) for each in distances)
    bounds = ["", *map(str, edges), ""]
    for place in range(len(edges) + 1):
        print(f"{bounds[place]:>4} .. {bounds[place + 1]:<4} ms  {counts[place]:6}")
    close = sum(abs(each) <= CLOSE for each in distances) / len(distances)
    print(f"{len(distances)} sends, {close:.0%} within 5 ms of a seal")
