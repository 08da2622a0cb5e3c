"""A real local runtime for the tests on Ray: started, joined, killed by the piece, read, ended.

Importing it does not import Ray; using it does.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.launch import start_ray, stop_ray
from ray_agents.cluster.processes import trees_of
from ray_agents.cluster.running import find_running, recorded
from ray_agents.events import Event, MessageReceived, WakeRecorded
from ray_agents.log.owner import LogIO, read_head
from ray_agents.log.reader import LogReader
from ray_agents.log.store import open_blobs
from ray_agents.settings import Settings

if TYPE_CHECKING:
    from ray_agents.client import Client

ROOT = Path(__file__).parents[2]
HOST_TITLE = "ray::EntityHost"
KEEPER_TITLE = "ray::Keeper"
PATIENCE = timedelta(seconds=30)
LOOK_SECONDS = 0.02
T = TypeVar("T")


class Rig:
    """One store and the runtime that runs for it, if any."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    # -- up and down --------------------------------------------------------------------------

    def start(self) -> None:
        """Start Ray for the store; nobody joins it."""
        start_ray(self.settings)

    def stop(self) -> None:
        """End what runs."""
        self.kill_everything()
        if recorded(self.settings) is not None:
            stop_ray(self.settings)

    @contextmanager
    def joined(self) -> Iterator[Client]:
        """A client of the runtime, with the test types registered."""
        from ray_agents.client import Client, Detach
        from ray_agents.cluster.attach import ClusterRuntime, attach
        from tests.faults.kinds import SOURCE, registry

        attachment = attach(self.settings)
        with Client(
            ClusterRuntime(self.settings, attachment), Detach(self.settings, attachment)
        ) as client:
            client.register(registry, source=SOURCE)
            yield client

    def script(self, name: str, *args: str) -> subprocess.Popen[str]:
        """A driver in a process of its own: ``tests/faults/<name>.py``."""
        command = [sys.executable, "-m", f"tests.faults.{name}", self.settings.store, *args]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    # -- its processes ------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Every process of the runtime."""
        running = find_running(self.settings)
        return trees_of(running.processes) if running else []

    def titled(self, title: str) -> list[psutil.Process]:
        """The worker processes whose title begins so."""
        return [each for each in self.processes() if title_of(each).startswith(title)]

    def kill_everything(self) -> int:
        """SIGKILL for every process of the runtime; how many there were."""
        victims = self.processes()
        for process in victims:
            kill(process)
        psutil.wait_procs(victims, timeout=10)
        return len(victims)

    # -- its logs -----------------------------------------------------------------------------

    def log(self, address: str) -> list[Event]:
        """Every event of the entity's log, read from the files as anybody may."""
        return asyncio.run(_read_log(self.settings.store, Address.parse(address)))

    def sealed(self, address: str) -> bool:
        """Whether the newest segment of the entity's log ends cleanly."""
        return asyncio.run(_is_sealed(self.settings.store, Address.parse(address)))


def title_of(process: psutil.Process) -> str:
    """The title a process gave itself; empty if it has gone."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    return words[0] if words else ""


def kill(process: psutil.Process | int) -> None:
    """SIGKILL; a process that has gone is fine."""
    try:
        (psutil.Process(process) if isinstance(process, int) else process).kill()
    except psutil.NoSuchProcess:
        return


def pause(seconds: float) -> None:
    """Let time pass, for a trial that needs it to."""
    threading.Event().wait(seconds)


def eventually(look: Callable[[], T], *, within: timedelta = PATIENCE) -> T:
    """The first true answer of ``look``."""
    end = time.monotonic() + within.total_seconds()
    while not (answer := look()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {within}")
        pause(LOOK_SECONDS)
    return answer


def ids(events: list[Event]) -> list[str]:
    """The ids of the messages in a log, in order, repeated ones repeatedly."""
    return [event.key for event in events if event.type == MessageReceived.TYPE]


def rows(events: list[Event], collection: str = "notes") -> list[str]:
    """The keys of the rows inserted into a collection, in order."""
    return [event.key for event in events if event.type in (collection, f"state:{collection}")]


def wakes(events: list[Event]) -> list[WakeRecorded]:
    """Every record of a wake, in order."""
    return [WakeRecorded.of(event) for event in events if event.type == WakeRecorded.TYPE]


def closed_covers(events: list[Event]) -> dict[str, int]:
    """How many closed wakes cover each message."""
    ranges = [(wake.from_offset, wake.to_offset) for wake in wakes(events) if wake.closed]
    return {
        event.key: sum(1 for low, high in ranges if low <= event.offset < high)
        for event in events
        if event.type == MessageReceived.TYPE
    }


async def _read_log(store: str, address: Address) -> list[Event]:
    io = LogIO()
    try:
        reader = LogReader(open_blobs(store), entity_folder(address), io)
        events: list[Event] = []
        while more := (await reader.read(events[-1].offset + 1 if events else 0)).events:
            events += more
        return events
    finally:
        io.close()


async def _is_sealed(store: str, address: Address) -> bool:
    io = LogIO()
    try:
        head = await read_head(open_blobs(store), entity_folder(address), io=io)
        return head is not None and head.sealed
    finally:
        io.close()
