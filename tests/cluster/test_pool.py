"""The warm pool's bookkeeping: who gets which host, how many to start, how many to let go."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ray_agents.address import Address
from ray_agents.cluster.pool import LEASE_MAX, STARTING_MAX, Pool, Supply

A, B = Address("t", "a"), Address("t", "b")
LATER = (LEASE_MAX + timedelta(seconds=1)).total_seconds()


def test_an_idle_host_is_lent_once_and_to_the_same_entity_again() -> None:
    pool = Pool()
    assert pool.offer("h", now=0, waits=lambda _: True) is None
    assert pool.lend(A, now=0, spent=None) == "h"
    assert pool.lend(B, now=0, spent=None) is None
    assert pool.lend(A, now=1, spent=None) == "h"


def test_a_lease_ends_with_its_time_or_when_its_host_is_spent() -> None:
    pool = Pool()
    pool.offer("h", now=0, waits=lambda _: True)
    pool.lend(A, now=0, spent=None)
    assert pool.lend(A, now=1, spent="h") is None
    assert pool.lend(A, now=LATER, spent=None) is None


def test_who_waits_longest_is_served_first_if_it_still_waits() -> None:
    pool = Pool()
    assert pool.wait(A)
    assert pool.wait(B)
    assert not pool.wait(A)
    assert pool.offer("h", now=0, waits=lambda address: address == B) == B
    assert not pool.waiting


def test_nobody_overtakes_who_waits() -> None:
    pool = Pool()
    pool.offer("h", now=0, waits=lambda _: True)
    pool.wait(A)
    assert pool.lend(B, now=0, spent=None) is None


def test_a_host_that_is_lent_cannot_be_retired() -> None:
    pool = Pool()
    pool.offer("h", now=0, waits=lambda _: True)
    pool.offer("i", now=0, waits=lambda _: True)
    assert pool.lend(A, now=0, spent=None) == "h"
    assert not pool.retire("h")
    assert pool.retire("i")
    assert pool.lend(B, now=0, spent=None) is None


@pytest.mark.parametrize(
    ("supply", "waiting", "count"),
    [
        (Supply(living=0, idle=0, starting=0), 0, 1),
        (Supply(living=1, idle=1, starting=0), 0, 0),
        (Supply(living=1, idle=0, starting=0), 0, 1),
        (Supply(living=1, idle=0, starting=1), 0, 0),
        (Supply(living=3, idle=1, starting=0), 2, STARTING_MAX),
        (Supply(living=8, idle=0, starting=0), 9, 0),
        (Supply(living=7, idle=0, starting=0), 9, 1),
    ],
)
def test_hosts_are_started_for_the_pool_and_for_who_waits_within_the_cap(
    supply: Supply, waiting: int, count: int
) -> None:
    assert supply.to_start(size=1, most=8, waiting=waiting) == count


@pytest.mark.parametrize(("idle", "waiting", "count"), [(1, 0, 0), (3, 0, 2), (3, 1, 1), (1, 4, 0)])
def test_idle_hosts_beyond_the_pool_are_too_many(idle: int, waiting: int, count: int) -> None:
    supply = Supply(living=idle, idle=idle, starting=0)
    assert supply.surplus(size=1, waiting=waiting) == count
