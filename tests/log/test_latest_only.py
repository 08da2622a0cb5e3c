"""A log that is only asked for the newest row of each key keeps nothing else, and loses nothing."""

from __future__ import annotations

from random import Random

import pytest

from ray_agents.cluster.clock import SystemClock
from ray_agents.events import Draft, Operation
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.owner import Claim, LogIO, LogOwner, Upkeep, read_head
from ray_agents.log.reader import LogReader
from ray_agents.ports import Blobs

FOLDER = "small"


async def claim(blobs: Blobs, io: LogIO, number: int) -> LogOwner:
    return await LogOwner.claim(
        blobs,
        FOLDER,
        head=await read_head(blobs, FOLDER, io=io),
        claim=Claim(host="h", token=f"token {number}"),
        clock=SystemClock(),
        io=io,
        upkeep=Upkeep(latest_only=True),
    )


@pytest.mark.parametrize("seed", range(5))
async def test_the_newest_row_of_each_key_survives_however_owners_end(seed: int) -> None:
    random, blobs, io = Random(seed), MemoryBlobs(), LogIO()
    expected: dict[str, int] = {}
    for number in range(12):
        owner = await claim(blobs, io, number)
        rows = random.choice([0, 0, 5, 5, 600])
        for value in range(rows):
            key = f"k{random.randrange(20)}"
            gone = random.random() < 0.3
            operation = Operation.DELETE if gone else Operation.UPSERT
            await owner.append([Draft.of("row", key, value=value, operation=operation)])
            expected.pop(key, None)
            if not gone:
                expected[key] = value
        assert {e.key: e.value for e in owner.history.latest({"row"})} == expected
        await (owner.abandon() if rows and random.random() < 0.5 else owner.seal())
    owner = await claim(blobs, io, 99)
    rows = owner.history.read(0, types={"row"})
    assert {event.key: event.value for event in rows} == expected
    assert len(rows) == len(expected)
    await owner.append([Draft.of("row", "last", value=0)])
    reading = await LogReader(blobs, FOLDER, io).read(0)
    assert {e.key: e.value for e in reading.events if e.type == "row"} == expected | {"last": 0}
    await owner.seal()
    assert len(blobs.names(FOLDER)) + len(blobs.names(f"{FOLDER}/sealed")) <= 3
    io.close()
