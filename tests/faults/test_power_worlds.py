"""Worlds in which power fails: entities, senders that repeat themselves, hosts that die or zombies.

Each seed is one: processes that die at any write, are taken over while they run on, or whose syncs
fail; then power fails, and what was not synced is gone. What a sender was told, by whomever, stands
in the log at that offset, once, and is handled once.

``POWER_SEEDS=1000 .venv/bin/pytest -n 2 -m slow tests/faults/test_power_worlds.py`` runs the whole
count; ``POWER_SEED=<seed> POWER_SEEDS=1`` runs one again.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import RayAgentsError, StoreUnavailable
from ray_agents.ports import Appender, Blobs
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.testing.lossy_blobs import LossyBlobs
from ray_agents.views import EntityView, Receipt, Status
from tests.cluster.stores import DyingBlobs
from tests.faults.test_log_unsynced import Worst
from tests.simulation.world import SeededClock, World, options

FIRST = int(os.environ.get("POWER_SEED", "0"))
SEEDS = int(os.environ.get("POWER_SEEDS", "100"))
SEEDS_IN_SHORT = 6
BOOTS, STEPS, ENTITIES = 3, 14, 2
TRIES_MAX, PATIENCE = 30, 2000
NEVER = 0  # writes count from one
registry = Registry()


@registry.entity(
    "calm",
    idle_timeout=timedelta(milliseconds=5),
    limits=Limits(attempts_max=1000, retry_delay=timedelta(milliseconds=1)),
)
async def calm(ctx: Any, wake: Any) -> Any:
    return wake.payload


class FlakyBlobs(DyingBlobs):
    """What one process sees: it dies at some write, and some of its syncs fail."""

    def __init__(self, disk: LossyBlobs, chance: Random) -> None:
        super().__init__(disk, after=chance.random() < 0.5)
        self.disk = disk
        self.failing_syncs = 0
        if chance.random() < 0.5:
            self.crash_at = chance.randint(1, 40)

    def append(self, name: str) -> Appender:
        return FlakyFile(super().append(name), self.fail_maybe(name))

    def fail_maybe(self, name: str) -> Callable[[], None]:
        def check() -> None:
            if self.failing_syncs:
                self.failing_syncs -= 1
                self.disk.spoil(name)
                raise StoreUnavailable("this sync fails", path=name)

        return check


class FlakyFile:
    def __init__(self, file: Appender, check: Callable[[], None]) -> None:
        self._file = file
        self._check = check
        self.write, self.close = file.write, file.close

    def sync(self) -> None:
        self._check()
        self._file.sync()


class PowerWorld:
    """One world."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.clock = SeededClock()
        self.disk = LossyBlobs()
        self.addresses = [Address.parse(f"/calm/e{number}") for number in range(ENTITIES)]
        self.sent: list[tuple[Address, SendRequest]] = []
        self.told: list[Receipt] = []
        self.living: list[LocalRuntime] = []
        self.dead: list[LocalRuntime] = []
        self.sending: set[asyncio.Task[None]] = set()
        self.happened: Counter[str] = Counter()

    async def begin(self) -> None:
        async with self.runtime(self.disk) as first:
            await first.register(registry)
            for address in self.addresses:
                await first.spawn(address, SpawnRequest())

    async def run(self) -> None:
        await self.begin()
        for _ in range(BOOTS):
            await self.boot()
            for _ in range(STEPS):
                await self.step()
            await self.power_fails()
        async with self.runtime(self.disk) as last:
            await self.check(last)

    def runtime(self, blobs: Blobs) -> LocalRuntime:
        return LocalRuntime(blobs, **options(self.chance, self.clock))

    async def boot(self) -> None:
        """One more process; it may die at its first writes."""
        blobs = FlakyBlobs(self.disk, self.chance)
        runtime = self.runtime(blobs)
        blobs.died = lambda: self.died(runtime)
        try:
            await runtime.__aenter__()
        except RayAgentsError:
            self.dead.append(runtime)
        else:
            self.living.append(runtime)

    def died(self, runtime: LocalRuntime) -> None:
        """At a write; the power may fail soon after, when others have answered what it had not."""
        runtime.hosts.vanish()
        self.happened["death at a write"] += 1
        if self.chance.random() < 0.5:
            self.disk.calls_left = self.chance.randint(8, 32)

    async def step(self) -> None:
        dice = self.chance.random()
        if dice < 0.4:
            request = SendRequest(payload=1, id=f"m{len(self.sent)}")
            self.sent.append((self.chance.choice(self.addresses), request))
            self.send(*self.sent[-1])
        elif dice < 0.6 and self.sent:
            self.send(*self.chance.choice(self.sent))
        elif dice < 0.7 and self.living:
            self.kill()
        elif dice < 0.75 and self.living:
            self.living[0].hosts.isolate()
            self.happened["take-over of the living"] += 1
        elif dice < 0.85 and self.living:
            self.fail_a_sync(self.chance.choice(self.living))
        else:
            await self.pause()
        if len([each for each in self.living if not each.hosts.gone]) < 2:
            await self.boot()

    def kill(self) -> None:
        self.chance.choice(self.living).hosts.vanish()
        self.happened["kill"] += 1

    def fail_a_sync(self, runtime: LocalRuntime) -> None:
        blobs = runtime.blobs
        assert isinstance(blobs, FlakyBlobs)
        blobs.failing_syncs += 1
        self.happened["failed sync"] += 1

    def send(self, address: Address, request: SendRequest) -> None:
        task = asyncio.get_running_loop().create_task(self._send(address, request))
        self.sending.add(task)
        task.add_done_callback(self.sending.discard)

    async def _send(self, address: Address, request: SendRequest) -> None:
        """As a client does: again, to whoever is there, until it is told something."""
        for _ in range(TRIES_MAX):
            there = [each for each in self.living if not each.hosts.gone]
            try:
                if there:
                    receipt = await self.chance.choice(there).send(address, request)
                    self.told.append(receipt)
                    self.happened["answered from the log"] += receipt.duplicate
                    return
            except RayAgentsError:
                self.happened["refused"] += 1
            await self.pause()

    async def pause(self) -> None:
        await self.clock.sleep(timedelta(milliseconds=self.chance.choice([0, 0, 1, 5])))

    async def power_fails(self) -> None:
        self.disk.cut_power()
        for runtime in (*self.living, *self.dead):
            runtime.hosts.vanish()
        for runtime in (*self.living, *self.dead):
            await runtime.crash()
        self.living, self.dead = [], []
        for task in list(self.sending):
            task.cancel()
        await asyncio.gather(*self.sending, return_exceptions=True)
        self.disk = self.disk.after_power_loss(self.chance)

    async def check(self, runtime: LocalRuntime) -> None:
        for address in self.addresses:  # a claim that came to nothing hides the last rows till then
            self.told.append(await runtime.send(address, SendRequest(payload=1, id="last")))
        views = list[EntityView]()
        for _ in range(PATIENCE):
            views = [await runtime.inspect(address) for address in self.addresses]
            if all(view.status is Status.SLEEPING for view in views):
                break
            await self.clock.sleep(timedelta(milliseconds=5))
        else:
            raise AssertionError(f"not quiet: {views}")
        logs = {
            str(address): [event async for event in runtime.observe(address, live=False)]
            for address in self.addresses
        }
        for receipt in self.told:
            log = logs[receipt.address]
            rows = [e.offset for e in log if (e.type, e.key) == ("inbox", receipt.id)]
            assert rows == [receipt.offset], receipt
            ends = [e.value for e in log if e.type == "wake" and e.value["status"] == "handled"]
            covering = [e for e in ends if e["from_offset"] <= receipt.offset < e["to_offset"]]
            assert len(covering) == 1, receipt


class Retries(PowerWorld):
    """One sender, whose host dies or fails; it asks the next owner, and then power fails."""

    async def run(self) -> None:
        await self.begin()
        blobs = FlakyBlobs(self.disk, self.chance)
        blobs.crash_at = NEVER
        await self.tell(blobs, self.fate_of(blobs))
        self.disk.calls_left = self.chance.randint(15, 70)
        await self.tell(self.disk, lambda: None)
        self.disk = self.disk.after_power_loss(self.chance.choice([self.chance, Worst()]))
        async with self.runtime(self.disk) as last:
            await self.check(last)

    def fate_of(self, blobs: FlakyBlobs) -> Callable[[], None]:
        """What is about to happen to the first process: it dies at a write, or a sync fails."""

        def dies() -> None:
            blobs.crash_at = blobs.writes + self.chance.randint(1, 8)

        def fails() -> None:
            blobs.failing_syncs = 1

        return self.chance.choice([dies, dies, fails])

    async def tell(self, blobs: Blobs, then: Callable[[], None]) -> None:
        """Send the same messages as ever, until one is refused; then the process dies."""
        runtime = self.runtime(blobs)
        try:
            await runtime.hosts.open(recover=self.chance.random() < 0.3)
            fatal = self.chance.randrange(3)
            for number in range(3):
                if number == fatal:
                    then()
                request = SendRequest(payload=1, id=f"m{number}")
                receipt = await runtime.send(self.addresses[0], request)
                self.told.append(receipt)
                self.happened["answered from the log"] += receipt.duplicate
        except RayAgentsError:
            self.happened["refused"] += 1
        self.disk.cut_power()
        await runtime.crash()
        self.disk = self.disk.after_process_death()


def run(seed: int, world: type[PowerWorld] = PowerWorld) -> PowerWorld:
    one = world(seed)
    try:
        with asyncio.Runner(loop_factory=World) as runner:
            runner.run(one.run())
    except Exception as error:
        raise AssertionError(f"POWER_SEED={seed}") from error
    return one


@pytest.mark.parametrize("world", [PowerWorld, Retries])
def test_what_a_sender_was_told_outlives_a_power_failure(world: type[PowerWorld]) -> None:
    for seed in range(SEEDS_IN_SHORT):
        run(seed, world)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world", [PowerWorld, Retries])
def test_it_does_so_in_many_worlds(world: type[PowerWorld]) -> None:
    happened: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + SEEDS):
        happened += run(seed, world).happened
    print(dict(happened))
