"""An entity that waits for its turn at a model says so, and goes on when it has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Packed, Registry
from ray_agents.gateway import Gateway
from ray_agents.model import ModelSettings
from ray_agents.models.choice import chooser
from ray_agents.pacing import Allowance
from ray_agents.requests import ListQuery, SendRequest
from ray_agents.terminal.tables import status
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import CROWDED, Answer, Refusal
from ray_agents.views import Status
from tests.cluster.conftest import SOON, spawned
from tests.conftest import Wait

registry = Registry()


@registry.entity("asker", placement=Packed())
async def asker(ctx: Any, wake: Any) -> str:
    """Ask the model once."""
    ctx.use_agent("Answer.")
    return (await ctx.agent.run()).text


@pytest.fixture
async def api() -> AsyncIterator[MessagesApi]:
    """Takes one call at once; its first answer never ends by itself."""
    script = [Answer(text="slow and slow", stalls_after=2), *["So."] * 9]
    async with MessagesApi(script, concurrent_max=1) as api:
        yield api


def local(api: MessagesApi, allowance: Allowance, **options: Any) -> LocalRuntime:
    settings = ModelSettings(base_url=api.url, **options)
    gateway = Gateway("here", clock=SystemClock(), allowance_of=lambda _: allowance)
    return LocalRuntime(model_for=chooser(settings, gateway=gateway), gateway=gateway)


async def waits(runtime: LocalRuntime, name: Address) -> bool:
    return (await runtime.inspect(name)).waiting_for is not None


async def rests(runtime: LocalRuntime, name: Address) -> bool:
    view = await runtime.inspect(name)
    return view.backlog == 0 and view.status is not Status.RUNNING and view.waiting_for is None


async def test_who_waits_for_a_turn_says_so_in_inspect_and_in_lists(
    api: MessagesApi, wait_until: Wait
) -> None:
    async with local(api, Allowance(calls_max=1)) as runtime:
        await runtime.register(registry)
        names = [await spawned(runtime, f"/asker/{name}") for name in "abc"]
        await runtime.send(names[0], SendRequest(payload="?"))
        await wait_until(lambda: api.totals.calls == 1)
        for name in names[1:]:
            await runtime.send(name, SendRequest(payload="?"))
            await wait_until(partial(waits, runtime, name))
        views = [await runtime.inspect(name) for name in names]
        assert [view.status for view in views] == [Status.RUNNING, Status.WAITING, Status.WAITING]
        assert views[2].waiting_for == "model claude-sonnet-5-5 (1 ahead)"
        assert str(status(views[1])) == "waiting for model claude-sonnet-5-5 (0 ahead)"
        page = await runtime.list(ListQuery(type="asker", status=Status.WAITING))
        assert [view.address for view in page.items] == ["/asker/b", "/asker/c"]
        await runtime.interrupt(names[1])
        view = await runtime.inspect(names[2])
        assert view.waiting_for == "model claude-sonnet-5-5 (0 ahead)"
        await wait_until(partial(rests, runtime, names[1]))
        assert (await runtime.inspect(names[1])).spent.uncounted == 0
        await runtime.kill(names[0])
        await wait_until(lambda: api.totals.whole == 1)


async def test_a_refused_call_waits_and_is_made_again_and_parks_nothing(
    wait_until: Wait,
) -> None:
    script = [CROWDED, *[Refusal(retry_after=timedelta(milliseconds=20))] * 6, "So."]
    async with MessagesApi(script) as api, local(api, Allowance(), retries_max=0) as runtime:
        await runtime.register(registry)
        name = await spawned(runtime, "/asker/a")
        reply = await runtime.ask(name, SendRequest(payload="?"), within=SOON)
        assert (reply.text, api.totals.refused) == ("So.", 7)
        view = await runtime.inspect(name)
        assert (view.parked, view.waiting_for) == ((), None)


async def test_the_calls_of_tasks_that_a_handler_starts_are_its_entitys() -> None:
    @registry.entity("both", placement=Packed())
    async def both(ctx: Any, wake: Any) -> list[str]:
        ctx.use_agent("Answer.")
        runs = [asyncio.create_task(ctx.agent.run(word)) for word in ("one", "two")]
        return [(await run).text for run in runs]

    async with (
        MessagesApi(["1", "2"], concurrent_max=1) as api,
        local(api, Allowance(calls_max=1)) as runtime,
    ):
        await runtime.register(registry)
        name = await spawned(runtime, "/both/a")
        reply = await runtime.ask(name, SendRequest(payload="?"), within=SOON)
        assert sorted(reply.value) == ["1", "2"]
        assert api.totals.refused == 0
