"""What a host remembers of its sleepers is small, and never more than their logs say."""

from __future__ import annotations

from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.calls import Release
from ray_agents.cluster.local import LocalRuntime
from ray_agents.cluster.sleepers import STATE_CHARS_MAX, Left, Sleepers
from ray_agents.definition import Limits, Registry
from ray_agents.requests import SendRequest, SpawnRequest
from tests.cluster.conftest import spawned

registry = Registry()


@registry.entity("calm")
async def calm(ctx: Any, wake: Any) -> None:
    """Only receive."""


@registry.entity("broken", limits=Limits(attempts_max=1))
async def broken(ctx: Any, wake: Any) -> None:
    raise ValueError("x" * STATE_CHARS_MAX)


async def left(runtime: LocalRuntime, address: Address) -> Left:
    await runtime.hosts.call(address, Release())
    sleepers: Sleepers = vars(runtime.hosts.host)["_sleepers"]
    found = sleepers.recall(address)
    assert found is not None
    return found


@pytest.mark.parametrize(("size", "kept"), [(10, True), (STATE_CHARS_MAX, False)])
async def test_arguments_count(runtime: LocalRuntime, size: int, kept: bool) -> None:
    await runtime.register(registry)
    c = Address.parse("/calm/c")
    await runtime.spawn(c, SpawnRequest(args={"text": "x" * size}))
    assert ((await left(runtime, c)).state is not None) is kept


async def test_a_parked_wake_is_left_to_the_log(runtime: LocalRuntime, wait_until: Any) -> None:
    await runtime.register(registry)
    b = await spawned(runtime, "/broken/b")
    await runtime.send(b, SendRequest(payload=1))
    await wait_until(lambda: runtime.hosts.host.awake[0].state.parked)
    assert (await left(runtime, b)).state is None
