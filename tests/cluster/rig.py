"""A real local runtime for the tests on Ray: started, joined, killed by the piece, read, ended.

Importing it does not import Ray; using it does.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psutil

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.cluster.launch import start_ray, stop_ray
from ray_agents.cluster.processes import trees_of
from ray_agents.cluster.running import find_running, recorded
from ray_agents.cluster.untyped import import_ray
from ray_agents.events import Event, MessageReceived, WakeRecorded
from ray_agents.log.owner import LogIO, read_head
from ray_agents.log.reader import LogReader
from ray_agents.log.store import open_blobs
from ray_agents.settings import Settings, to_env

if TYPE_CHECKING:
    from ray_agents.client import Client

ROOT = Path(__file__).parents[2]
HOST_TITLE = "ray::ray-agents host"
KEEPER_TITLE = "ray::Keeper"
PATIENCE = timedelta(seconds=30)
LOOK_SECONDS = 0.02
T = TypeVar("T")


class Rig:
    """One store and the runtime that runs for it, if any."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._keeper: Any = None
        self._runtime: Any = None

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
    def joined(self) -> Generator[Client]:
        """A client of the runtime, with the test types registered."""
        from ray_agents.client import Client
        from ray_agents.cluster.attach import ClusterRuntime, attach
        from tests.faults.kinds import SOURCE, registry

        attachment = attach(self.settings)
        runtime = ClusterRuntime(self.settings, attachment)
        self._keeper = runtime.directory.keeper()
        self._runtime = runtime
        with Client(runtime, attachment.detach) as client:
            client.register(registry, source=SOURCE)
            yield client

    def keeper_status(self) -> dict[str, Any]:
        """What the keeper sees; while this process has joined."""
        return import_ray().get(self._keeper.status.remote())

    def models_status(self) -> dict[str, Any]:
        """What the gateway tells of each model; while this process has joined."""
        return asyncio.run(self._runtime.models_status())

    def driver(self, environment: Mapping[str, str] | None = None) -> Driver:
        """A user's program in a process of its own, joined."""
        return Driver(self.settings, environment or {})

    def seal_and_stop(self) -> dict[str, Any]:
        """What ``ray-agents stop`` does, in a process of its own; what it says."""
        command = [*driver_command(self.settings), "stop"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

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

    def said(self) -> str:
        """What the processes wrote to their error files."""
        running = recorded(self.settings)
        assert running is not None
        files = Path(running.directory).glob("session_*/logs/worker*.err")
        return "".join(path.read_text(errors="replace") for path in {f.resolve() for f in files})

    # -- its logs -----------------------------------------------------------------------------

    def log(self, address: str) -> list[Event]:
        """Every event of the entity's log, read from the files as anybody may."""
        return asyncio.run(read_log(self.settings.store, Address.parse(address)))

    def sealed(self, address: str) -> bool:
        """Whether the newest segment of the entity's log ends cleanly."""
        return asyncio.run(_is_sealed(self.settings.store, Address.parse(address)))


def driver_command(settings: Settings) -> list[str]:
    """How to run ``tests/faults/driver.py`` for these settings."""
    return [sys.executable, "-m", "tests.faults.driver", json.dumps(to_env(settings))]


class Driver:
    """Tells a driver process what to do; see ``tests/faults/driver.py``."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            driver_command(settings),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.ready = float(self._answer())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        kill(self._process.pid)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps([verb, args, options]) + "\n")
            self._process.stdin.flush()
            return self._answer()

        return call

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer = json.loads(line)
                assert "ok" in answer, answer["error"]
                return answer["ok"]
        raise AssertionError("the driver has ended")


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


async def read_log(store: str, address: Address) -> list[Event]:
    """Every event of an entity's log, read from the files as anybody may."""
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
