"""A process is killed in the midst of appending to a real directory: nothing it said is untrue."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from ray_agents.findings import Fault
from ray_agents.log.examination import examine_log
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.log.repair import repair_found
from ray_agents.log.segment import segment_name
from ray_agents.testing.log_suite import FOLDER, Log, keys_of

APPENDS_WITHOUT_END = """
import asyncio, sys
from pathlib import Path
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.testing.log_suite import Log, message

async def main():
    log = Log(DirectoryBlobs(Path(sys.argv[1])))
    owner = await log.claim()
    for number in range(1_000_000):
        appends = [owner.enqueue([message(f"{sys.argv[2]}-{number}-{n}")]) for n in range(3)]
        for appending in appends:
            for event in await appending.durable():
                print(event.key, flush=True)

asyncio.run(main())
"""


def kill_after(root: Path, name: str, *, lines: int) -> list[str]:
    """What a process said to be durable before it was killed; the last line may be cut."""
    command = [sys.executable, "-c", APPENDS_WITHOUT_END, str(root), name]
    clone = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=clone) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    return [line.strip() for line in said if line.endswith("\n")]


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_when_its_owner_is_killed(tmp_path: Path) -> None:
    said: list[str] = []
    for number, lines in enumerate((1, 40, 333)):
        said += kill_after(tmp_path, f"owner-{number}", lines=lines)
        with closing(Log(DirectoryBlobs(tmp_path))) as log:
            read = keys_of((await log.reader().read(0, limit=100_000)).events)
        assert [key for key in read if key in set(said)] == said
    assert len(said) >= 374


LOOKS = 30


def examine_until_killed(root: Path) -> list[str]:
    """Examine the log of a process that appends, then kill it; what it said to be durable."""
    blobs = DirectoryBlobs(root)
    command = [sys.executable, "-c", APPENDS_WITHOUT_END, str(root), "owner"]
    clone = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=clone) as process:
        assert process.stdout is not None
        said = [process.stdout.readline()]
        for _ in range(LOOKS):
            assert examine_log(blobs, FOLDER, in_use=blobs.in_use).sound
        assert blobs.in_use(segment_name(FOLDER, 1))
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    return [line.strip() for line in said if line.endswith("\n")]


@pytest.mark.slow
async def test_an_appending_process_is_no_fault_and_its_torn_tail_is_cut(tmp_path: Path) -> None:
    said, blobs = examine_until_killed(tmp_path), DirectoryBlobs(tmp_path)
    with (tmp_path / segment_name(FOLDER, 1)).open("ab") as file:
        file.write(bytes(50))
    found = examine_log(blobs, FOLDER, in_use=blobs.in_use)
    assert [each.fault for each in found.findings] == [Fault.TORN]
    with closing(Log(blobs)) as log:
        done = await repair_found(blobs, found, in_use=blobs.in_use, clock=log.clock, io=log.io)
        read = keys_of((await log.reader().read(0, limit=10**6)).events)
    assert done.sound
    assert set(read) >= set(said)
