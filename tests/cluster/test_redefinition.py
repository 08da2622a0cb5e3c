"""A type defined anew: the new version from the next wake on, the old one for what runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from ray_agents.client import Client
from ray_agents.definition import Definition
from ray_agents.events import WakeRecorded, WakeStatus
from ray_agents.testing import local_client

ADA = "/bot/ada"


def cell(answer: str, *, begun: Path, gate: Path) -> Definition:
    """What a notebook cell defines; the handler waits until ``gate`` is there."""

    async def bot(ctx: Any, wake: Any) -> str:
        await asyncio.to_thread(_wait_for, gate, begun)
        return answer

    return Definition(type="bot", handler=bot)


def _wait_for(gate: Path, begun: Path) -> None:
    begun.touch()
    while not gate.exists():
        threading.Event().wait(0.01)


def versions(client: Client) -> list[int]:
    wakes = [each for each in client.observe(ADA, live=False) if each.type == WakeRecorded.TYPE]
    read = [WakeRecorded.of(each) for each in wakes]
    return [each.definition_version for each in read if each.status is WakeStatus.HANDLED]


def test_a_running_handler_ends_on_its_version_and_the_next_wake_has_the_new(
    tmp_path: Path, block_until: Callable[..., object]
) -> None:
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    with local_client() as client:
        client.register(cell("old", begun=begun, gate=gate))
        client.spawn(ADA, message="first")
        block_until(begun.exists)
        client.register(cell("new", begun=begun, gate=gate))
        gate.touch()
        assert client.ask(ADA, "second", within=timedelta(seconds=10)).value == "new"
        assert versions(client) == [1, 2]
