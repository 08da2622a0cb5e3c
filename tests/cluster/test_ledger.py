"""The ledger: what an entity has spent, in its own log, equal to the provider's count to the token.

The provider is the stand-in server, which bills every call it answers. A call whose answer was on
its way when the process died is billed, too, and nobody here has seen the bill: it is *uncounted*,
and the only difference there may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.agent import AgentConfig
from ray_agents.budgets import COST_MAX
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Budget, Definition, Limits, Registry
from ray_agents.errors import (
    HandlerFailed,
    InvalidDefinition,
    ModelUnavailable,
    RayAgentsError,
)
from ray_agents.events import Event, decode, encode
from ray_agents.ledger import Spent
from ray_agents.model import (
    Answered,
    ModelEvent,
    ModelRequest,
    ModelSettings,
    Usage,
    UsageSeen,
)
from ray_agents.models import anthropic
from ray_agents.models.anthropic import AnthropicModel, close_clients
from ray_agents.models.scripted import Says
from ray_agents.ports import Blobs
from ray_agents.prices import PRICES
from ray_agents.requests import ForkRequest, SendRequest
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import Answer, Body
from ray_agents.tools import tool
from tests.cluster.conftest import SOON, ask, log_of, spawned, turn_until
from tests.cluster.stores import DyingBlobs, memory

AT_ONCE = Limits(retry_delay=timedelta(milliseconds=1), attempts_max=10)
AT_MOST = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=3, cache_write_tokens=4)
STEPS = 3
registry = Registry()


@tool(idempotent=True)
async def look() -> str:
    """Look."""
    return "seen"


@registry.entity("clerk", limits=AT_ONCE, idle_timeout=timedelta(0))
async def clerk(ctx: Any, wake: Any) -> Any:
    """Run the agent; how it ended."""
    ctx.use_agent("You work.", tools=[look])
    result = await ctx.agent.run()
    return [result.usage.tokens, str(result.cost), result.stop_reason]


def well(_: ModelRequest) -> Says:
    """What costs 127 tokens."""
    return Says(text="Well.", usage=AT_MOST)


async def saying(ctx: Any, wake: Any) -> Any:
    """Say what costs 127 tokens."""
    ctx.use_agent(test_responses=well)
    return (await ctx.agent.run()).stop_reason


async def saying_at_once(ctx: Any, wake: Any) -> None:
    """Three runs side by side."""
    agents = [ctx.use_agent(test_responses=well) for _ in range(3)]
    await asyncio.gather(*(agent.run() for agent in agents))


async def unpriced(ctx: Any, wake: Any) -> None:
    """Ask a model nobody knows the price of."""
    ctx.use_agent(model="unheard-of", test_responses=well)
    await ctx.agent.run()


def defined(handler: Any, **options: Any) -> Registry:
    made = Registry()
    made.define("t", Definition(type="t", handler=handler, idle_timeout=timedelta(0), **options))
    return made


class Provider:
    """A script that bills: each call has another usage, and calls are told apart by their step."""

    def __init__(self, *, breaks: int = 0) -> None:
        self.billed: list[tuple[int, Usage]] = []
        self._breaks = breaks

    def __call__(self, body: Body) -> Answer:
        step = 1 + sum(message["role"] == "assistant" for message in body["messages"])
        number = len(self.billed)
        usage = Usage(
            input_tokens=1000 * step + number,
            output_tokens=100 + number,
            cache_read_tokens=10 * step,
            cache_write_tokens=step,
        )
        breaks = number < self._breaks
        self.billed.append((step, seen_of(usage) if breaks else usage))
        calls: list[tuple[str, dict[str, Any]]] = [("look", {})] if step < STEPS else []
        after = 4 if breaks else None
        return Answer(text=f"Step {step}.", calls=calls, usage=usage, breaks_after=after)

    @property
    def total(self) -> Usage:
        return sum((usage for _, usage in self.billed), Usage())

    @property
    def lost(self) -> list[Usage]:
        """The bills of calls that were made again: nobody has recorded their answers."""
        last = {step: number for number, (step, _) in enumerate(self.billed)}
        kept = set(last.values())
        return [usage for number, (_, usage) in enumerate(self.billed) if number not in kept]


def seen_of(usage: Usage) -> Usage:
    """What a stream says of its usage when it begins."""
    return replace(usage, output_tokens=1)


@pytest.fixture
async def clients() -> AsyncIterator[None]:
    anthropic.preload()  # importing the SDK holds the event loop up for seconds
    yield
    await close_clients()


def model_at(api: MessagesApi) -> Any:
    settings = ModelSettings(base_url=api.url, api_key="any", retry_delay=timedelta(0))

    def model_for(_: AgentConfig) -> AnthropicModel:
        return AnthropicModel(settings)

    return model_for


async def crash_once(store: Blobs, api: MessagesApi, *, crash_at: int, after: bool) -> int:
    """Let the clerk work until the store dies at its n-th write; how many writes there were."""
    died, loop = asyncio.Event(), asyncio.get_running_loop()
    dying = DyingBlobs(
        store, crash_at=crash_at, after=after, died=lambda: loop.call_soon_threadsafe(died.set)
    )
    runtime = LocalRuntime(dying, model_for=model_at(api))
    try:
        async with asyncio.TaskGroup() as group, runtime:
            work = group.create_task(ask(runtime, Address.parse("/clerk/c"), "go", "m1"))
            death = group.create_task(died.wait())
            await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
            death.cancel()
            work.cancel()
            await runtime.crash()
    except* (RayAgentsError, asyncio.CancelledError):
        pass
    return dying.writes


def summed(events: list[Event]) -> Spent:
    """What the newest row of each step says, in all."""
    newest = {event.key: event.value for event in events if event.type == "step"}
    return sum((Spent.in_row(row) for row in newest.values()), Spent())


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after it"])
async def test_the_ledger_equals_the_providers_count_after_a_crash_at_any_write(
    after: bool,
) -> None:
    """Acceptance 6: killed at every write of a run of three calls."""
    crash_at = exact = 0
    while True:
        crash_at += 1
        store, provider = memory(), Provider()
        async with LocalRuntime(store) as runtime:
            await runtime.register(registry)
            await spawned(runtime, "/clerk/c")
        async with MessagesApi(provider) as api:
            writes = await crash_once(store, api, crash_at=crash_at, after=after)
            async with LocalRuntime(store, model_for=model_at(api)) as runtime:
                exact += await check_the_ledger(runtime, provider)
        if writes < crash_at:
            break
    assert crash_at > 10
    assert exact >= crash_at - 2 * STEPS  # a call can be lost only while it is in flight


async def check_the_ledger(runtime: LocalRuntime, provider: Provider) -> bool:
    """Whether it equals the provider's count; if not, by just what was lost in flight."""
    c = Address.parse("/clerk/c")
    await ask(runtime, c, "go", "m1")
    spent = summed(await log_of(runtime, c))
    view = (await runtime.inspect(c)).spent
    assert (view.tokens, view.cost_micros) == (spent.tokens, spent.micros)
    assert view.uncounted == spent.uncounted
    lost = provider.lost
    if not lost:
        assert spent.usage == provider.total
        return True
    (usage,) = lost
    missing = provider.total - spent.usage
    assert missing in (usage, usage - seen_of(usage))
    assert spent.uncounted >= 1
    return False


@pytest.mark.usefixtures("clients")
async def test_broken_streams_are_counted_as_they_are_billed() -> None:
    provider = Provider(breaks=2)
    async with (
        MessagesApi(provider) as api,
        LocalRuntime("memory:", model_for=model_at(api)) as runtime,
    ):
        await runtime.register(registry)
        c = await spawned(runtime, "/clerk/c")
        tokens, cost, stop = (await ask(runtime, c, "go")).value
        spent = (await runtime.inspect(c)).spent
    assert len(provider.billed) == STEPS + 2
    assert (tokens, stop) == (provider.total.tokens, "end_turn")
    assert spent.tokens == provider.total.tokens
    assert spent.uncounted == 2
    price = PRICES.of(AgentConfig().model)
    assert price is not None
    micros = sum(price.micros(usage) for _, usage in provider.billed)
    assert spent.cost_micros == micros == Decimal(cost).scaleb(6)


class GoesAway:
    """A model whose first answer never comes, though its prompt is billed."""

    provider = "scripted"

    def __init__(self) -> None:
        self._asked = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        self._asked += 1
        if self._asked == 1:
            yield UsageSeen(usage=Usage(input_tokens=7))
            raise ModelUnavailable("it is gone", model=request.model)
        yield Answered(content=[], stop_reason="end_turn", usage=AT_MOST)


async def test_what_a_failed_attempt_has_cost_is_in_the_ledger_and_once() -> None:
    model = GoesAway()
    async with LocalRuntime("memory:", model_for=lambda _: model) as runtime:
        await runtime.register(registry)
        c = await spawned(runtime, "/clerk/c")
        await ask(runtime, c, "go")
        spent = (await runtime.inspect(c)).spent
        recorded = summed(await log_of(runtime, c))
    assert (spent.tokens, spent.uncounted) == (7 + AT_MOST.tokens, 1)
    assert (recorded.tokens, recorded.uncounted) == (spent.tokens, spent.uncounted)


async def test_runs_side_by_side_add_up() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(defined(saying_at_once))
        t = await spawned(runtime, "/t/a")
        await ask(runtime, t, "go")
        assert (await runtime.inspect(t)).spent.tokens == 3 * AT_MOST.tokens


@pytest.mark.parametrize(
    "budget", [Budget(tokens_max=200), Budget(cost_max=Decimal("0.0005"))], ids=["tokens", "cost"]
)
async def test_an_entity_whose_budget_is_used_up_calls_no_model_any_more(budget: Budget) -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(defined(saying, budget=budget))
        t = await spawned(runtime, "/t/a")
        replies = [await ask(runtime, t, "go") for _ in range(4)]
        said = ["end_turn", "end_turn", "budget", "budget"]
        assert [reply.value for reply in replies] == said
        assert [reply.stop_reason for reply in replies] == said
        await turn_until(lambda: not runtime.hosts.host.awake)
        view = await runtime.inspect(t)
        assert view.over_budget
        assert view.spent.tokens == 2 * AT_MOST.tokens
        runs = [event.value for event in await log_of(runtime, t) if event.type == "run"]
        assert runs[-1]["finish_reason"] == "budget"


async def test_a_wake_that_is_skipped_before_its_end_is_durable_is_counted_once() -> None:
    store = DyingBlobs(memory(), far=True)

    class Gone:
        """A model that counts a prompt and is gone; from then on nothing reaches the medium."""

        provider = "gone"

        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
            yield UsageSeen(usage=AT_MOST)
            store.writing.acquire()
            raise ModelUnavailable("gone", model=request.model)

    limits = Limits(attempts_max=1)
    async with LocalRuntime(store, model_for=lambda _: Gone()) as runtime:
        await runtime.register(defined(saying, limits=limits))
        t = await spawned(runtime, "/t/a")
        await runtime.send(t, SendRequest(payload="go"))
        while not (await runtime.inspect(t)).parked:  # noqa: ASYNC110 - before that is durable
            await asyncio.sleep(0)
        async with asyncio.TaskGroup() as group:
            group.create_task(runtime.skip(t))
            for _ in range(20):
                await asyncio.sleep(0)
            store.writing.release()
        spent = (await runtime.inspect(t)).spent
        steps = summed(await log_of(runtime, t))
    assert (spent.tokens, spent.uncounted) == (AT_MOST.tokens, 1)
    assert (steps.tokens, steps.uncounted) == (AT_MOST.tokens, 1)


async def test_a_sleeper_shows_what_it_has_spent_and_nobody_is_over_no_budget() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(defined(saying))
        t = await spawned(runtime, "/t/a")
        await ask(runtime, t, "go")
        awake = await runtime.inspect(t)
        await turn_until(lambda: not runtime.hosts.host.awake)
        asleep = await runtime.inspect(t)
    assert awake.spent == asleep.spent
    assert asleep.spent.cost_micros == 410
    assert not asleep.over_budget


async def test_a_fork_and_a_new_life_begin_with_nothing_spent() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(defined(saying))
        t = await spawned(runtime, "/t/a")
        await ask(runtime, t, "go")
        forked = await runtime.fork(t, ForkRequest(to="/t/b"))
        assert forked.spent.tokens == 0
        await runtime.kill(t)
        await spawned(runtime, "/t/a")
        assert (await runtime.inspect(t)).spent.tokens == 0


async def test_what_has_no_price_is_unknown_and_not_nothing() -> None:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(defined(unpriced))
        t = await spawned(runtime, "/t/a")
        await ask(runtime, t, "go")
        spent = (await runtime.inspect(t)).spent
    assert (spent.cost_micros, spent.unpriced_tokens) == (None, AT_MOST.tokens)


async def test_a_budget_of_money_refuses_a_model_without_a_price() -> None:
    limits = Limits(attempts_max=1)
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(defined(unpriced, budget=Budget(cost_max=Decimal(1)), limits=limits))
        t = await spawned(runtime, "/t/a")
        with pytest.raises(HandlerFailed, match="no price of 'unheard-of'"):
            await runtime.ask(t, SendRequest(payload="go"), within=SOON)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tokens_max": 0}, r"Budget\(tokens_max=0\): more than nothing"),
        ({"tokens_max": "9"}, r"Budget\(tokens_max='9'\): a whole number"),
        ({"tokens_max": True}, "a whole number"),
        ({"tokens_max": 9.5}, "a whole number"),
        ({"cost_max": Decimal(0)}, "more than nothing"),
        ({"cost_max": Decimal(-1)}, r"Budget\(cost_max=Decimal\('-1'\)\): more than nothing"),
        ({"cost_max": -1}, "more than nothing"),
        ({"cost_max": 0.5}, "write dollars exactly"),
        ({"cost_max": "5"}, "write dollars exactly"),
        ({"cost_max": True}, "write dollars exactly"),
        ({"cost_max": Decimal("NaN")}, "write dollars exactly"),
        ({"cost_max": Decimal("1e400")}, "at most 1,000,000,000 dollars"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidDefinition, match=told):
        Budget(**wrong)


@pytest.mark.parametrize("budget", [Budget(cost_max=Decimal("0.1")), Budget(tokens_max=9)])
def test_a_budget_is_read_back_to_the_cent(budget: Budget) -> None:
    assert Budget.of_row(decode(encode(budget.as_row()))) == budget


def test_a_budget_may_be_as_large_as_money_goes() -> None:
    assert Budget(cost_max=COST_MAX).limits == {"micros": 10**15}


@pytest.mark.parametrize("unpriced", [0, AT_MOST.tokens])
def test_what_a_row_says_was_spent_is_read_back(unpriced: int) -> None:
    spent = Spent(usage=AT_MOST, unpriced=unpriced, uncounted=2)
    assert Spent.in_row(spent.as_row()) == spent


async def test_a_definition_with_another_budget_is_another_version() -> None:
    async with LocalRuntime("memory:") as runtime:
        versions = [
            (await runtime.register(defined(saying, budget=budget)))[0].version
            for budget in (Budget(), Budget(), Budget(tokens_max=5), Budget(tokens_max=6))
        ]
    assert versions == [1, 1, 2, 3]
