"""What merging leaves: few files, and the end of a long log in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from ray_agents.errors import CorruptLog
from ray_agents.log.files import LogFiles, manifest_of
from ray_agents.log.history import History
from ray_agents.log.manifest import FileEntry, Manifest
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.owner import Upkeep
from ray_agents.log.tidying import SNAPSHOT_ROWS_MIN, SPLIT_ROWS_MIN, TAIL_ROWS, Essence, is_due
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.log_suite import Log, keys_of, message


@pytest.fixture
def blobs() -> FaultyBlobs:
    return FaultyBlobs(MemoryBlobs())


@pytest.fixture
def log(blobs: FaultyBlobs) -> Iterator[Log]:
    with closing(Log(blobs)) as log:
        yield log


async def append(log: Log, count: int, *, name: str = "m") -> None:
    """One wake with so many messages, which tidies up in the end."""
    owner = await log.claim()
    await owner.append([message(f"{name}{n}") for n in range(count)])
    await owner.tidy_up()
    await owner.seal()


async def sealed(log: Log) -> list[FileEntry]:
    """The sealed files that the newest manifest lists."""
    await log.wake("newest")
    files = LogFiles(log.blobs, log.folder, kept=log.io.kept)
    segment = files.segment(files.newest_epoch())
    assert segment is not None
    return [entry for entry in manifest_of(segment).files if entry.rows and not entry.epoch]


async def test_the_end_of_a_long_log_is_merged_into_a_file_of_its_own(log: Log) -> None:
    await append(log, 2 * SPLIT_ROWS_MIN)
    await append(log, 1)
    long, tail = await sealed(log)
    assert tail.rows == TAIL_ROWS
    assert long.end <= tail.first


async def test_a_short_log_is_merged_into_one_file(log: Log) -> None:
    await append(log, SPLIT_ROWS_MIN // 2)
    await append(log, 1)
    assert len(await sealed(log)) == 1


async def test_the_number_of_files_grows_with_the_logarithm_of_the_rows(log: Log) -> None:
    for number in range(40):
        await append(log, SPLIT_ROWS_MIN // 4, name=f"m{number}-")
    assert len(await sealed(log)) <= 6


@pytest.mark.parametrize("place", ["sealed", "snapshots", "ids"])
async def test_what_no_manifest_came_to_name_goes_unless_a_later_owner_made_it(
    log: Log, blobs: FaultyBlobs, place: str
) -> None:
    dead, later = (f"{log.folder}/{place}/{n:016d}-{n:010d}-{0:016x}.arrow" for n in (1, 99))
    for name in (dead, later):
        blobs.create(name, b"")
    await append(log, 1)
    await append(log, 1)
    assert (blobs.exists(dead), blobs.exists(later)) == (False, True)


def test_what_is_not_merged_yet_is_too_old_for_no_retention() -> None:
    """It says nothing of its age; else every wake would tidy up."""
    segment = FileEntry(name="0000000001.arrows", end=1, rows=1, digest="0")
    upkeep = Upkeep(age=timedelta(seconds=1))
    assert not is_due(Manifest(epoch=2, files=(segment,)), upkeep, now=10**15)


async def let_go(log: Log, *, held_from: int) -> None:
    """Three wakes of a log that keeps next to nothing below that offset."""

    def essential(history: History) -> Essence:
        return Essence(offsets=history.offsets({"inbox"}), held_from=held_from)

    log.upkeep = Upkeep(essential=essential, bytes_max=1)
    for name in "abc":
        await append(log, 1, name=name)


async def test_what_a_wake_may_still_look_for_is_not_let_go(log: Log) -> None:
    await let_go(log, held_from=4)
    owner = await log.claim()
    assert owner.first == 2  # the next file ends behind what is held
    await owner.seal()


@pytest.mark.parametrize("damaged", [False, True])
async def test_without_the_snapshot_of_what_was_let_go_a_log_is_corrupt(
    log: Log, blobs: FaultyBlobs, damaged: bool
) -> None:
    await let_go(log, held_from=4)
    for name in blobs.names(f"{log.folder}/snapshots"):
        blobs.delete(f"{log.folder}/snapshots/{name}")
        if damaged:
            blobs.create(f"{log.folder}/snapshots/{name}", b"damaged")
    with pytest.raises(CorruptLog, match="/snapshots/"):
        await log.claim(summarise=True)
    with pytest.raises(CorruptLog, match="/snapshots/"):
        await log.reader().summary()


async def test_without_a_snapshot_the_whole_log_tells_the_state(
    log: Log, blobs: FaultyBlobs
) -> None:
    log.upkeep = Upkeep(essential=lambda _: Essence(offsets=[0], held_from=0))
    await append(log, SNAPSHOT_ROWS_MIN)
    await append(log, 1, name="last")
    owner = await log.claim(summarise=True)
    assert len(keys_of(owner.summary.read(0))) == 1
    await owner.seal()
    for name in blobs.names(f"{log.folder}/snapshots"):
        blobs.delete(f"{log.folder}/snapshots/{name}")
    owner = await log.claim(summarise=True)
    assert len(keys_of(owner.summary.read(0))) == SNAPSHOT_ROWS_MIN + 1
    await owner.seal()
    past = await log.reader().summary()
    assert len(keys_of(past.history.read(0))) == SNAPSHOT_ROWS_MIN + 1


async def test_who_reads_the_end_of_a_long_log_does_not_read_the_rest(
    log: Log, blobs: FaultyBlobs
) -> None:
    await append(log, 2 * SPLIT_ROWS_MIN)
    await append(log, 1)
    long, tail = await sealed(log)
    blobs.delete(f"{log.folder}/{long.name}")
    found = await log.reader().read(tail.end - 10, limit=10)
    assert keys_of(found.events)[-1] == f"m{2 * SPLIT_ROWS_MIN - 1}"
