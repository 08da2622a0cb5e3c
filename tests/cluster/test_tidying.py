"""Entities whose logs are tidied: what they know, and what is let go, however they end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_agents.cluster import waking
from ray_agents.definition import Definition, Retention
from ray_agents.errors import Fenced
from ray_agents.events import Draft, Event, MessageReceived
from ray_agents.log import reader, tidying
from ray_agents.log.examination import examine_log
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.owner import PLAIN, LogOwner
from ray_agents.projection import fold
from ray_agents.testing.log_suite import Log, keys_of, message
from tests.cluster.logs import LogMaker
from tests.cluster.test_waking import assert_same
from tests.log.trees import rewrite


async def handler(ctx: object, wake: object) -> None:
    """The definitions' own."""


@pytest.fixture(autouse=True)
def soon_due() -> Iterator[None]:
    """Bounds so low that a short log meets them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tidying, "UNMERGED_SEGMENTS_MAX", 2)
        patch.setattr(tidying, "OVERDUE_SEGMENTS_MAX", 5)
        patch.setattr(tidying, "SNAPSHOT_ROWS_MIN", 4)
        yield


class Author(LogMaker):
    """Writes what an entity could write into a log that is owned."""

    owner: LogOwner

    def write(self, *drafts: Draft) -> None:
        for event in self.owner.enqueue(drafts).events:
            self.events.append(event)
            self.state.apply(event)


async def one_ownership(author: Author, log: Log, *, steps: int) -> None:
    """Claim, know the state, do something, end in some way."""
    careless = {"upkeep": PLAIN} if author.random.random() < 0.2 else {}
    owner = author.owner = await log.claim(summarise=True, **careless)
    assert_same(waking.load(owner.summary), fold(author.events))
    check_unhandled(author)
    for _ in range(steps):
        author.step()
    await owner.append([])
    if author.events:
        await owner.wait_beyond(author.events[-1].offset)
    if author.random.random() < 0.8 and not owner.tidy:
        await owner.tidy_up()
    await (owner.seal() if author.random.random() < 0.8 else owner.abandon())
    if author.effects is not None and author.random.random() < 0.5:
        author.effects = None


def check_unhandled(author: Author) -> None:
    """What a handler is yet to see was not let go."""
    state, messages = author.state, {MessageReceived.TYPE}
    seen = author.owner.history.read(0, types=messages)
    assert all(event in seen for event in state.pending)
    for wake in state.wakes.values():
        given = [e for e in author.events if e.type == MessageReceived.TYPE]
        given = [e for e in given if wake.from_offset <= e.offset < wake.to_offset]
        assert [e for e in seen if wake.from_offset <= e.offset < wake.to_offset] == given


def check_history(author: Author, found: list[Event], *, first: int) -> None:
    """All that was written from ``first`` on is there, as it was."""
    kept = {event.offset: event for event in found if not event.type.startswith("log_")}
    assert kept == {event.offset: event for event in author.events if event.offset >= first}


RETENTIONS = [Retention(), Retention(bytes_max=20_000), Retention(age=timedelta(milliseconds=300))]


@pytest.mark.slow
@pytest.mark.parametrize("retention", RETENTIONS, ids=["all", "bytes", "age"])
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10_000))
async def test_the_state_is_known_however_the_log_was_tidied(
    retention: Retention, seed: int
) -> None:
    definition = Definition(type="t", handler=handler, retention=retention)
    blobs = MemoryBlobs()
    with closing(Log(blobs, upkeep=waking.upkeep_of(definition))) as log:
        author = Author(Random(seed))
        for _ in range(20):
            await one_ownership(author, log, steps=author.random.randint(0, 12))
        last = author.owner = await log.claim(summarise=True)
        author.write(Draft.of("text", "last", value=""))
        await last.wait_beyond(author.events[-1].offset)
        reading = await log.reader().read(0, limit=10**6)
        check_history(author, reading.events, first=last.first)
        check_history(author, last.history.read(0), first=last.first)
        assert bool(last.first) <= (retention != Retention())
        check_ids(author, last)
        await last.seal()
        assert examine_log(blobs, log.folder, in_use=lambda _: False).sound


async def test_pieces_of_texts_go_with_a_merge_if_the_type_does_not_keep_them() -> None:
    definition = Definition(type="t", handler=handler, keep_deltas=False)
    with closing(Log(MemoryBlobs(), upkeep=waking.upkeep_of(definition))) as log:
        for number in range(5):
            owner = await log.claim()
            kinds = ("text", "text_delta", "reasoning_delta", "inbox")
            await owner.append([Draft.of(kind, f"{number}", value="") for kind in kinds])
            if not owner.tidy:
                await owner.tidy_up()
            await owner.seal()
        rows = (await log.reader().read(0)).events
        deltas = [event.key for event in rows if event.type.endswith("_delta")]
        assert deltas == list("3344")  # the fourth owner merged what the first three wrote
        assert [event.key for event in rows if event.type == "text"] == list("01234")


def check_ids(author: Author, owner: LogOwner) -> None:
    """Every message of the log is found by its id, whether it was let go or not."""
    for event in author.events:
        if event.type == MessageReceived.TYPE:
            found = owner.history.find(event.type, event.key)
            assert found is not None
            assert found.offset == event.offset
            assert waking.digest_of_message(found) == MessageReceived.of(event).digest
    assert owner.history.find(MessageReceived.TYPE, "never sent") is None


async def damage(blobs: MemoryBlobs, folder: str) -> None:
    """Flip a bit in the oldest sealed file."""
    name = next(n for n in blobs.names(f"{folder}/sealed") if n.endswith(".arrow"))
    rewrite(blobs, f"{folder}/sealed/{name}", lambda data: data[:200] + b"?" + data[201:])


async def test_damage_in_what_is_past_keeps_nobody_from_waking_however_often() -> None:
    definition = Definition(type="t", handler=handler)
    blobs = MemoryBlobs()
    with closing(Log(blobs, upkeep=waking.upkeep_of(definition))) as log:
        for number in range(5):
            await log.wake(f"m{number}")
        await damage(blobs, log.folder)
        for number in range(12):
            await log.wake(f"n{number}")
        newest = await log.claim()
        assert newest.epoch == 18
        await newest.seal()


async def test_a_tidying_that_fails_in_an_unforeseen_way_is_left_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(Log(MemoryBlobs())) as log:
        for number in range(3):
            await log.wake(f"m{number}")
        owner = await log.claim()
        await owner.append([message("last")])
        monkeypatch.setattr(tidying, "write_sealed", overflow)
        await owner.tidy_up()
        await owner.seal()
        assert owner.cause is None
        assert len(keys_of((await log.reader().read(0)).events)) == 4


def overflow(*_: object, **__: object) -> None:
    raise ValueError("offset overflow while concatenating arrays")


async def test_a_large_log_is_merged_into_several_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "MERGED_BYTES_MAX", 3_000)
    blobs = MemoryBlobs()
    with closing(Log(blobs)) as log:
        for number in range(30):
            await log.wake(f"m{number}")
        sealed = [n for n in blobs.names(f"{log.folder}/sealed") if n.endswith(".arrow")]
        assert len(sealed) > 5
        assert keys_of((await log.reader().read(0)).events) == [f"m{n}" for n in range(30)]
        assert examine_log(blobs, log.folder, in_use=lambda _: False).sound


async def test_the_end_of_a_log_does_not_go_back_when_its_last_rows_are_left_out() -> None:
    definition = Definition(type="t", handler=handler, keep_deltas=False)
    tips: list[int] = []
    with closing(Log(MemoryBlobs(), upkeep=waking.upkeep_of(definition))) as log:
        for _ in range(5):
            owner = await log.claim()
            await owner.append([Draft.of("text_delta", "d", value="")])
            await (owner.tidy_up() if not owner.tidy else owner.append([]))
            await owner.seal()
            tips.append((await log.reader().read(0)).tip)
        idle = await log.claim()
        await idle.tidy_up()
        await idle.seal()
        tips.append((await log.reader().read(0)).tip)
    assert tips == sorted(tips)


async def test_an_owner_that_finds_its_files_replaced_gives_up() -> None:
    with closing(Log(MemoryBlobs())) as log:
        await log.wake("a")
        await log.wake("b")
        stale = await log.claim()
        for number in range(4):
            await log.wake(f"m{number}")
        with pytest.raises(Fenced):
            await stale.ready()
        assert stale.lost.is_set()
        await stale.abandon()


async def test_a_snapshot_that_is_replaced_while_it_is_read_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    definition = Definition(type="t", handler=handler, retention=Retention(bytes_max=2_000))
    with closing(Log(MemoryBlobs(), upkeep=waking.upkeep_of(definition))) as log:
        author = Author(Random(4))
        for _ in range(100):
            await one_ownership(author, log, steps=10)
            if author.owner.first:
                break
        owner = author.owner = await log.claim(summarise=True)
        assert owner.first > 0
        for _ in range(50):
            author.step()
        await owner.wait_beyond(author.events[-1].offset)
        monkeypatch.setattr(tidying, "UNMERGED_SEGMENTS_MAX", 0)
        await owner.tidy_up()
        running, sought = asyncio.get_running_loop(), tidying.usable_snapshot

        def replaced_meanwhile(*listed: Any) -> Any:
            monkeypatch.setattr(reader, "usable_snapshot", sought)
            asyncio.run_coroutine_threadsafe(owner.seal(), running).result(10)
            return sought(*listed)

        monkeypatch.setattr(reader, "usable_snapshot", replaced_meanwhile)
        follower = log.reader()
        past = await follower.summary()
        assert reader.usable_snapshot is sought
        assert_same(waking.load(past.history), fold(author.events))
