"""A delayed send to an entity that sleeps without any process fires once, whatever dies meanwhile.

Nobody sends anything after the first lines of a trial: what fires, fires by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from ray_agents.events import Event, MessageReceived
from tests.cluster.rig import HOST_TITLE, KEEPER_TITLE, Driver, Rig, eventually, kill, pause

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
ENTITIES = ["/note/late", "/lone/late"]


def fall_asleep(rig: Rig, driver: Driver, *, after_seconds: float) -> dict[str, int]:
    """Send to each with a delay, and wait until none has a host; when each is due."""
    due: dict[str, int] = {}
    for address in ENTITIES:
        driver.spawn(address)
        receipt = driver.send(address, {}, id="late", after_seconds=after_seconds)
        due[address] = receipt["fire_at"]
    eventually(lambda: all(rig.sealed(address) for address in ENTITIES))
    eventually(lambda: all(driver.inspect(a)["status"] == "sleeping" for a in ENTITIES))
    assert all(driver.inspect(a)["next_due"] == due[a] for a in ENTITIES)
    return due


def arrivals(rig: Rig, address: str) -> list[Event]:
    return [event for event in rig.log(address) if event.type == MessageReceived.TYPE]


def assert_each_fires_once(rig: Rig, due: dict[str, int]) -> float:
    """Wait for it; how many seconds the later one was late."""
    eventually(lambda: all(arrivals(rig, a) for a in ENTITIES), within=timedelta(seconds=60))
    eventually(lambda: all(rig.sealed(address) for address in ENTITIES))
    late: list[float] = []
    for address, fire_at in due.items():
        (row,) = arrivals(rig, address)
        late.append((row.time - fire_at) / 1_000_000)
    assert min(late) >= 0
    return max(late)


def test_a_sleeper_without_a_process_is_woken_by_the_keeper(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(pool_size=0, packed_linger=timedelta(0))
    with rig.driver() as driver:
        due = fall_asleep(rig, driver, after_seconds=10)
        eventually(lambda: len(rig.titled(HOST_TITLE)) <= 1)  # the front, which holds nobody
        assert time.time() * 1_000_000 < min(due.values())
        print(f"woken {assert_each_fires_once(rig, due):.1f} s after the due time")


def test_a_keeper_that_is_killed_meanwhile_still_wakes_it(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    with rig.driver() as driver:
        due = fall_asleep(rig, driver, after_seconds=10)
        (keeper,) = rig.titled(KEEPER_TITLE)
        kill(keeper)
        print(f"woken {assert_each_fires_once(rig, due):.1f} s after the due time")


def test_what_was_missed_while_nothing_ran_fires_at_the_next_start(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig()
    with rig.driver() as driver:
        due = fall_asleep(rig, driver, after_seconds=5)
        rig.kill_everything()
    pause(max(0.0, max(due.values()) / 1_000_000 - time.time()))
    rig.start()
    with rig.driver():
        print(f"woken {assert_each_fires_once(rig, due):.1f} s after the due time")
