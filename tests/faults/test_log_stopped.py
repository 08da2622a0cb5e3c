"""Owners that are real processes, each stopped in the midst of appending and continued too late.

``STOPPED_ROUNDS=2000 .venv/bin/pytest -n 0 -m slow tests/faults/test_log_stopped.py`` does many.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from ray_agents.log.posix import DirectoryBlobs
from ray_agents.testing.log_suite import Log

ROUNDS = int(os.environ.get("STOPPED_ROUNDS", "10"))
MOMENT_MAX = 0.004  # seconds: an append takes about two of these thousandths

APPENDS_UNTIL_FENCED = """
import asyncio, sys
from pathlib import Path
from ray_agents.errors import Fenced
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.testing.log_suite import Log, message

async def own(name):
    log = Log(DirectoryBlobs(Path(sys.argv[1]), prompt=True))
    owner = await log.claim(token=name)
    try:
        for number in range(1_000_000):
            for event in await owner.append([message(f"{name}-{number}")]):
                print("ack", event.offset, event.key, flush=True)
    except Fenced:
        print("fenced", flush=True)
    await owner.seal()
    log.close()

for line in sys.stdin:
    asyncio.run(own(line.strip()))
"""


class OwnerProcess:
    """A process that claims when told to, and appends until it is fenced."""

    def __init__(self, process: subprocess.Popen[str], acknowledged: dict[int, str]) -> None:
        self._process = process
        self._acknowledged = acknowledged

    def claim(self, token: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(token + "\n")
        self._process.stdin.flush()

    def acknowledges(self) -> bool:
        """Wait for one more acknowledgement; False if it says that it was fenced instead."""
        assert self._process.stdout is not None
        what, *rest = self._process.stdout.readline().split() or ["ended"]
        if what == "ack":
            offset, key = int(rest[0]), rest[1]
            assert offset not in self._acknowledged
            self._acknowledged[offset] = key
        assert what in ("ack", "fenced"), what
        return what == "ack"

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def owner_process(root: Path, acknowledged: dict[int, str]) -> Generator[OwnerProcess]:
    command = [sys.executable, "-c", APPENDS_UNTIL_FENCED, str(root)]
    pipe, root_of_repository = subprocess.PIPE, Path(__file__).parents[2]
    with subprocess.Popen(
        command, text=True, cwd=root_of_repository, stdin=pipe, stdout=pipe
    ) as process:
        try:
            yield OwnerProcess(process, acknowledged)
        finally:
            process.kill()


def let_pass(seconds: float) -> None:
    """An instant too short to be waited for."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.mark.slow
@pytest.mark.timeout(60 + ROUNDS)
async def test_an_owner_that_was_stopped_too_long_acknowledges_nothing(tmp_path: Path) -> None:
    chance, acknowledged = Random(7), dict[int, str]()
    with ExitStack() as stack:
        owners = [stack.enter_context(owner_process(tmp_path, acknowledged)) for _ in range(2)]
        owners[0].claim("round-0")
        assert owners[0].acknowledges()
        for number in range(1, ROUNDS + 1):
            old, new = owners if number % 2 else reversed(owners)
            for _ in range(chance.randrange(4)):
                assert old.acknowledges()
            let_pass(chance.random() * MOMENT_MAX)
            old.stop()
            new.claim(f"round-{number}")
            for _ in range(chance.randint(1, 3)):
                assert new.acknowledges()
            old.go_on()
            while old.acknowledges():
                pass
    with closing(Log(DirectoryBlobs(tmp_path))) as log:
        last = await log.claim()
        history = last.history.read(0, types={"inbox"})
        await last.seal()
        read = (await log.reader().read(0, limit=10**6)).events
    found = {event.offset: event.key for event in history}
    assert len(set(found.values())) == len(found) == len(history)
    assert {offset: found.get(offset) for offset in acknowledged} == acknowledged
    assert {event.offset for event in read if event.type == "inbox"} <= set(found)
    assert len(acknowledged) > 2 * ROUNDS
