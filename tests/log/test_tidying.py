"""What merging leaves: few files, and the end of a long log in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from ray_agents.log.files import LogFiles, manifest_of
from ray_agents.log.manifest import FileEntry
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.tidying import SPLIT_ROWS_MIN, TAIL_ROWS
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


async def test_who_reads_the_end_of_a_long_log_does_not_read_the_rest(
    log: Log, blobs: FaultyBlobs
) -> None:
    await append(log, 2 * SPLIT_ROWS_MIN)
    await append(log, 1)
    long, tail = await sealed(log)
    blobs.delete(f"{log.folder}/{long.name}")
    found = await log.reader().read(tail.end - 10, limit=10)
    assert keys_of(found.events)[-1] == f"m{2 * SPLIT_ROWS_MIN - 1}"
