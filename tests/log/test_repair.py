"""A torn tail is cut by taking the log over; nothing else is ever touched, nor a living owner."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from ray_agents.errors import Fenced
from ray_agents.findings import Fault, Verification
from ray_agents.log.examination import examine_log
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.log.repair import repair_found
from ray_agents.log.verification import verify_store
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.log_suite import FOLDER, Log, keys_of, message
from ray_agents.testing.lossy_blobs import LossyBlobs
from tests.log.trees import rewrite


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobs:
    return DirectoryBlobs(tmp_path)


@pytest.fixture
def log(blobs: DirectoryBlobs) -> Iterator[Log]:
    with closing(Log(blobs)) as log:
        yield log


def tree(root: Path) -> dict[Path, bytes]:
    """Every file and what is in it."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def segment(epoch: int) -> str:
    return f"{FOLDER}/{epoch:010d}.arrows"


async def torn_log(log: Log) -> None:
    """Two rows acknowledged, one cut short, its owner dead."""
    await log.wake("before")
    owner = await log.claim()
    for key in ("a", "b", "torn"):
        await owner.append([message(key)])
    await owner.abandon()
    rewrite(log.blobs, segment(2), lambda data: data[:-99])


async def repaired(log: Log, blobs: DirectoryBlobs) -> Verification:
    """Examine and repair."""
    found = examine_log(blobs, FOLDER, in_use=blobs.in_use)
    return await repair_found(blobs, found, in_use=blobs.in_use, clock=log.clock, io=log.io)


async def keys(log: Log) -> list[str]:
    return keys_of((await log.reader().read(0)).events)


async def test_a_torn_tail_is_cut_and_every_whole_append_stays(
    log: Log, blobs: DirectoryBlobs
) -> None:
    await torn_log(log)
    outcome = await repaired(log, blobs)
    assert (outcome.sound, outcome.repaired) == (True, (segment(2),))
    assert examine_log(blobs, FOLDER, in_use=blobs.in_use).sound
    assert await keys(log) == ["before", "a", "b"]
    await log.wake("after")
    assert await keys(log) == ["before", "a", "b", "after"]


class Half(Random):
    """Chance that lets names survive, and of what was not synced the first half."""

    def random(self) -> float:
        return 0.0

    def randint(self, a: int, b: int) -> int:
        return (a + b) // 2


async def test_a_repair_outlives_a_power_failure() -> None:
    def unused(_: str) -> bool:
        return False

    disk = LossyBlobs()
    with closing(Log(disk)) as log:
        await torn_log(log)
        found = examine_log(disk, FOLDER, in_use=unused)
        await repair_found(disk, found, in_use=unused, clock=log.clock, io=log.io)
    assert examine_log(disk.after_power_loss(Half()), FOLDER, in_use=unused).sound


async def test_a_first_frame_cut_short_is_cut(log: Log, blobs: DirectoryBlobs) -> None:
    owner = await log.claim()
    await owner.append([message("torn")])
    await owner.abandon()
    rewrite(blobs, segment(1), lambda data: data[:-99])
    assert (await repaired(log, blobs)).repaired == (segment(1),)
    assert await keys(log) == []


async def test_the_owner_of_a_torn_tail_that_lives_is_left_alone(
    log: Log, blobs: DirectoryBlobs, tmp_path: Path
) -> None:
    owner = await log.claim()
    await owner.append([message("a")])
    with (tmp_path / segment(1)).open("ab") as file:
        file.write(bytes(40))
    found = examine_log(blobs, FOLDER, in_use=lambda _: False)
    assert [each.fault for each in found.findings] == [Fault.TORN]
    before = tree(tmp_path)
    await repair_found(blobs, found, in_use=blobs.in_use, clock=log.clock, io=log.io)
    assert tree(tmp_path) == before
    await owner.abandon()


async def test_beside_corruption_nothing_is_touched(
    log: Log, blobs: DirectoryBlobs, tmp_path: Path
) -> None:
    await torn_log(log)
    rewrite(blobs, segment(1), lambda data: data[:1500] + b"?" + data[1501:])
    before = tree(tmp_path)
    outcome = await repaired(log, blobs)
    assert {each.fault for each in outcome.findings} == {Fault.CORRUPT, Fault.TORN}
    assert "something else is wrong" in outcome.findings[-1].remedy
    assert (outcome.repaired, tree(tmp_path)) == ((), before)


async def test_a_log_claimed_by_one_who_has_not_begun_is_left_to_the_next_wake(
    log: Log, blobs: DirectoryBlobs, tmp_path: Path
) -> None:
    await torn_log(log)
    await log.claim_only()
    before = tree(tmp_path)
    outcome = await repaired(log, blobs)
    assert "not begun" in outcome.findings[0].remedy
    assert tree(tmp_path) == before


async def test_whoever_takes_the_log_over_first_cuts_it(log: Log, blobs: DirectoryBlobs) -> None:
    await torn_log(log)
    found = examine_log(blobs, FOLDER, in_use=blobs.in_use)
    late = FaultyBlobs(blobs)
    taker = Log(blobs)
    late.meanwhile["create"] = lambda: asyncio.run(taker.wake("taken over"))
    outcome = await repair_found(late, found, in_use=blobs.in_use, clock=log.clock, io=log.io)
    taker.close()
    assert "meanwhile" in outcome.findings[0].remedy
    assert await keys(log) == ["before", "a", "b", "taken over"]
    assert examine_log(blobs, FOLDER, in_use=blobs.in_use).sound


async def test_a_living_owner_that_is_taken_for_dead_loses_no_row(
    log: Log, blobs: DirectoryBlobs, tmp_path: Path
) -> None:
    """As on a medium without locks: the claim fences it off."""
    owner = await log.claim()
    await owner.append([message("a")])
    with (tmp_path / segment(1)).open("ab") as file:
        file.write(bytes(40))
    found = examine_log(blobs, FOLDER, in_use=lambda _: False)
    await repair_found(blobs, found, in_use=lambda _: False, clock=log.clock, io=log.io)
    with pytest.raises(Fenced):
        await owner.append([message("late")])
    await owner.abandon()
    assert await keys(log) == ["a"]


async def test_a_file_is_in_use_while_a_process_has_it_open(
    log: Log, blobs: DirectoryBlobs, tmp_path: Path
) -> None:
    assert not blobs.in_use(segment(1))
    owner = await log.claim()
    assert not blobs.in_use(segment(1))
    await owner.append([message("a")])
    assert blobs.in_use(segment(1))
    await owner.seal()
    assert not blobs.in_use(segment(1))


OPEN_AND_WAIT = """
import sys
from pathlib import Path
from ray_agents.log.posix import DirectoryBlobs
file = DirectoryBlobs(Path(sys.argv[1])).append(sys.argv[2])
print("open", flush=True)
sys.stdin.read()
"""


def test_the_kernel_lets_go_of_what_a_killed_process_had_open(
    blobs: DirectoryBlobs, tmp_path: Path
) -> None:
    blobs.create("f", b"")
    command = [sys.executable, "-c", OPEN_AND_WAIT, str(tmp_path), "f"]
    clone = Path(__file__).parents[2]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=clone, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        assert blobs.in_use("f")
        process.kill()
        process.wait()
    assert not blobs.in_use("f")


async def test_only_the_torn_logs_of_a_store_are_taken_over(
    log: Log, blobs: DirectoryBlobs, tmp_path: Path
) -> None:
    await torn_log(log)
    with closing(Log(blobs, folder="entities/note/00/other")) as other:
        await other.wake("m")
        (tmp_path / "FORMAT").write_bytes(b"damaged")
        before = tree(tmp_path / other.folder)
        found = verify_store(blobs, in_use=blobs.in_use)
        outcome = await repair_found(blobs, found, in_use=blobs.in_use, clock=log.clock, io=log.io)
        assert [each.file for each in outcome.findings] == ["FORMAT"]
        assert tree(tmp_path / other.folder) == before
