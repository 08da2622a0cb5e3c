"""A process is killed in the midst of appending to a real directory: nothing it said is untrue."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from ray_agents.log.posix import DirectoryBlobs
from ray_agents.testing.log_suite import Log, keys_of

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


async def test_nothing_acknowledged_is_lost_when_its_owner_is_killed(tmp_path: Path) -> None:
    said: list[str] = []
    for number, lines in enumerate((1, 40, 333)):
        said += kill_after(tmp_path, f"owner-{number}", lines=lines)
        with closing(Log(DirectoryBlobs(tmp_path))) as log:
            read = keys_of((await log.reader().read(0, limit=100_000)).events)
        assert [key for key in read if key in set(said)] == said
    assert len(said) >= 374
