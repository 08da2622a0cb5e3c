"""kill -9 of every process, or of any, at any instant: what was acknowledged is handled, once.

Long trials: ``KILLS=100 SEED=7`` for the random kills, ``UNFINISHED=1000 SLEEPERS=100000`` for the
recovery among sleepers.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median

import pytest

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.local import LocalRuntime
from ray_agents.cluster.storekeeping import verify
from ray_agents.findings import Fault
from ray_agents.requests import SendRequest, SpawnRequest
from tests.cluster.rig import (
    HOST_TITLE,
    KEEPER_TITLE,
    Driver,
    Rig,
    closed_covers,
    eventually,
    ids,
    kill,
    pause,
    rows,
)
from tests.faults.kinds import registry

pytestmark = [pytest.mark.ray, pytest.mark.timeout(3600)]
KILLS = int(os.environ.get("KILLS", "10"))
SEED = int(os.environ.get("SEED", "1"))
UNFINISHED = int(os.environ.get("UNFINISHED", "100"))
SLEEPERS = int(os.environ.get("SLEEPERS", "2000"))
READY_TO_HANDLED = timedelta(seconds=10)  # the bar; twice as much fails


def acknowledged(file: Path) -> dict[str, set[str]]:
    """The ids of acknowledged messages, by entity."""
    found: dict[str, set[str]] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        address, message, *_ = line.split(" ")
        if address != "!":
            found.setdefault(address, set()).add(message)
    return found


def unhandled(rig: Rig, acks: dict[str, set[str]]) -> list[str]:
    """What was acknowledged and no closed wake has taken yet."""
    covers = {address: closed_covers(rig.log(address)) for address in acks}
    return [m for address, sent in acks.items() for m in sent if not covers[address].get(m)]


def assert_once(rig: Rig, acks: dict[str, set[str]]) -> None:
    """Nothing lost, nothing doubled: inbox, closed wakes and rows agree, one each."""
    for address, sent in acks.items():
        events = rig.log(address)
        inbox = ids(events)
        assert sent <= set(inbox), f"{address} lost {sent - set(inbox)}"
        assert not [key for key, count in Counter(inbox).items() if count > 1]
        covers = closed_covers(events)
        assert all(covers[message] == 1 for message in sent), f"{address}: {covers}"
        assert rows(events) == inbox, f"{address}: rows are not one per message, in order"


def faults(rig: Rig) -> set[Fault]:
    """What is wrong in the store, whatever runs or does not."""
    found = verify(rig.settings, address=None, repair=False, progress=lambda _done, _all: None)
    return {each.fault for each in found.findings}


def test_after_the_loss_of_everything_all_is_handled_without_a_send(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig, acks = make_rig(), tmp_path / "acks"
    entities = [f"/note/{number}" for number in range(20)] + ["/lone/one", "/lone/two"]
    with rig.driver() as driver:
        for entity in entities:
            driver.spawn(entity)
        for entity in entities:
            driver.send(entity, {"do": "pause", "seconds": 3}, id="slow")
        driver.flood(entities, str(acks), senders=4, seed=SEED)
        eventually(lambda: len(acknowledged(acks)) == len(entities))
        rig.kill_everything()
    assert faults(rig) <= {Fault.TORN}
    sent = acknowledged(acks)
    for entity in entities:
        sent[entity].add("slow")
    assert unhandled(rig, sent)
    rig.start()
    with rig.driver() as driver:
        eventually(lambda: not unhandled(rig, sent), within=timedelta(seconds=60))
        took = time.time() - driver.ready
        print(f"{sum(map(len, sent.values()))} messages; all handled {took:.1f} s after readiness")
        assert took < 2 * READY_TO_HANDLED.total_seconds() + 3  # the handlers themselves pause 3 s
        assert faults(rig) == set()
    assert_once(rig, sent)


def test_kills_at_random_instants_lose_nothing_and_double_nothing(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig, acks, chance = make_rig(), tmp_path / "acks", random.Random(SEED)
    print(f"KILLS={KILLS} SEED={SEED}")
    entities = [f"/note/{number}" for number in range(8)] + ["/lone/one", "/lone/two"]
    trial = Trial(rig, entities, acks)
    try:
        trial.join(begin=True)
        for number in range(KILLS):
            pause(chance.uniform(0.05, 2.0))
            trial.strike(chance, number)
        trial.calm()
        sent = acknowledged(acks)
        eventually(lambda: not unhandled(rig, sent), within=timedelta(seconds=90))
        assert_once(rig, sent)
    finally:
        trial.end()
    refused = [line for line in acks.read_text().splitlines() if line.startswith("!")]
    print(dict(trial.struck), f"{sum(map(len, sent.values()))} acknowledged, {len(refused)} errors")
    assert not refused, refused[:3]


class Trial:
    """A runtime, somebody who sends without end, and what strikes them."""

    def __init__(self, rig: Rig, entities: list[str], acks: Path) -> None:
        self._rig, self._entities, self._acks = rig, entities, acks
        self._driver: Driver | None = None
        self._joined = 0
        self.struck: Counter[str] = Counter()

    def join(self, *, begin: bool = False) -> None:
        """A new driver that sends; the first one spawns, too."""
        self._joined += 1
        self._driver = self._rig.driver()
        for entity in self._entities if begin else ():
            self._driver.spawn(entity)
        seed = f"{SEED}.{self._joined}"
        self._driver.flood(self._entities, str(self._acks), senders=3, seed=seed)

    def strike(self, chance: random.Random, number: int) -> None:
        """Kill a host, the keeper, or everything, and start what has to be started."""
        victim = chance.choices(["host", "keeper", "everything"], [7, 1, 2])[0]
        self.struck[victim] += 1
        if victim == "everything":
            self._rig.kill_everything()
            self.end()
            self._rig.start()
            self.join()
            return
        title = HOST_TITLE if victim == "host" else KEEPER_TITLE
        processes = eventually(lambda: self._rig.titled(title))
        kill(chance.choice(processes))

    def calm(self) -> None:
        """Send no more; a driver that only looks keeps the runtime company."""
        self.end()
        self._driver = self._rig.driver()

    def end(self) -> None:
        """End the driver."""
        if self._driver is not None:
            self._driver.__exit__()
            self._driver = None


def test_recovery_does_not_depend_on_sleepers_nor_starve_new_sends(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    took: dict[int, float] = {}
    for sleepers in (0, SLEEPERS):
        rig = make_rig(pool_size=0)
        rig.stop()
        gate = tmp_path / f"gate-{sleepers}"
        asyncio.run(leave_unfinished(rig.settings.store, gate))
        copy_sleepers(Path(rig.settings.store), sleepers)
        gate.touch()
        rig.start()
        took[sleepers] = recovery(rig, tmp_path / f"acks-{sleepers}")
    print({sleepers: f"{seconds:.1f} s" for sleepers, seconds in took.items()})
    assert took[SLEEPERS] < 2 * took[0] + 2


def recovery(rig: Rig, acks: Path) -> float:
    """Seconds from readiness until all is handled; prints how new sends fare meanwhile."""
    left = deque(f"/note/unfinished-{number}" for number in range(UNFINISHED))
    with rig.driver() as driver:
        driver.flood(["/note/sleeper"], str(acks), senders=1, seed=SEED)
        while left:  # one after another: a test that reads all of them takes their time away
            if closed_covers(rig.log(left[0])).get("a"):
                left.popleft()
            else:
                pause(0.05)
            assert time.time() - driver.ready < 120 + UNFINISHED / 10
        took = time.time() - driver.ready
    first, *times = [float(line.split(" ")[3]) for line in acks.read_text().splitlines()]
    print(
        f"{UNFINISHED} resumed in {took:.1f} s; the first send, which waits for a host process, "
        f"took {first:.1f} s, {len(times)} more meanwhile p50 {median(times) * 1000:.0f} ms, "
        f"longest {max(times) * 1000:.0f} ms"
    )
    assert median(times) < 0.5  # not behind the whole of the recovery
    return took


async def leave_unfinished(store: str, gate: Path) -> None:
    """A process that dies while many handlers wait at a gate; one entity has gone to sleep."""
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry, source="tests.faults.kinds:registry")
        await runtime.spawn(Address.parse("/note/sleeper"), SpawnRequest())
        order = SendRequest(payload={"do": "await", "gate": str(gate)}, id="a")
        for number in range(UNFINISHED):
            address = Address.parse(f"/note/unfinished-{number}")
            await runtime.spawn(address, SpawnRequest(message=order))
        while runtime.hosts.host.owns(Address.parse("/note/sleeper")):
            await asyncio.to_thread(pause, 0.05)
        await runtime.crash()


def copy_sleepers(store: Path, count: int) -> None:
    """As many sleeping entities as there are to be: copies of one that sleeps."""
    original = store / entity_folder(Address.parse("/note/sleeper"))
    for number in range(count):
        shutil.copytree(original, store / entity_folder(Address.parse(f"/note/sleeper-{number}")))
