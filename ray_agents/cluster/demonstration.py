"""``ray-agents demo``: the main job from end to end, for a newcomer to watch.

An agent takes a message, thinks, calls a tool, answers, and goes to sleep: its process is gone.
Then every process of the runtime is killed. A new one is started, and the next message wakes the
agent with its memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import psutil

from ray_agents.client import Client
from ray_agents.cluster.attach import ClusterRuntime, attach
from ray_agents.cluster.head import store_below
from ray_agents.cluster.launch import start_ray, stop_ray
from ray_agents.cluster.running import RunningRay, recorded
from ray_agents.demo import registry
from ray_agents.errors import RuntimeUnavailable
from ray_agents.events import WakeRecorded, WakeStatus
from ray_agents.settings import Settings
from ray_agents.terminal import tables
from ray_agents.terminal.screen import Screen
from ray_agents.views import EntityView, Status

QUESTION = "Hello! My name is Ada. What is (17 + 4) * 2?"
SECOND = "What is my name, and what did I ask you first?"
ASLEEP_WITHIN = timedelta(seconds=60)
LOOK_SECONDS = 0.2


def run_demo(settings: Settings, *, screen: Screen) -> None:
    """Show it all on ``screen``; the store is a folder ``demo`` beside the usual one.

    Raises:
        RuntimeUnavailable: Ray does not start, or the agent does not fall asleep in time.
    """
    demo = replace(settings, store=store_below(settings.store, "demo"), url=None)
    address = f"/assistant/demo-{int(time.time())}"
    with _model(demo, screen) as with_model:
        try:
            _first_life(with_model, address, screen)
            _kill_everything(with_model, screen)
            _second_life(with_model, address, screen)
        finally:
            _end(with_model)
    _say(screen, f"Its log stays in {demo.store}; `ray-agents start` runs your own agents.")


def _first_life(settings: Settings, address: str, screen: Screen) -> None:
    with _runtime(settings, screen) as client:
        client.register(registry, source="ray_agents.demo:registry")
        _say(screen, f"1. An agent is spawned at {address} and asked something.")
        client.spawn(address)
        _ask(client, address, QUESTION, screen=screen)
        awake = client.inspect(address)
        _say(screen, "2. It has nothing to do, so it falls asleep: its process ends.")
        asleep = _until_asleep(client, address)
        screen.show(tables.entities([asleep], now=time.time_ns() // 1000))
        _show_process(awake, screen)


def _second_life(settings: Settings, address: str, screen: Screen) -> None:
    with _runtime(settings, screen) as client:
        _say(screen, "4. The next message wakes it in a new process, with its memory.")
        _ask(client, address, SECOND, screen=screen)
        _until_asleep(client, address)
        screen.show(tables.entities([client.inspect(address)], now=time.time_ns() // 1000))


@contextmanager
def _runtime(settings: Settings, screen: Screen) -> Generator[Client]:
    with screen.busy("starting a local Ray"):
        start_ray(settings)
        attachment = attach(settings)
        client = Client(ClusterRuntime(settings, attachment), attachment.detach)
    with client:
        yield client


def _ask(client: Client, address: str, question: str, *, screen: Screen) -> None:
    """Send a message and tell what happens, as it happens, until it is handled."""
    before = client.inspect(address).events
    receipt = client.send(address, {"text": question})
    transcript = screen.transcript(address)
    for event in client.observe(address, offset=before):
        screen.write(transcript.tell(event))
        if event.type == WakeRecorded.TYPE:
            wake = WakeRecorded.of(event)
            mine = wake.from_offset <= receipt.offset < wake.to_offset
            if mine and wake.status is WakeStatus.PARKED:
                raise RuntimeUnavailable(f"the demo's agent failed: {wake.error}")
            if mine and wake.closed:
                break
    screen.write(transcript.close())


def _until_asleep(client: Client, address: str) -> EntityView:
    end = time.monotonic() + ASLEEP_WITHIN.total_seconds()
    while time.monotonic() < end:
        view = client.inspect(address)
        if view.status is Status.SLEEPING:
            return view
        time.sleep(LOOK_SECONDS)
    raise RuntimeUnavailable(f"{address} did not fall asleep within {ASLEEP_WITHIN}")


def _show_process(view: EntityView, screen: Screen) -> None:
    """Say what became of the process that the agent lived in."""
    end = time.monotonic() + ASLEEP_WITHIN.total_seconds()
    while view.pid is not None and psutil.pid_exists(view.pid) and time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
    there = view.pid is not None and psutil.pid_exists(view.pid)
    screen.show(f"   process {view.pid} of host {view.host}: {'still there' if there else 'gone'}")


def _kill_everything(settings: Settings, screen: Screen) -> None:
    """End every process of the runtime the hard way, as a power cut would."""
    running = recorded(settings)
    if running is None:
        raise RuntimeUnavailable("the demo's runtime has gone already")
    count = _kill(running)
    _say(screen, f"3. kill -9: all {count} processes of the runtime are killed. A new one starts.")


def _kill(running: RunningRay) -> int:
    victims: dict[int, psutil.Process] = {}
    for mark in running.processes:
        process = mark.find()
        if process is not None:
            for each in [process, *process.children(recursive=True)]:
                victims[each.pid] = each
    for process in victims.values():
        process.kill()
    psutil.wait_procs(list(victims.values()), timeout=10)
    return len(victims)


def _end(settings: Settings) -> None:
    """Stop what runs, within the stop deadline; a second Ctrl-C does not keep us from it."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        if recorded(settings) is not None:
            stop_ray(settings)
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _model(settings: Settings, screen: Screen) -> Generator[Settings]:
    """The settings with a model to call: as given, or the stand-in, which is said."""
    if settings.anthropic_api_key or settings.anthropic_base_url:
        yield settings
        return
    screen.show(
        "No ANTHROPIC_API_KEY is set, so a stand-in for the Messages API answers: the real SDK "
        "talks to it over HTTP, but its words come from a script."
    )
    command = [sys.executable, "-m", "ray_agents.testing.messages_api", "--port", "0"]
    with subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C is for us; we end it when we are done
    ) as server:
        try:
            url = server.stdout.readline().strip() if server.stdout else ""
            if not url.startswith("http"):
                raise RuntimeUnavailable("the stand-in Messages API did not start")
            os.environ["ANTHROPIC_BASE_URL"] = url
            yield replace(settings, anthropic_base_url=url, anthropic_api_key="stand-in")
        finally:
            server.terminate()


def _say(screen: Screen, text: str) -> None:
    screen.show(f"\n{text}")
