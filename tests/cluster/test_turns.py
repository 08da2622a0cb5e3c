"""An entity that waits for its turn at a model says so, and goes on when it has come.

In a world with its own time (:mod:`tests.simulation.world`), so nobody is ever late; but for one
test, of the real SDK.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from random import Random
from typing import Any, TypeVar

from ray_agents.address import Address
from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Packed, Registry
from ray_agents.gateway import Gateway
from ray_agents.model import Answered, ModelEvent, ModelRequest, ModelSettings
from ray_agents.models.anthropic import close_clients, preload
from ray_agents.models.choice import chooser
from ray_agents.models.retrying import Retrying
from ray_agents.pacing import Allowance
from ray_agents.requests import ListQuery, SendRequest
from ray_agents.sharing import ModelKey
from ray_agents.terminal.tables import status
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import CROWDED, Refusal
from ray_agents.views import EntityView, Status
from tests.cluster.conftest import spawned
from tests.simulation.world import SeededClock, World, options

T = TypeVar("T")
LONG = timedelta(minutes=1)  # for a machine that has much else to do
registry = Registry()


@registry.entity("asker", placement=Packed())
async def asker(ctx: Any, wake: Any) -> str:
    """Ask the model once."""
    ctx.use_agent("Answer.")
    return (await ctx.agent.run()).text


@registry.entity("both", placement=Packed())
async def both(ctx: Any, wake: Any) -> list[str]:
    """Ask the model twice, at once."""
    ctx.use_agent("Answer.")
    runs = [asyncio.create_task(ctx.agent.run(word)) for word in ("one", "two")]
    return [(await run).text for run in runs]


class Provider:
    """A model at a gateway; its answers take so many seconds each."""

    provider = "test"

    def __init__(self, gateway: Gateway, *seconds: int) -> None:
        self._retrying = Retrying(settings=ModelSettings(), gateway=gateway)
        self._seconds = iter(seconds)
        self.in_flight = self.most = self.sent = self.answered = 0

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        key = ModelKey("test", "u", request.model, "")
        return self._retrying.events(self._answer, model=request.model, base_url="u", key=key)

    async def _answer(self) -> AsyncGenerator[ModelEvent, None]:
        self.sent += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(next(self._seconds))
        finally:
            self.in_flight -= 1
        self.answered += 1
        text = {"type": "text", "text": f"{self.answered}"}
        yield Answered(content=[text], stop_reason="end_turn")


def play(scene: Callable[[LocalRuntime, Provider], Awaitable[T]], *seconds: int) -> T:
    """What a scene gives in a world whose provider allows one call at once."""

    async def whole() -> T:
        clock = SeededClock()
        allowance = Allowance(calls_max=1)
        gateway = Gateway("here", clock=clock, allowance_of=lambda _: allowance)
        provider = Provider(gateway, *seconds)
        async with LocalRuntime(
            model_for=lambda _: provider, gateway=gateway, **options(Random(4), clock)
        ) as runtime:
            await runtime.register(registry)
            return await scene(runtime, provider)

    with asyncio.Runner(loop_factory=World) as runner:
        return runner.run(whole())


def test_who_waits_for_a_turn_says_so_in_inspect_and_in_lists() -> None:
    async def scene(runtime: LocalRuntime, provider: Provider) -> tuple[list[EntityView], Any]:
        names = [await spawned(runtime, f"/asker/{name}") for name in "abc"]
        for name in names:
            await runtime.send(name, SendRequest(payload="?"))
            await asyncio.sleep(0.01)
        views = [await runtime.inspect(name) for name in names]
        return views, await runtime.list(ListQuery(type="asker", status=Status.WAITING))

    views, page = play(scene, 1, 1, 1)
    assert [view.status for view in views] == [Status.RUNNING, Status.WAITING, Status.WAITING]
    assert views[2].waiting_for == "model claude-sonnet-5-5 (1 ahead)"
    assert str(status(views[1])) == "waiting for model claude-sonnet-5-5 (0 ahead)"
    assert [view.address for view in page.items] == ["/asker/b", "/asker/c"]


def test_who_waits_can_be_interrupted_and_who_is_killed_gives_its_turn_back() -> None:
    async def scene(runtime: LocalRuntime, provider: Provider) -> None:
        names = [await spawned(runtime, f"/asker/{name}") for name in "abc"]
        for name in names:
            await runtime.send(name, SendRequest(payload="?"))
            await asyncio.sleep(0.01)
        await runtime.interrupt(names[1])
        view = await runtime.inspect(names[2])
        assert view.waiting_for == "model claude-sonnet-5-5 (0 ahead)"
        await asyncio.sleep(0.01)
        view = await runtime.inspect(names[1])
        assert (view.backlog, view.waiting_for, view.spent.uncounted) == (0, None, 0)
        assert (provider.sent, provider.answered) == (1, 0)
        await runtime.kill(names[0])
        await asyncio.sleep(2)
        assert (provider.sent, provider.answered, provider.in_flight) == (2, 1, 0)

    play(scene, 60, 1)


def test_the_calls_of_tasks_that_a_handler_starts_are_its_entitys() -> None:
    async def scene(runtime: LocalRuntime, provider: Provider) -> None:
        name = await spawned(runtime, "/both/a")
        asking = asyncio.create_task(runtime.ask(name, SendRequest(payload="?"), within=LONG))
        await asyncio.sleep(0.5)
        view = await runtime.inspect(name)
        assert view.waiting_for == "model claude-sonnet-5-5 (0 ahead)"
        assert sorted((await asking).value) == ["1", "2"]
        assert provider.most == 1

    play(scene, 1, 1)


async def test_a_refused_call_waits_and_is_made_again_and_parks_nothing() -> None:
    preload()
    script = [CROWDED, *[Refusal(retry_after=timedelta(milliseconds=20))] * 6, "So."]
    gateway = Gateway("here", clock=SystemClock())
    async with AsyncExitStack() as open_:
        api = await open_.enter_async_context(MessagesApi(script))
        open_.push_async_callback(close_clients)
        settings = ModelSettings(base_url=api.url, retries_max=0)
        model_for = chooser(settings, gateway=gateway)
        runtime = LocalRuntime(model_for=model_for, gateway=gateway)
        await open_.enter_async_context(runtime)
        await runtime.register(registry)
        name: Address = await spawned(runtime, "/asker/a")
        reply = await runtime.ask(name, SendRequest(payload="?"), within=LONG)
        assert (reply.text, api.totals.refused) == ("So.", 7)
        view = await runtime.inspect(name)
        assert (view.parked, view.waiting_for) == ((), None)
