"""The run of the fifteen on a Ray host that is killed by its process id in the midst of it.

The keeper brings it back; the promises are those of the trials without Ray. ``POINTS`` says how
often, ``SEED`` where.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from ray_agents.address import Address
from ray_agents.client import Client
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import Body, Step
from tests.cluster.rig import Rig, closed_covers, eventually
from tests.faults.bank import FRAMES_MIN, Bank
from tests.faults.fifteen import DEEDS, SOURCE, STEPS, registry
from tests.faults.points import Point
from tests.faults.serving import serving
from tests.faults.trial import WORD_DELAY, Trial

POINTS = int(os.environ.get("POINTS", "2"))
SEED = int(os.environ.get("SEED", "1"))
RECOVERED = timedelta(seconds=60)
CLOCK_MS_MAX = 400  # less than a run takes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120 + 60 * POINTS)]


def test_a_host_on_ray_killed_in_the_midst_of_a_run_pays_and_does_nothing_twice(
    make_rig: Callable[..., Rig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deeds = tmp_path / "deeds"
    monkeypatch.setenv(DEEDS, str(deeds))
    banks = [Bank()]

    def answer(body: Body) -> Step:
        return banks[-1].answer(body)

    def wrote(frame: dict[str, Any]) -> None:
        banks[-1].wrote(frame)

    api = MessagesApi(answer, word_delay=WORD_DELAY, written=wrote)
    with serving(api):
        rig = make_rig(pool_size=0, anthropic_base_url=api.url, anthropic_api_key="stand-in")
        with rig.joined() as client:
            client.register(registry, source=SOURCE)
            for number in range(POINTS):
                chance = Random(f"{SEED} {number}")
                point = drawn(chance)
                print(f"SEED={SEED}, {number}: {point}")
                address = Address.of("clerk", f"n-{number}")
                trial = Trial(store=Path(rig.settings.store), address=address)
                banks.append(trial.bank)
                deeds.unlink(missing_ok=True)
                play(trial, rig, client, point)
                trial.check(deeds)


def drawn(chance: Random) -> Point:
    """Where a model falls silent, or any moment, a tool's among them."""
    if chance.random() < 0.5:
        return Point(kind="clock", after=chance.randint(0, CLOCK_MS_MAX))
    return Point(
        kind="frame",
        number=chance.randint(0, FRAMES_MIN),
        of=chance.randint(1, STEPS),
        after=chance.randint(0, 60),
    )


def play(trial: Trial, rig: Rig, client: Client, point: Point) -> None:
    """Let the host die there, and wait until the run has ended all the same."""
    due, name = threading.Event(), str(trial.address)
    trial.bank.kill = lambda _: due.set()
    trial.take_stock([])
    trial.bank.watch(0, point)
    client.spawn(name)
    client.send(name, "Go.", id="go")
    assert due.wait(RECOVERED.total_seconds())
    pid = client.inspect(name).pid
    assert pid is not None
    host = psutil.Process(pid)
    host.send_signal(signal.SIGKILL)
    host.wait(timeout=10)
    trial.died.append(point)
    trial.take_stock(rig.log(name))
    trial.bank.watch(0, None)
    eventually(lambda: closed_covers(rig.log(name)).get("go") == 1, within=RECOVERED)
    trial.events = rig.log(name)
