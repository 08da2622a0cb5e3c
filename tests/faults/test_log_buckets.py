"""A log in a bucket whose server fails, is slow, and loses requests and replies.

The server is moto's, with faults by script: see :mod:`tests.buckets`. The seeded run is::

    BUCKET_SEEDS=100 .venv/bin/pytest -n 0 -m slow -s tests/faults/test_log_buckets.py

What becomes of a request is told by the seed, its method, its key and how often that was asked
for, so that threads may take turns as they like.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from random import Random
from threading import Lock
from typing import TypeVar

import pytest

from ray_agents.errors import Fenced, OperatorError, RayAgentsError, StoreFull, StoreUnavailable
from ray_agents.log.owner import LogOwner
from ray_agents.testing.log_suite import Log, keys_of, message
from tests.buckets import BucketServer, Fate, Script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
T = TypeVar("T")
SEEDS = int(os.environ.get("BUCKET_SEEDS", "5"))
WAKES = 8
CALL_SECONDS_MAX = 30.0  # with the time-outs of tests; nothing may hang
FAULTS = [Fate.FAILED, Fate.BUSY, Fate.LOST, Fate.REPLY_LOST, Fate.FAILED_AFTERWARDS]


class Nth:
    """A script: the first ``times`` requests of a method for a key that holds ``part`` fail."""

    def __init__(self, fate: Fate, *, method: str = "PUT", part: str, times: int = 1) -> None:
        self.fate, self.method, self.part, self.left = fate, method, part, times

    def __call__(self, method: str, path: str) -> Fate:
        if method != self.method or self.part not in path or self.left == 0:
            return Fate.SERVED
        self.left -= 1
        return self.fate


@pytest.mark.parametrize(
    "fate", [Fate.LOST, Fate.REPLY_LOST, Fate.FAILED, Fate.FAILED_AFTERWARDS, Fate.SLOW]
)
@pytest.mark.parametrize("part", [".arrows", ".parts/", "sealed/"], ids=["claim", "append", "seal"])
async def test_one_fault_in_a_put_goes_unnoticed(
    bucket_server: BucketServer, fate: Fate, part: str
) -> None:
    store = bucket_server.new_store()
    bucket_server.script = Nth(fate, part=part)
    with closing(Log(bucket_server.blobs(store))) as log:
        owner = await log.claim()
        await owner.append([message("a")])
        await owner.abandon()
        following = await log.wake("b")
        assert following.epoch == 2
    bucket_server.heal()
    assert await found(bucket_server, store) == ["a", "b"]


@pytest.mark.parametrize(
    ("fate", "error"),
    [
        (Fate.FAILED, StoreUnavailable),
        (Fate.BUSY, StoreUnavailable),
        (Fate.LOST, StoreUnavailable),
        (Fate.FORBIDDEN, StoreUnavailable),
        (Fate.FULL, StoreFull),
    ],
)
async def test_a_fault_that_lasts_ends_the_ownership_loudly_and_in_time(
    bucket_server: BucketServer, fate: Fate, error: type[Exception]
) -> None:
    store = bucket_server.new_store()
    with closing(Log(bucket_server.blobs(store))) as log:
        owner = await log.claim()
        await owner.append([message("a")])
        bucket_server.script = Nth(fate, part=".parts/", times=1000)
        begun = time.monotonic()
        with pytest.raises(error) as raised:
            await owner.append([message("b")])
        assert type(raised.value) is error
        assert time.monotonic() - begun < CALL_SECONDS_MAX
        bucket_server.heal()
        with pytest.raises(error):
            await owner.append([message("c")])
        await owner.seal()
        await log.wake("d")
    assert await found(bucket_server, store) == ["a", "d"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_replies_to_reads_that_are_lost_or_slow_are_asked_for_again(
    bucket_server: BucketServer, method: str
) -> None:
    store = bucket_server.new_store()
    for fate in (Fate.LOST, Fate.REPLY_LOST, Fate.SLOW, Fate.BUSY):
        bucket_server.script = Nth(fate, method=method, part="bucket-")
        with closing(Log(bucket_server.blobs(store))) as log:
            await log.wake(fate.name)
    bucket_server.heal()
    assert await found(bucket_server, store) == ["LOST", "REPLY_LOST", "SLOW", "BUSY"]


async def test_an_append_whose_outcome_stays_unknown_is_no_row_or_one(
    bucket_server: BucketServer,
) -> None:
    """It was written, and nobody can be told so; the next owner adopts it, once."""
    store = bucket_server.new_store()
    with closing(Log(bucket_server.blobs(store))) as log:
        owner = await log.claim()
        await owner.append([message("a")])
        bucket_server.script = unanswered_part
        with pytest.raises(StoreUnavailable):
            await owner.append([message("b")])
        await owner.abandon()
        bucket_server.heal()
        following = await log.claim()
        await following.append([message("c")])
        await following.seal()
    assert await found(bucket_server, store) == ["a", "b", "c"]


def unanswered_part(method: str, path: str) -> Fate:
    """Parts are written and nobody hears of it."""
    if ".parts/" not in path or "list" in path:
        return Fate.SERVED
    return Fate.REPLY_LOST if method == "PUT" else Fate.LOST


@dataclass(slots=True, kw_only=True)
class Story:
    """What is tried on one log, and what was acknowledged of it."""

    server: BucketServer
    store: str
    chance: Random
    tried: list[str] = field(default_factory=list[str])
    acknowledged: list[str] = field(default_factory=list[str])

    def log(self) -> Log:
        """As another process has it."""
        return Log(self.server.blobs(self.store))

    async def wake(self, number: int) -> None:
        """One ownership: it ends well, or by its death, or by a take-over it outlives."""
        with closing(self.log()) as log, suppress(OperatorError, Fenced):
            owner = await _timed(log.claim())
            for key in range(self.chance.randint(0, 6)):
                self.tried.append(f"{number}-{key}")
                await _timed(owner.append([message(self.tried[-1])]))
                self.acknowledged.append(self.tried[-1])
            match self.chance.choice(["seals", "dies", "is followed"]):
                case "seals":
                    await _timed(owner.seal())
                case "dies":
                    await owner.abandon()
                case _:
                    await self._follow(owner)

    async def _follow(self, old: LogOwner) -> None:
        with closing(self.log()) as log:
            new = await _timed(log.claim())
            self.tried.append(f"zombie of {old.epoch}")
            with pytest.raises(RayAgentsError):
                await _timed(old.append([message(self.tried[-1])]))
            await old.abandon()
            await new.abandon()


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_fails_no_acknowledged_row_is_lost_and_none_is_doubled(
    bucket_server: BucketServer, seed: int
) -> None:
    store = bucket_server.new_store()
    story = Story(server=bucket_server, store=store, chance=Random(seed))
    for number in range(WAKES):
        bucket_server.script = faults(seed * 1000 + number)
        await story.wake(number)
    bucket_server.heal()
    rows, acknowledged = await found(bucket_server, store), story.acknowledged
    print(f"seed {seed}: {len(acknowledged)} acknowledged of {len(story.tried)}, {len(rows)} rows")
    assert len(set(rows)) == len(rows)
    assert [key for key in rows if key in set(acknowledged)] == acknowledged
    assert set(rows) <= set(story.tried)


async def _timed(work: Awaitable[T]) -> T:
    begun = time.monotonic()
    try:
        return await work
    finally:
        assert time.monotonic() - begun < CALL_SECONDS_MAX


def faults(seed: int) -> Script:
    """About one request in ten meets with a fault."""
    asked: Counter[tuple[str, str]] = Counter()
    lock = Lock()

    def script(method: str, path: str) -> Fate:
        with lock:
            asked[method, path] += 1
            count = asked[method, path]
        chance = Random(f"{seed} {method} {path} {count}")
        if chance.random() < 0.003:
            return Fate.SLOW
        return chance.choice(FAULTS) if chance.random() < 0.1 else Fate.SERVED

    return script


async def found(server: BucketServer, store: str) -> list[str]:
    """The keys a fresh owner finds, which are those that a fresh reader is served after that."""
    with closing(Log(server.blobs(store))) as log:
        keys = keys_of((await log.wake("last")).history.read(0))
        served = keys_of((await Log(server.blobs(store), io=log.io).reader().read(0)).events)
        assert served == keys
        return keys[:-1]
