"""Forks: a conversation goes on twice from one point, each on its own."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.errors import EntityExists
from ray_agents.requests import ForkRequest
from tests.cluster.conftest import ask, log_of, spawned

registry = Registry()
SOURCE, FORK = "/counter/a", "/counter/b"


class Sum(BaseModel):
    key: str
    n: int


@registry.entity("counter", state={"sums": Sum})
async def counter(ctx: Any, wake: Any) -> Any:
    """Add up what it is told."""
    total = ctx.state.sums.get("total").n if "total" in ctx.state.sums else 0
    ctx.state.sums.upsert({"key": "total", "n": total + wake.payload})
    return total + wake.payload


@pytest.fixture(autouse=True)
async def registered(runtime: LocalRuntime) -> None:
    await runtime.register(registry)


async def test_both_go_on_from_the_fork_each_on_its_own(runtime: LocalRuntime) -> None:
    source = await spawned(runtime, SOURCE)
    assert (await ask(runtime, source, 1)).value == 1
    view = await runtime.fork(source, ForkRequest(to=FORK))
    fork = Address.parse(FORK)
    assert (await ask(runtime, source, 10)).value == 11
    assert (await ask(runtime, fork, 100)).value == 101
    at = view.forked_from.offset if view.forked_from else 0
    ours, theirs = await log_of(runtime, fork), await log_of(runtime, source)
    assert [e for e in ours if e.offset < at] == [e for e in theirs if e.offset < at]
    with pytest.raises(EntityExists):
        await runtime.fork(source, ForkRequest(to=FORK))
