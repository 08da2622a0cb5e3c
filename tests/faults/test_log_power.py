"""Power fails, or a process dies, at any call: nothing acknowledged or served is taken back."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing, suppress
from dataclasses import dataclass, field
from random import Random

import pytest

from ray_agents.errors import Fenced, StoreUnavailable
from ray_agents.events import Event
from ray_agents.log.owner import LogIO, LogOwner
from ray_agents.log.reader import LogReader
from ray_agents.testing.log_suite import FOLDER, Log, keys_of, message
from ray_agents.testing.lossy_blobs import LossyBlobs

BOOTS = 10


@dataclass(slots=True)
class World:
    """What has been promised so far, and to whom."""

    chance: Random
    acknowledged: dict[int, Event] = field(default_factory=dict[int, Event])
    served: dict[int, Event] = field(default_factory=dict[int, Event])
    served_tip: int = 0
    serial: int = 0

    def keys(self) -> list[str]:
        self.serial += 1
        return [f"m{self.serial}-{n}" for n in range(self.chance.randint(1, 3))]

    async def append(self, owner: LogOwner) -> None:
        appending = owner.enqueue([message(key) for key in self.keys()])
        if self.chance.random() < 0.8:
            self.acknowledged |= {event.offset: event for event in await appending.durable()}

    async def read(self, reader: LogReader) -> None:
        reading = await reader.read(0, limit=10**6)
        self.served |= {event.offset: event for event in reading.events}
        self.served_tip = max(self.served_tip, reading.tip)

    def check(self, history: list[Event]) -> None:
        found = {event.offset: event for event in history}
        assert len(found) == len(history)
        assert {offset: found.get(offset) for offset in self.acknowledged} == self.acknowledged
        below = {offset: event for offset, event in found.items() if offset < self.served_tip}
        assert below == self.served


async def one_wake(world: World, log: Log, reader: LogReader) -> None:
    """Claim, check what was adopted, append a little, end in some way."""
    owner = await log.claim()
    try:
        world.check(owner.history.read(0))
        for _ in range(world.chance.randint(0, 4)):
            await world.append(owner)
            if world.chance.random() < 0.4:
                await world.read(reader)
        if world.chance.random() < 0.7:
            await owner.seal()
    finally:
        with suppress(StoreUnavailable):
            await owner.abandon()


async def one_boot(world: World, blobs: LossyBlobs) -> None:
    """Wakes until the power fails."""
    with closing(LogIO(threads_max=3)) as io, suppress(StoreUnavailable, Fenced):
        log, reader = Log(blobs, io=io), LogReader(blobs, FOLDER, io)
        while True:
            await world.read(reader)
            await one_wake(world, log, reader)
            await world.read(reader)


async def run(seed: int) -> World:
    world, blobs = World(chance=Random(seed)), LossyBlobs()
    for _ in range(BOOTS):
        blobs.calls_left = world.chance.randint(1, 200)
        await one_boot(world, blobs)
        lossy = world.chance.random() < 0.5
        blobs = blobs.after_power_loss(world.chance) if lossy else blobs.after_process_death()
    with closing(Log(blobs)) as log:
        owner = await log.claim()
        world.check(owner.history.read(0))
        await owner.append([message("last")])
        await world.read(log.reader())
        world.check(owner.history.read(0))
        await owner.seal()
    return world


@pytest.mark.parametrize("seed", range(16))
async def test_power_fails_at_any_call(seed: int) -> None:
    world = await run(seed)
    assert keys_of(list(world.served.values()))[-1] == "last"


@pytest.mark.slow
async def test_the_runs_are_not_idle() -> None:
    worlds = await asyncio.gather(*(run(seed) for seed in range(5)))
    assert sum(len(world.acknowledged) for world in worlds) > 100


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_power_fails_at_any_call_for_long() -> None:
    """The whole count: ``POWER_SEEDS=1000 .venv/bin/pytest -n 0 -m slow tests/faults``."""
    for seed in range(1000, 1000 + int(os.environ.get("POWER_SEEDS", "100"))):
        try:
            await run(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
