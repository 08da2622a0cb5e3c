"""The conformance suite of ``scan``: what it gives of a fleet, whatever the fleet is kept in.

Inherit it in a test module and give it a fixture ``blobs`` that returns an empty tree, as with
:class:`ray_agents.testing.blobs_suite.BlobsSuite`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.errors import CorruptLog
from ray_agents.events import Draft, EntityCreated, EntityStopped, Event
from ray_agents.log.arrow import pc
from ray_agents.log.codec import COLUMNS, to_events
from ray_agents.log.owner import LogIO
from ray_agents.log.reader import LogReader
from ray_agents.ports import Blobs
from ray_agents.tables.scan import SCHEMA, scan, scan_batches
from ray_agents.testing.log_suite import Log, message

ADA, BOB, CLEO = "/bot/ada", "/bot/bob", "/cat/cleo"


def log_of(blobs: Blobs, address: str) -> Log:
    """The log of the entity at ``address``, which need not exist yet."""
    return Log(blobs, folder=entity_folder(Address.parse(address)))


def created(life: int = 0, *, parent: str | None = None) -> Draft:
    """The row that begins a life."""
    facts: dict[str, Any] = {"args": {}, "tags": {}, "parent": parent, "spawn_id": "s"}
    return EntityCreated(entity_type="bot", life=life, timestamp=0, **facts).draft()


def stopped(life: int = 0) -> Draft:
    """The row that ends a life."""
    return EntityStopped(reason=None, life=life, timestamp=0).draft()


def events_of(table: Any, address: str) -> list[Event]:
    """The rows of one entity in a scanned table, as events."""
    own = table.filter(pc.equal(table["address"], address)).select(list(COLUMNS))
    return [event for batch in own.to_batches() for event in to_events(batch)]


def offsets_of(table: Any, address: str) -> list[int]:
    """The offsets that a table holds of one entity, in its order."""
    pairs = zip(table["address"].to_pylist(), table["offset"].to_pylist(), strict=True)
    return [offset for each, offset in pairs if each == address]


async def read_all(blobs: Blobs, address: str, *, limit: int = 7) -> list[Event]:
    """A whole log, by as many reads as it takes."""
    found: list[Event] = []
    with closing(LogIO(threads_max=2, kept_bytes_max=0)) as io:
        reader = LogReader(blobs, entity_folder(Address.parse(address)), io)
        while events := (
            await reader.read(found[-1].offset + 1 if found else 0, limit=limit)
        ).events:
            found += events
    return found


class ScanSuite:
    """What ``scan`` does."""

    async def test_a_scan_is_the_concatenation_of_reads(self, blobs: Blobs) -> None:
        for number, address in enumerate((ADA, BOB, CLEO)):
            with closing(log_of(blobs, address)) as log:
                for wake in range(20 * number + 1):
                    await log.wake(*(f"{wake}-{n}" for n in range(3)))
        table = await asyncio.to_thread(scan, blobs)
        assert table.schema == SCHEMA
        for address in (ADA, BOB, CLEO):
            assert events_of(table, address) == await read_all(blobs, address)
        assert table.num_rows == sum([len(await read_all(blobs, a)) for a in (ADA, BOB, CLEO)])

    async def test_a_live_tail_is_part_of_it(self, blobs: Blobs) -> None:
        with closing(log_of(blobs, ADA)) as log:
            owner = await log.claim()
            for number in range(3):
                await owner.append([message(f"m{number}")])
                assert offsets_of(scan(blobs), ADA) == list(range(owner.durable_tip))
            await owner.abandon()

    async def test_a_row_that_is_taken_back_is_never_given(self, blobs: Blobs) -> None:
        with closing(log_of(blobs, ADA)) as log:
            old = await log.claim()
            await old.append([message("a")])
            new = await log.claim()
            await asyncio.gather(old.append([message("late")]), return_exceptions=True)
            assert set(scan(blobs)["key"].to_pylist()) <= {"a", "manifest"}
            await new.append([message("b")])
            assert [e.key for e in events_of(scan(blobs), ADA) if e.type == "inbox"] == ["a", "b"]
            await asyncio.gather(old.abandon(), new.seal())

    async def test_it_goes_on_where_merging_takes_files_away(self, blobs: Blobs) -> None:
        with closing(log_of(blobs, ADA)) as log:
            for number in range(15):
                await log.wake(f"m{number}")
            before = await read_all(blobs, ADA)
            reader = LogReader(blobs, entity_folder(Address.parse(ADA)), log.io)
            batches = reader.batches()
            seen = to_events(next(batches))
            for number in range(25):
                await log.wake(f"n{number}")
            seen += [event for batch in batches for event in to_events(batch)]
        assert seen == before

    @pytest.mark.parametrize("crashing", [False, True])
    async def test_it_may_run_while_owners_append_and_merge(
        self, blobs: Blobs, *, crashing: bool
    ) -> None:
        acknowledged: list[int] = []
        tables: list[tuple[int, Any]] = []
        with closing(log_of(blobs, ADA)) as log:
            working = asyncio.create_task(work(log, acknowledged, wakes=50, crashing=crashing))
            while not working.done():
                tables.append((len(acknowledged), await asyncio.to_thread(scan, blobs)))
            await working
            every = await read_all(blobs, ADA)
        for count, table in tables:
            seen = events_of(table, ADA)
            assert seen == every[: len(seen)]
            if not crashing:  # else a reader that is new may have to wait for the next owner
                assert set(acknowledged[:count]) <= {event.offset for event in seen}

    async def test_each_row_knows_its_life(self, blobs: Blobs) -> None:
        with closing(log_of(blobs, ADA)) as log:
            for life in range(2):
                await append(log, [created(life), message("a"), stopped(life)])
        kinds = ("type", "life")
        table = scan(blobs, address=ADA)
        rows = list(zip(*(table[kind].to_pylist() for kind in kinds), strict=True))
        one_life = ["entity_created", "inbox", "entity_stopped"]
        assert rows == [
            ("log_manifest", None),
            *((kind, 0) for kind in [*one_life, "log_manifest"]),
            *((kind, 1) for kind in one_life),
        ]

    async def test_types_collections_and_entities_can_be_chosen(self, blobs: Blobs) -> None:
        rows = [message("m"), *(Draft.of(kind, "k", value=1) for kind in ("step", "state:notes"))]
        for address in (ADA, BOB, CLEO):
            with closing(log_of(blobs, address)) as log:
                await append(log, rows)
        assert scan(blobs, types=["step"])["type"].to_pylist() == ["step"] * 3
        assert scan(blobs, types=["steps", "state:notes"], address=ADA).num_rows == 2
        notes = scan(blobs, collections=["notes"], types=["steps"], entity_type="bot")
        assert notes["type"].to_pylist() == ["step", "state:notes"] * 2
        assert set(notes["entity_type"].to_pylist()) == {"bot"}
        chosen = scan(blobs, address=[CLEO, "/bot/nobody"], types=["inbox"])
        assert chosen["address"].to_pylist() == [CLEO]

    async def test_only_rows_since_a_time_can_be_chosen(self, blobs: Blobs) -> None:
        with closing(log_of(blobs, ADA)) as log:
            await log.wake("a", "b", "c")
            events = await read_all(blobs, ADA)
        for event in events:
            since = datetime.fromtimestamp(event.time / 1e6, UTC)
            later = [each for each in events if each.time >= event.time]
            assert events_of(scan(blobs, since=since), ADA) == later

    async def test_a_corrupt_log_is_named_or_left_out(self, blobs: Blobs) -> None:
        for address in (ADA, BOB):
            with closing(log_of(blobs, address)) as log:
                await log.wake("a")
        flip_a_bit(blobs, f"{entity_folder(Address.parse(ADA))}/0000000001.arrows")
        with pytest.raises(CorruptLog, match=ADA) as raised:
            scan(blobs)
        assert raised.value.facts["address"] == ADA
        reported: list[str] = []
        table = scan(blobs, on_corrupt=lambda address, _: reported.append(address))
        assert (reported, set(table["address"].to_pylist())) == ([ADA], {BOB})

    async def test_a_reader_gives_the_same_rows_and_may_be_left(self, blobs: Blobs) -> None:
        for number in range(20):
            with closing(log_of(blobs, f"/bot/b{number}")) as log:
                await log.wake("a", "b")
        assert scan_batches(blobs).read_all() == scan(blobs)
        scan_batches(blobs).close()
        assert scan_batches(blobs, types=["none such"]).read_all().num_rows == 0


async def append(log: Log, drafts: Sequence[Draft]) -> None:
    """A whole wake with one append."""
    owner = await log.claim()
    await owner.append(drafts)
    await owner.seal()


async def work(log: Log, acknowledged: list[int], *, wakes: int, crashing: bool) -> None:
    """So many wakes of three appends; note the offsets. ``crashing``: every fourth owner dies."""
    for number in range(wakes):
        owner = await log.claim()
        for row in range(3):
            events = await owner.append([message(f"{number}-{row}")])
            acknowledged += [event.offset for event in events]
        await (owner.abandon() if crashing and number % 4 == 0 else owner.seal())


def flip_a_bit(blobs: Blobs, name: str) -> None:
    """Damage a file in its middle."""
    data = bytearray(blobs.read(name) or b"")
    data[len(data) // 2] ^= 1
    blobs.delete(name)
    blobs.create(name, bytes(data))
