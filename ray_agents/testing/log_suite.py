"""The conformance suite of a log, for every ``Blobs`` it may be kept in.

Inherit a suite in a test module and give it a fixture ``blobs`` that returns an empty tree::

    class TestMyBlobs(BlobsSuite, LogSuite):
        @pytest.fixture
        def blobs(self) -> Blobs: ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from ray_agents.errors import Fenced, InvalidPayload
from ray_agents.events import Draft, Event, Operation
from ray_agents.log.claiming import take
from ray_agents.log.files import LogFiles
from ray_agents.log.owner import PLAIN, Claim, ClaimLost, Head, LogIO, LogOwner, Upkeep, read_head
from ray_agents.log.reader import LogReader
from ray_agents.log.threads import Kept
from ray_agents.ports import Blobs
from ray_agents.views import Durability

FOLDER = "entities/assistant/helper"


class Ticks:
    """A clock that goes one millisecond on at every look, and back where a test says so."""

    def __init__(self, start: int = 1_700_000_000_000_000) -> None:
        self.time = start
        self._names = count()

    def now(self) -> int:
        """See :class:`ray_agents.ports.Clock`."""
        self.time += 1000
        return self.time

    def monotonic(self) -> float:
        """See :class:`ray_agents.ports.Clock`."""
        return self.time / 1e6

    def fresh_id(self) -> str:
        """See :class:`ray_agents.ports.Clock`."""
        return f"{next(self._names):020d}"

    async def sleep(self, duration: timedelta) -> None:
        """See :class:`ray_agents.ports.Clock`."""
        self.time += round(duration.total_seconds() * 1e6)
        await asyncio.sleep(0)


class Log:
    """One log under test: claims it, reads it; without ``io`` nothing is kept in memory."""

    def __init__(
        self,
        blobs: Blobs,
        *,
        folder: str = FOLDER,
        io: LogIO | None = None,
        upkeep: Upkeep = PLAIN,
    ) -> None:
        self.upkeep = upkeep
        self.blobs = blobs
        self.folder = folder
        self.io = io or LogIO(threads_max=2, kept_bytes_max=0)
        self.clock = Ticks()
        self._tokens = count(1)

    async def claim(self, **options: Any) -> LogOwner:
        """A new owner after whoever is the newest now."""
        head = await read_head(self.blobs, self.folder, io=self.io)
        return await self.claim_after(head, **options)

    async def claim_after(self, head: Head | None, **options: Any) -> LogOwner:
        """A new owner of the epoch after ``head``."""
        token = options.pop("token", f"token-{next(self._tokens)}")
        options.setdefault("upkeep", self.upkeep)
        return await LogOwner.claim(
            self.blobs,
            self.folder,
            head=head,
            claim=Claim(host="host-1", token=token),
            clock=self.clock,
            io=self.io,
            **options,
        )

    async def claim_only(self) -> None:
        """A claim of somebody who dies before it has begun."""
        head = await read_head(self.blobs, self.folder, io=self.io)
        claim = Claim(host="host-1", token=f"token-{next(self._tokens)}")
        await self.io.run(
            take, LogFiles(self.blobs, self.folder, kept=Kept()), head=head, claim=claim
        )

    def reader(self) -> LogReader:
        """A reader that has read nothing yet."""
        return LogReader(self.blobs, self.folder, self.io)

    async def wake(self, *keys: str) -> LogOwner:
        """A whole wake: claim, one append for each key, tidy up if that is due, seal."""
        owner = await self.claim()
        for key in keys:
            await owner.append([message(key)])
        if not owner.tidy:
            await owner.tidy_up()
        await owner.seal()
        return owner

    def close(self) -> None:
        """End the threads."""
        self.io.close()


def message(key: str, text: str = "hello") -> Draft:
    """A row of type ``inbox``."""
    return Draft.of("inbox", key, value={"payload": text})


def keys_of(events: list[Event]) -> list[str]:
    """The keys of the rows that are not the log's own."""
    return [event.key for event in events if not event.type.startswith("log_")]


class LogSuite:
    """What a log does, whatever it is kept in."""

    @pytest.fixture
    def log(self, blobs: Blobs) -> Iterator[Log]:
        """A log that does not exist yet."""
        with closing(Log(blobs)) as log:
            yield log

    async def test_a_log_that_was_never_claimed_has_no_head(self, log: Log) -> None:
        assert await read_head(log.blobs, log.folder, io=log.io) is None
        assert (await log.reader().read(0)).events == []

    async def test_what_is_appended_is_there_for_the_next_owner(self, log: Log) -> None:
        first = await log.claim()
        events = [
            *await first.append([message("a"), message("b")]),
            *await first.append([message("c")]),
        ]
        await first.seal()
        second = await log.claim()
        assert second.epoch == first.epoch + 1
        assert second.history.read(0, types={"inbox"}) == events
        await second.seal()

    async def test_an_owner_that_left_no_closing_frame_is_followed_all_the_same(
        self, log: Log
    ) -> None:
        first = await log.claim()
        events = await first.append([message("a")])
        await first.abandon()
        second = await log.claim()
        assert tuple(second.history.read(0, types={"inbox"})) == events
        await second.abandon()

    async def test_offsets_rise_strictly_over_all_epochs(self, log: Log) -> None:
        for number in range(5):
            owner = await log.claim()
            await owner.append([message(f"m{number}"), message(f"n{number}")])
            await (owner.seal() if number % 2 else owner.abandon())
        last = await log.wake("last")
        offsets = [event.offset for event in last.history.read(0)]
        assert offsets[0] == 0
        assert sorted(set(offsets)) == offsets

    async def test_an_offset_is_never_given_out_twice(self, log: Log) -> None:
        tip = 0
        for keys in ("ab", "", "c", "", ""):
            owner = await log.claim()
            assert owner.tip > tip
            for key in keys:
                await owner.append([message(key)])
            await owner.seal()
            tip = owner.tip

    async def test_time_never_goes_back(self, log: Log) -> None:
        for _ in range(3):
            owner = await log.claim()
            await owner.append([message("m")])
            await owner.seal()
            log.clock.time -= 1_000_000
        last = await log.wake("last")
        times = [event.time for event in last.history.read(0)]
        assert sorted(times) == times

    async def test_an_append_is_one_time_and_consecutive_offsets(self, log: Log) -> None:
        owner = await log.claim()
        tip = owner.tip
        appending = owner.enqueue([message("a"), message("b")])
        assert [event.offset for event in appending.events] == [tip, tip + 1]
        assert len({event.time for event in appending.events}) == 1
        assert (owner.tip, owner.durable_tip) == (tip + 2, 0)
        await appending.durable()
        assert owner.durable_tip == tip + 2
        await owner.seal()

    async def test_of_two_who_claim_one_epoch_one_gets_it(self, log: Log) -> None:
        claims = (log.claim_after(None) for _ in range(4))
        outcomes = await asyncio.gather(*claims, return_exceptions=True)
        owners = [outcome for outcome in outcomes if isinstance(outcome, LogOwner)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, ClaimLost)]
        assert (len(owners), len(lost)) == (1, 3)
        assert {loser.head.token for loser in lost} == {lost[0].head.token}
        await owners[0].seal()

    async def test_a_claim_repeated_with_the_same_token_succeeds(self, log: Log) -> None:
        first = await log.claim_after(None, token="mine")
        again = await log.claim_after(None, token="mine")
        assert first.epoch == again.epoch == 1
        await first.abandon()
        await again.seal()

    async def test_an_owner_that_was_followed_acknowledges_nothing(self, log: Log) -> None:
        old = await log.claim()
        await old.append([message("a")])
        new = await log.claim()
        with pytest.raises(Fenced):
            await old.append([message("late")])
        assert old.lost.is_set()
        assert isinstance(old.cause, Fenced)
        await new.append([message("b")])
        assert keys_of((await log.reader().read(0)).events) == ["a", "b"]
        await asyncio.gather(old.seal(), new.seal())

    async def test_a_claim_on_an_outdated_head_is_lost_even_if_that_epoch_was_deleted(
        self, log: Log
    ) -> None:
        heads: list[Head | None] = [None]
        for number in range(40):
            await log.wake(f"m{number}")
            heads.append(await read_head(log.blobs, log.folder, io=log.io))
        for head in heads[:-1]:
            with pytest.raises(ClaimLost) as lost:
                await log.claim_after(head)
            assert lost.value.head == heads[-1]
        assert "0000000001.arrows" not in log.blobs.names(log.folder)
        assert (await log.wake("last")).epoch == 41

    async def test_the_cost_of_a_wake_does_not_grow_with_past_wakes(self, log: Log) -> None:
        for number in range(100):
            await log.wake(f"m{number}")
        segments = [name for name in log.blobs.names(log.folder) if name.endswith(".arrows")]
        assert len(segments) <= 18
        assert len(log.blobs.names(f"{log.folder}/sealed")) <= 7
        events = (await log.reader().read(0)).events
        assert keys_of(events) == [f"m{number}" for number in range(100)]

    async def test_latest_gives_the_last_row_of_each_key_without_deleted_ones(
        self, log: Log
    ) -> None:
        for _ in range(2):
            owner = await log.claim()
            await owner.append([message("a", "old"), message("b"), message("c")])
            await owner.append([message("a", "new"), Draft(type="other", key="a", text="1")])
            await owner.append([Draft(type="inbox", key="b", operation=Operation.DELETE)])
            latest = owner.history.latest(["inbox"])
            assert [(event.key, event.value["payload"]) for event in latest] == [
                ("a", "new"),
                ("c", "hello"),
            ]
            await owner.seal()

    async def test_find_gives_the_newest_row_of_a_key(self, log: Log) -> None:
        for number in range(3):
            owner = await log.claim()
            await owner.append([message("same", f"{number}"), message(f"m{number}")])
            found = owner.history.find("inbox", "same")
            assert found is not None
            assert found.value == {"payload": f"{number}"}
            assert owner.history.find("inbox", "never") is None
            assert owner.history.find("other", "same") is None
            await owner.seal()

    async def test_read_gives_ranges_limits_and_types(self, log: Log) -> None:
        await log.wake("a", "b", "c")
        owner = await log.claim()
        await owner.append([message("d"), Draft.of("run", "r", value=1), message("e")])
        every = owner.history.read(0)
        for start in range(owner.tip + 1):
            rest = [event for event in every if event.offset >= start]
            assert owner.history.read(start) == rest
            assert owner.history.read(start, limit=2) == rest[:2]
            assert owner.history.read(start, stop=start + 2) == [
                event for event in rest if event.offset < start + 2
            ]
        assert keys_of(owner.history.read(0, types={"inbox"}, limit=4)) == ["a", "b", "c", "d"]
        await owner.seal()

    async def test_rows_come_back_as_they_were(self, log: Log) -> None:
        owner = await log.claim()
        odd = Draft.of("ünïcode", "k\n\0", value={"deep": [1, None, "✓"]}, headers={"a": "b"})
        bare = Draft(type="inbox", key="", operation=Operation.DELETE)
        events = await owner.append([odd, bare])
        await owner.seal()
        await asyncio.gather(*(self._same(log, events) for _ in range(2)))

    async def _same(self, log: Log, events: tuple[Event, ...]) -> None:
        read = (await log.reader().read(events[0].offset)).events
        assert tuple(read) == events
        assert [event.value for event in read] == [event.value for event in events]

    async def test_a_draft_that_cannot_be_written_harms_nobody_else(self, log: Log) -> None:
        owner = await log.claim()
        good = owner.enqueue([message("good")])
        for bad in (message("\ud800"), Draft.of("inbox", "k", headers={"\ud800": "x"})):
            with pytest.raises(InvalidPayload):
                owner.enqueue([bad])
        assert await owner.append([]) == ()
        await good.durable()
        await owner.append([message("also good")])
        assert keys_of(owner.history.read(0)) == ["good", "also good"]
        await owner.seal()

    async def test_who_waits_for_an_offset_is_told_when_it_is_durable(self, log: Log) -> None:
        owner = await log.claim()
        waiting = asyncio.create_task(owner.wait_beyond(owner.tip + 1))
        await owner.append([message("a")])
        assert not waiting.done()
        await owner.append([message("b")])
        await waiting
        last = asyncio.create_task(owner.wait_beyond(10**9))
        await asyncio.sleep(0)
        await owner.seal()
        await last

    async def test_a_sealed_owner_takes_nothing_and_sealing_twice_is_harmless(
        self, log: Log
    ) -> None:
        owner = await log.claim()
        queued = owner.enqueue([message("a")])
        await asyncio.gather(owner.seal(), owner.seal())
        sealed = log.blobs.read(f"{log.folder}/0000000001.arrows")
        await owner.seal()
        assert log.blobs.read(f"{log.folder}/0000000001.arrows") == sealed
        await queued.durable()
        assert not owner.lost.is_set()
        with pytest.raises(Fenced):
            owner.enqueue([message("late")])
        head = await read_head(log.blobs, log.folder, io=log.io)
        assert head is not None
        assert head.sealed

    async def test_claims_that_never_began_leave_no_trace_in_the_log(self, log: Log) -> None:
        await log.wake("a")
        for _ in range(3):
            await (await log.claim()).abandon()
        assert keys_of((await log.reader().read(0)).events) == ["a"]
        owner = await log.wake("b")
        assert keys_of(owner.history.read(0)) == ["a", "b"]
        assert keys_of((await log.reader().read(0)).events) == ["a", "b"]

    async def test_a_claim_that_was_sealed_without_a_row_leaves_no_row(self, log: Log) -> None:
        for key in ("a", "b"):
            await log.wake(key)
            await log.wake()
        owner = await log.wake("c")
        assert keys_of(owner.history.read(0)) == ["a", "b", "c"]
        assert keys_of((await log.reader().read(0)).events) == ["a", "b", "c"]

    async def test_what_is_beside_a_claim_is_awaited_with_it(self, log: Log) -> None:
        done = asyncio.Event()

        async def beside() -> None:
            done.set()

        owner = await log.claim(beside=[beside()])
        assert done.is_set()
        await owner.seal()

    async def test_what_is_beside_a_claim_that_is_lost_is_awaited_all_the_same(
        self, log: Log
    ) -> None:
        owner, done = await log.claim(), asyncio.Event()

        async def beside() -> None:
            await owner.append([message("a")])
            done.set()

        with pytest.raises(ClaimLost):
            await log.claim_after(None, beside=[beside()])
        assert done.is_set()
        await owner.seal()

    @pytest.mark.parametrize("durability", list(Durability))
    async def test_every_durability_keeps_what_a_clean_end_left(
        self, log: Log, durability: Durability
    ) -> None:
        owner = await log.claim(durability=durability)
        await owner.append([message("a")])
        await owner.append([message("b")])
        await owner.seal()
        assert keys_of((await log.reader().read(0)).events) == ["a", "b"]

    async def test_a_reader_follows_an_owner_row_by_row(self, log: Log) -> None:
        reader, fresh = log.reader(), log.reader()
        seen: list[Event] = []
        for epoch in range(20):
            owner = await log.claim()
            for number in range(3):
                await owner.append([message(f"{epoch}-{number}")])
                reading = await reader.read(seen[-1].offset + 1 if seen else 0)
                assert reading.tip == owner.durable_tip
                seen += reading.events
            await (owner.seal() if epoch % 3 else owner.abandon())
        assert seen == (await fresh.read(0)).events
        last = await log.claim()
        assert seen == last.history.read(0)
        await last.abandon()

    async def test_a_reader_never_runs_ahead_of_a_new_owner(self, log: Log) -> None:
        reader = log.reader()
        old = await log.claim()
        await old.append([message("a")])
        before = await reader.read(0)
        new = await log.claim()
        for _ in range(2):
            with suppress(Fenced):
                await old.append([message("zombie")])
        assert keys_of((await reader.read(0)).events) == keys_of(before.events)
        await new.append([message("b")])
        assert (await reader.read(0)).events == new.history.read(0)
        await asyncio.gather(old.abandon(), new.seal())
