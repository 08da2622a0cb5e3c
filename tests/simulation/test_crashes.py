"""Entities that talk while hosts die: every acknowledged message is handled once in the log.

Each seed is a world: sends (some repeated, some delayed), handlers that fail and that send on, with
a delay or without, hosts that die at any write, that are taken over while they run on, or that stop
cleanly. Nothing delayed comes early. It replays exactly:

    SEED=1234 pytest tests/simulation                    one world again
    SEEDS=5000 pytest tests/simulation --timeout=3600    many, from a random start that is printed
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine
from datetime import timedelta
from random import Random, SystemRandom
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import RayAgentsError
from ray_agents.events import Event, SendScheduled
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.views import EntityView, Receipt, Status
from tests.cluster.stores import DyingBlobs, memory
from tests.simulation.world import SeededClock, World, options

SEEDS = int(os.environ.get("SEEDS", "6"))
ENTITIES, STEPS, RUNTIMES = 4, 120, 2
PATIENCE = 5000
DELAYS = (0, 0, 0, 5, 200, 1_500, 20_000)  # milliseconds; an entity waits awake for up to a second
LIMITS = Limits(attempts_max=1000, retry_delay=timedelta(milliseconds=1))
registry = Registry()


class Seen(BaseModel):
    key: str
    times: int = 1


@registry.entity(
    "relay", state={"seen": Seen}, limits=LIMITS, idle_timeout=timedelta(milliseconds=5)
)
async def relay(ctx: Any, wake: Any) -> None:
    """Count each message, and do what it says: commit, fail for a while, send it on."""
    for event in ctx.events:
        order = event.value["payload"]
        ctx.state.seen.insert({"key": event.key})
        if order["to"]:
            after = timedelta(milliseconds=order["after"])
            on = {"of": event.key, "to": None, "fails": 0, "commit": False}
            await ctx.send(order["to"], on, after=after)
        if order["commit"]:
            await ctx.commit()
            ctx.state.seen.update(event.key, times=2)
        if wake.attempt <= order["fails"]:
            raise ValueError("for now")


class Simulation:
    """One world."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = SeededClock()
        self.store = memory()
        self.addresses = [Address.parse(f"/relay/e{n}") for n in range(ENTITIES)]
        self.sent: dict[str, tuple[Address, SendRequest]] = {}
        self.receipts: list[tuple[str, Receipt]] = []
        self.runtimes: list[LocalRuntime] = []
        self.zombies: list[LocalRuntime] = []
        self.graves: list[LocalRuntime] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def boot(self, *, mortal: bool = True) -> None:
        """A new host process; it may die at any write, the first ones, too."""
        while True:
            blobs = DyingBlobs(self.store, after=self.random.random() < 0.5)
            if mortal:
                blobs.crash_at = self.random.randint(1, 150)
            runtime = LocalRuntime(blobs, **options(self.random, self.clock))
            blobs.died = runtime.hosts.vanish
            try:
                await runtime.__aenter__()
            except RayAgentsError:
                self.graves.append(runtime)
                continue
            self.runtimes.append(runtime)
            return

    async def bury(self) -> None:
        """Clear away who has died, and start others in their place."""
        for runtime in list(self.runtimes):
            if runtime.hosts.gone:
                self.runtimes.remove(runtime)
                self.graves.append(runtime)
        for runtime in self.graves:
            await runtime.crash()
        self.graves.clear()
        while len(self.runtimes) < RUNTIMES:
            await self.boot()

    async def send(self, message_id: str) -> None:
        """As a client does: the same message again until it is acknowledged."""
        address, request = self.sent[message_id]
        while True:
            runtime = self.random.choice(self.runtimes + self.zombies or [None])
            try:
                if runtime is not None:
                    receipt = await runtime.send(address, request)
                    self.receipts.append((message_id, receipt))
                    return
            except RayAgentsError:
                pass
            await self.pause()

    async def pause(self) -> None:
        await self.clock.sleep(timedelta(milliseconds=self.random.choice([0, 1, 5, 20])))

    def new_message(self) -> str:
        message_id, chance = f"m{len(self.sent)}", self.random.random
        payload = {
            "of": None,
            "to": str(self.random.choice(self.addresses)) if chance() < 0.4 else None,
            "fails": self.random.choice([0, 0, 0, 1, 2]),
            "commit": chance() < 0.3,
            "after": self.random.choice(DELAYS),
        }
        address = self.random.choice(self.addresses)
        after = self.random.choice(DELAYS) / 1000
        request = SendRequest(payload=payload, id=message_id, after_seconds=after)
        self.sent[message_id] = (address, request)
        return message_id

    async def step(self) -> None:
        dice = self.random.random()
        if dice < 0.5:
            self.later(self.send(self.new_message()))
        elif dice < 0.6 and self.sent:
            self.later(self.send(self.random.choice(list(self.sent))))
        elif dice < 0.62:
            self.take_over()
        elif dice < 0.64 and self.runtimes:
            await self.stop(self.runtimes[0])
        else:
            await self.pause()
        await self.bury()

    def take_over(self) -> None:
        """A host is thought dead, and is not."""
        if self.runtimes:
            runtime = self.runtimes.pop(0)
            runtime.hosts.isolate()
            self.zombies.append(runtime)

    async def stop(self, runtime: LocalRuntime) -> None:
        self.runtimes.remove(runtime)
        try:
            await runtime.__aexit__(None, None, None)
        except RayAgentsError:
            self.graves.append(runtime)

    async def run(self) -> None:
        async with LocalRuntime(self.store, **options(self.random, self.clock)) as first:
            await first.register(registry)
            for address in self.addresses:
                await first.spawn(address, SpawnRequest())
        await self.bury()
        for _ in range(STEPS):
            await self.step()
        self.graves += self.runtimes + self.zombies
        self.runtimes, self.zombies = [], []
        for runtime in self.graves:
            runtime.hosts.vanish()
        await self.boot(mortal=False)
        await self.until_quiet(self.runtimes[0])
        for runtime in self.graves:
            await runtime.crash()
        await self.check(self.runtimes[0])
        await self.runtimes[0].__aexit__(None, None, None)

    async def until_quiet(self, runtime: LocalRuntime) -> None:
        views: list[EntityView] = []
        for _ in range(PATIENCE):
            acknowledged = not self.tasks
            views = [await runtime.inspect(address) for address in self.addresses]
            quiet = all(v.status is Status.SLEEPING and v.next_due is None for v in views)
            if acknowledged and quiet:
                return
            waits = [view.next_due - self.clock.now() for view in views if view.next_due]
            pause = max(min(waits, default=0), 5_000)  # microseconds
            await self.clock.sleep(timedelta(microseconds=pause))
        raise AssertionError(f"not quiet: {views}, {self.tasks}")

    async def check(self, runtime: LocalRuntime) -> None:
        logs = {a: [e async for e in runtime.observe(a, live=False)] for a in self.addresses}
        for message_id, receipt in self.receipts:
            rows = [e for e in logs[Address.parse(receipt.address)] if is_message(e, message_id)]
            assert [accepted(row) for row in rows] == [receipt.offset], message_id
            assert rows[0].time >= (receipt.fire_at or 0), message_id
        assert len({message_id for message_id, _ in self.receipts}) == len(self.sent)
        for events in logs.values():
            check_log(events)
            check_schedules(events)
        check_arrivals([event for events in logs.values() for event in events])


def is_message(event: Event, message_id: str) -> bool:
    return event.type == "inbox" and event.key == message_id


def accepted(row: Event) -> int:
    """The offset that the sender of a message was told."""
    return int(row.headers.get(SendScheduled.OFFSET_HEADER, row.offset))


def check_schedules(events: list[Event]) -> None:
    """Each delayed send is in the inbox once, in time, beside the end of its schedule."""
    schedules = [event for event in events if SendScheduled.is_row(event.type, event.key)]
    pending = {e.value["id"]: e for e in schedules if e.value["status"] == "pending"}
    sent = {e.value["id"]: e for e in schedules if e.value["status"] == "sent"}
    arrived = {e.key: e for e in events if e.type == "inbox" and accepted(e) != e.offset}
    assert len(schedules) == len(pending) + len(sent)
    assert set(pending) == set(sent) == set(arrived)
    for key, schedule in pending.items():
        assert accepted(arrived[key]) == schedule.offset
        assert arrived[key].offset == sent[key].offset - 1
        assert arrived[key].time >= schedule.value["fire_at"]


def check_log(events: list[Event]) -> None:
    """Each message is in one wake, that was handled once, and left its trace in the state."""
    assert [e.offset for e in events] == sorted({e.offset for e in events})
    messages = {event.key: event for event in events if event.type == "inbox"}
    assert len(messages) == sum(event.type == "inbox" for event in events)
    ends = [e.value for e in events if e.type == "wake" and e.value["status"] == "handled"]
    for message in messages.values():
        covering = [end for end in ends if end["from_offset"] <= message.offset < end["to_offset"]]
        assert len(covering) == 1, message.key
    writes = Counter((e.key, e.operation.value) for e in events if e.type == "state:seen")
    assert {key for key, _ in writes} == set(messages)
    for message in messages.values():
        assert writes[message.key, "insert"] == 1
        assert writes[message.key, "update"] == message.value["payload"]["commit"]


def check_arrivals(events: list[Event]) -> None:
    """Each message that a handler sent on arrived once."""
    orders = {e.key: e.value["payload"] for e in events if e.type == "inbox"}
    arrived = Counter(order["of"] for order in orders.values() if order["of"])
    assert arrived == {key: 1 for key, order in orders.items() if order["to"]}


@pytest.mark.slow
def test_worlds_in_which_hosts_die() -> None:
    start = int(os.environ.get("SEED", "-1"))
    first = start if start >= 0 else SystemRandom().randrange(1_000_000)
    for seed in range(first, first + (1 if start >= 0 else SEEDS)):
        print(f"SEED={seed}")  # noqa: T201 - pytest shows it with a failure
        with asyncio.Runner(loop_factory=World) as runner:
            runner.run(Simulation(seed).run())
