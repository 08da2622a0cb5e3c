"""A live segment that ends too early: what is whole is kept, what is torn is cut, and goes on.

Cut at every byte of the last three appends, or ended in zeros: readers, the next owner and a repair
agree on the rows. A hole or garbage before a whole frame is corruption: refused, and never cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from random import Random

import pytest

from ray_agents.errors import CorruptLog
from ray_agents.events import Draft, Event
from ray_agents.findings import Fault
from ray_agents.log.examination import examine_log
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.owner import LogIO, LogOwner
from ray_agents.log.repair import repair_log
from ray_agents.log.segment import MANIFEST_ROW, SEALED_ROW, parse_segment
from ray_agents.testing.log_suite import FOLDER, Log, message

BEFORE = f"{FOLDER}/0000000001.arrows"
NAME = f"{FOLDER}/0000000002.arrows"
LAST = 3
REPAIRED_EACH = 8


@dataclass(frozen=True, slots=True)
class Crashed:
    """A log whose owner died; ``ends`` are the ends of its appends, ``rows`` those up to each."""

    before: bytes
    data: bytes
    ends: tuple[int, ...]
    rows: tuple[tuple[Event, ...], ...]
    io: LogIO

    def left(self, data: bytes) -> Log:
        """The log with ``data`` in its newest segment."""
        blobs = MemoryBlobs()
        blobs.create(BEFORE, self.before)
        blobs.create(NAME, data)
        return Log(blobs, io=self.io)

    def whole(self, length: int) -> tuple[Event, ...]:
        """The rows of the appends that end within the first ``length`` bytes."""
        return self.rows[sum(end <= length for end in self.ends)]

    def last_bytes(self) -> range:
        """Every length at which the last three appends are cut."""
        return range(self.ends[-LAST - 1], len(self.data))


APPENDS: list[list[Draft]] = [
    [message("a")],
    [message(f"b{n}", "x" * 40 * n) for n in range(5)],
    [message("c", "✓" * 100), message("d")],
    [message("e")],
]


async def _crash(io: LogIO, *, clean: bool) -> Crashed:
    log = Log(MemoryBlobs(), io=io)
    await log.wake("before")
    ends, rows = list[int](), [tuple(await _served(log))]
    owner = await log.claim()
    for drafts in APPENDS:
        await owner.append(drafts)
        ends.append(len(log.blobs.read(NAME) or b""))
        rows.append(tuple(await _served(log)))
    await (owner.seal() if clean else owner.abandon())
    data = log.blobs.read(NAME) or b""
    if clean:
        ends.append(len(data))
        rows.append(rows[-1])
    return Crashed(log.blobs.read(BEFORE) or b"", data, tuple(ends), tuple(rows), io)


async def _served(log: Log) -> list[Event]:
    return (await log.reader().read(0, limit=10**6)).events


@pytest.fixture(scope="module", params=["died", "sealed"])
def crashed(request: pytest.FixtureRequest) -> Iterator[Crashed]:
    with closing(LogIO(threads_max=1, kept_bytes_max=0)) as io:
        yield asyncio.run(_crash(io, clean=request.param == "sealed"))


def nobody(name: str) -> bool:
    """Whether anybody has the file open: they are all dead."""
    return False


async def goes_on(log: Log, expected: tuple[Event, ...]) -> None:
    """Readers and the next owners find ``expected``; appends follow, and nothing is taken back."""
    reader = log.reader()
    assert tuple((await reader.read(0, limit=10**6)).events) == expected
    owner = await log.claim()
    assert tuple(_adopted(owner)) == expected
    new = await owner.append([message("new")])
    assert new[0].offset > expected[-1].offset
    await owner.seal()
    served = await _served(log)
    assert served == (await reader.read(0, limit=10**6)).events
    assert tuple(served[: len(expected)]) == expected
    assert served[-1] == new[0]


def _adopted(owner: LogOwner) -> list[Event]:
    """The rows it found, without its own manifest."""
    rows = [event for event in owner.history.read(0) if event.type != SEALED_ROW]
    own = rows[-1].type == MANIFEST_ROW and rows[-1].value["epoch"] == owner.epoch
    return rows[:-1] if own else rows


async def check_cut(crashed: Crashed, length: int) -> None:
    """One cut: it is told, it may be repaired, and the log goes on."""
    expected = crashed.whole(length)
    log = crashed.left(crashed.data[:length])
    found = examine_log(log.blobs, FOLDER, in_use=nobody).findings
    is_torn = length not in crashed.ends
    assert [each.fault for each in found] == [Fault.TORN] * is_torn
    await goes_on(log, expected)
    assert examine_log(log.blobs, FOLDER, in_use=nobody).sound
    if is_torn and length % REPAIRED_EACH == 0:
        await repairs(crashed.left(crashed.data[:length]), expected)


async def repairs(log: Log, expected: tuple[Event, ...]) -> None:
    """A repair cuts the tail, and nothing else."""
    done = await repair_log(log.blobs, FOLDER, in_use=nobody, clock=log.clock, io=log.io)
    assert (done.repaired, done.findings) == ((NAME,), ())
    assert tuple(await _served(log))[: len(expected)] == expected


async def test_cut_at_some_bytes_of_its_last_three_appends(crashed: Crashed) -> None:
    lengths = crashed.last_bytes()
    for length in (*lengths[::160], *crashed.ends[-LAST:], *(end - 1 for end in crashed.ends[1:])):
        await check_cut(crashed, length)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_cut_at_every_byte_of_its_last_three_appends(crashed: Crashed) -> None:
    for length in crashed.last_bytes():
        try:
            await check_cut(crashed, length)
        except (AssertionError, CorruptLog) as error:
            raise AssertionError(f"cut at byte {length} of {len(crashed.data)}") from error


@pytest.mark.parametrize("count", [1, 7, 600, 8192])
async def test_a_tail_of_zeros_is_cut(crashed: Crashed, count: int) -> None:
    for end in crashed.ends[-LAST - 1 : len(APPENDS)]:
        await goes_on(crashed.left(crashed.data[:end] + bytes(count)), crashed.whole(end))


async def test_a_first_frame_that_is_torn_leaves_the_log_as_it_was_before(
    crashed: Crashed,
) -> None:
    start = len(parse_segment(NAME, crashed.data).preamble.data)
    for length in range(start + 1, crashed.ends[0], 97):
        await check_cut(crashed, length)


async def refused(crashed: Crashed, data: bytes) -> None:
    """Nobody reads beyond it, nobody claims over it, no repair touches it."""
    log = crashed.left(data)
    found = await repair_log(log.blobs, FOLDER, in_use=nobody, clock=log.clock, io=log.io)
    assert [each.fault for each in found.findings] == [Fault.CORRUPT]
    with pytest.raises(CorruptLog):
        await _served(log)
    with pytest.raises(CorruptLog):
        await log.claim()
    assert log.blobs.read(NAME) == data
    assert log.blobs.names(FOLDER) == ["0000000001.arrows", "0000000002.arrows"]


@pytest.mark.parametrize("filling", ["zeros", "garbage", "nothing"])
async def test_a_hole_before_a_whole_frame_is_never_cut(crashed: Crashed, filling: str) -> None:
    """At every place in the frames before the last one: bytes are lost, the last frame stands."""
    chance = Random(filling)
    low, high = crashed.ends[-LAST - 1], crashed.ends[-2]
    for start in range(low, high, 113):
        stop = high if filling == "nothing" else chance.randint(start + 1, high)
        while not crashed.data[start:stop].strip(b"\0"):
            stop += 1  # zeros in place of padding would be no damage
        size = stop - start
        inside = {"zeros": bytes(size), "garbage": chance.randbytes(size), "nothing": b""}[filling]
        if start == low and filling == "nothing":
            continue  # an append that is gone altogether leaves no hole
        await refused(crashed, crashed.data[:start] + inside + crashed.data[stop:])
