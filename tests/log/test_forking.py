"""A log that begins with the rows of another has exactly those, whatever becomes of either."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_agents.errors import StoreUnavailable
from ray_agents.events import Draft, Event
from ray_agents.log import tidying
from ray_agents.log.examination import examine_log
from ray_agents.log.forking import Beginning, Inheritance, begin_log, first_events
from ray_agents.log.history import History
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.owner import Claim, LogIO
from ray_agents.log.store import open_blobs
from ray_agents.log.tidying import Essence, Upkeep
from ray_agents.ports import Blobs
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.log_suite import Log, keys_of, message
from ray_agents.testing.lossy_blobs import LossyBlobs

SOURCE, TARGET = "entities/t/00/source", "entities/t/00/target"
FIRST = Draft.of("note", "first", value="of the fork's own")
ends = st.lists(st.sampled_from(["tidy", "tidy", "seal", "abandon", "unbegun"]), max_size=45)


def essential(history: History) -> Essence:
    """The newest row of each key is the state."""
    return Essence(offsets={e.offset for e in history.latest({"inbox"})}, held_from=1 << 62)


UPKEEP = Upkeep(essential=essential)


@pytest.fixture(autouse=True, scope="module")
def tidying_is_early() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tidying, "SNAPSHOT_ROWS_MIN", 8)
        patch.setattr(tidying, "UNMERGED_SEGMENTS_MAX", 5)
        yield


async def write(log: Log, how: list[str], *, prefix: str) -> None:
    """Wakes that end as told, each with some appends."""
    for number, end in enumerate(how):
        owner = await log.claim(upkeep=UPKEEP)
        for part in range(number % 3 if end != "unbegun" else 0):
            await owner.append([message(f"{prefix}{number}-{part}"), message(f"{number}")])
        if end == "tidy" and not owner.tidy:
            await owner.tidy_up()
        await (owner.seal() if end in ("seal", "tidy") else owner.abandon())


async def rows_of(log: Log) -> list[Event]:
    return (await log.reader().read(0, limit=100_000)).events


async def fork(source: Log, folder: str, *, at: int | None = None) -> int:
    """Fork a log; the offset at which it was."""
    reader = source.reader()
    past = await reader.past()
    offset = past.tip if at is None else at
    inheritance = Inheritance(reader, source.blobs, source=source.folder, folder=folder)
    beginning = Beginning(epoch=1, offset=offset, time=past.last_time)
    beginning = await source.io.run(inheritance.taken, beginning)
    events = first_events(beginning, [FIRST])
    claim = Claim(host="fork", token=folder)
    assert await source.io.run(begin_log, source.blobs, folder, events=events, claim=claim)
    return offset


def sound(blobs: Blobs, folder: str) -> bool:
    return examine_log(blobs, folder, in_use=lambda _: False).sound


async def check(how: list[str], then: list[str], choice: float) -> None:
    blobs = MemoryBlobs()
    with closing(LogIO(threads_max=1)) as io:
        source, target = (Log(blobs, folder=folder, io=io) for folder in (SOURCE, TARGET))
        await write(source, [*how, "seal"], prefix="before ")
        tip = (await source.reader().read(0)).tip
        at = round(tip * choice)
        inherited = [event for event in await rows_of(source) if event.offset < at]
        await fork(source, TARGET, at=at)
        rows = await rows_of(target)
        assert [event for event in rows if event.offset < at] == inherited
        assert [event.offset for event in rows[len(inherited) :]] == [at, at + 1]
        await write(source, then, prefix="source ")
        await write(target, then, prefix="fork ")
        for name in blobs.names(f"{SOURCE}/sealed"):
            blobs.delete(f"{SOURCE}/sealed/{name}")
        rows = await rows_of(target)
        assert [event for event in rows if event.offset < at] == inherited
        assert not [key for key in keys_of(rows) if key.startswith("source")]
        assert sound(blobs, TARGET)


async def test_a_fork_at_the_first_offset_of_a_file_has_nothing_of_that_file() -> None:
    with closing(Log(MemoryBlobs(), folder=SOURCE)) as source:
        await source.wake("a")
        at = (await source.wake("b")).history.read(2)[0].offset  # of its manifest
        await source.wake("c")
        await fork(source, TARGET, at=at)
        with closing(Log(source.blobs, folder=TARGET)) as target:
            assert [event.offset for event in await rows_of(target)] == [0, 1, at, at + 1]


async def test_a_fork_of_what_was_does_not_begin_with_what_is() -> None:
    """The source's snapshot tells of rows that the fork does not have."""
    with closing(Log(MemoryBlobs(), folder=SOURCE)) as source:
        await write(source, ["tidy"] * 12, prefix="m")
        assert (await source.reader().summary()).since > 6
        await fork(source, TARGET, at=6)
        with closing(Log(source.blobs, folder=TARGET)) as target:
            past = await target.reader().summary()
            assert past.since == 0
            assert max(event.offset for event in past.history.read(0)) == 7


@pytest.mark.slow
@given(how=ends, then=ends, choice=st.floats(0, 1))
def test_a_fork_has_the_rows_of_its_source_below_an_offset_for_good(
    how: list[str], then: list[str], choice: float
) -> None:
    asyncio.run(check(how, then, choice))


@pytest.fixture(params=["memory", "directory"])
def blobs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Blobs:
    if request.param == "memory":
        return MemoryBlobs()
    return open_blobs(str(tmp_path_factory.mktemp("store")))


@pytest.fixture
def source(blobs: Blobs) -> Iterator[Log]:
    log = Log(blobs, folder=SOURCE)
    yield log
    log.close()


async def test_a_fork_of_a_merged_log_copies_no_merged_row(source: Log) -> None:
    await write(source, ["tidy"] * 40, prefix="m")
    counting = FaultyBlobs(source.blobs)
    await fork(Log(counting, folder=SOURCE, io=source.io), TARGET)
    inherited = [
        source.blobs.names(f"{SOURCE}/sealed"),
        source.blobs.names(f"{SOURCE}/snapshots"),
    ]
    assert counting.calls["link"] == sum(map(len, inherited))
    assert all(inherited)  # rows and their indexes, and a snapshot
    assert counting.calls["create"] == 3  # what is not merged yet, its index, the first segment


async def test_a_fork_outlives_its_source(source: Log) -> None:
    await write(source, ["tidy"] * 40, prefix="m")
    rows, at = await rows_of(source), await fork(source, TARGET)
    for folder in (f"{SOURCE}/sealed", SOURCE):
        for name in source.blobs.names(folder):
            source.blobs.delete(f"{folder}/{name}")
    target = Log(source.blobs, folder=TARGET)
    assert [event for event in await rows_of(target) if event.offset < at] == rows
    target.close()


async def test_a_fork_that_meets_a_merge_looks_again(source: Log) -> None:
    """Seventeen wakes more, and every listed file is another, in the midst of linking."""
    await write(source, ["tidy"] * 40, prefix="m")
    rows = await rows_of(source)
    faulty = FaultyBlobs(source.blobs)
    elsewhere = Log(source.blobs, folder=SOURCE)

    def merge() -> None:
        asyncio.run(write(elsewhere, ["tidy"] * 17, prefix="later "))

    faulty.meanwhile["link"] = merge
    at = await fork(Log(faulty, folder=SOURCE, io=source.io), TARGET)
    target = Log(source.blobs, folder=TARGET)
    assert [event for event in await rows_of(target) if event.offset < at] == rows
    target.close()
    elsewhere.close()


async def test_a_log_is_begun_once_and_where_there_is_none(source: Log) -> None:
    await write(source, ["seal"], prefix="m")
    await fork(source, TARGET)
    with pytest.raises(AssertionError):
        await fork(source, TARGET)
    claimed = Log(source.blobs, folder="entities/t/00/claimed")
    await write(claimed, ["unbegun"], prefix="")
    with pytest.raises(AssertionError):
        await fork(source, claimed.folder)
    claimed.close()


async def test_a_fork_that_breaks_off_leaves_nothing_or_all_of_it() -> None:
    """The power fails at every call in turn; what is found is no log or a whole one."""
    seen: set[bool] = set()
    for calls in range(200):
        blobs = LossyBlobs()
        source = Log(blobs, folder=SOURCE)
        await write(source, ["tidy"] * 20, prefix="m")
        rows = await rows_of(source)
        blobs.calls_left = calls
        acknowledged = False
        try:
            await fork(source, TARGET)
            acknowledged = True
        except StoreUnavailable:
            pass
        source.close()
        found = blobs.after_power_loss(Random(calls))
        target = Log(found, folder=TARGET)
        inherited = [event for event in await rows_of(target) if event.offset <= rows[-1].offset]
        assert inherited == (rows if inherited or acknowledged else [])
        assert sound(found, TARGET)
        seen.add(bool(inherited))
        target.close()
        if acknowledged:
            break
    assert seen == {False, True}


async def test_who_claims_in_the_same_instant_has_the_log_and_loses_nothing() -> None:
    """An import begins far beyond; a spawn at the first epoch has not seen it."""
    for epoch in (1, 1000):
        faulty = FaultyBlobs(blobs := MemoryBlobs())
        other = Log(blobs, folder=TARGET)
        faulty.meanwhile["create"] = lambda log=other: asyncio.run(
            write(log, ["seal"] * 2, prefix="")
        )
        events = first_events(Beginning(epoch=epoch, offset=0, time=1), [FIRST])
        claim = Claim(host="import", token="mine")
        assert not await asyncio.to_thread(begin_log, faulty, TARGET, events=events, claim=claim)
        assert keys_of(await rows_of(other)) == ["1-0", "1"]
        assert sound(blobs, TARGET)
        other.close()
